"""Personal tokens, on the wire: a real site, its forms, its API, and what lies in its database afterwards."""

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from running_site import running, within

PEOPLE = """
from django.contrib.auth.models import User
for name, staff in (("ann@example.org", False), ("ben@example.org", False), ("chief@example.org", True),
                    ("dan@example.org", False), ("eve@example.org", False)):
    user, new = User.objects.get_or_create(username=name, email=name, is_staff=staff)
    user.set_password("a long password 7")
    user.save()
"""
PAPER = "2403.02775"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens") / "home"


@pytest.fixture(scope="module")
def site(home: Path) -> Iterator[str]:
    """A site for others."""
    within(home, PEOPLE)
    with running(home, PAPERLAB_HOSTS="127.0.0.1", PAPERLAB_RATE="2/30") as address:
        yield address


class Browser:
    """Somebody who has signed in; TLS ends before the site, so its secure cookies are carried by hand."""

    def __init__(self, site: str, email: str, at: str) -> None:
        self.site, self.cookies, self.at = site, dict[str, str](), at
        answer = self.post("/sign-in", {"email": email, "password": "a long password 7"})
        assert answer.status_code == 302, answer.text

    def _kept(self, answer: httpx.Response) -> httpx.Response:
        for line in answer.headers.get_list("set-cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        return answer

    def _headers(self) -> dict[str, str]:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        secure = self.site.replace("http:", "https:")
        return {"Cookie": cookies, "X-Forwarded-For": self.at, "X-Forwarded-Proto": "https",
                "Referer": f"{secure}/", "Origin": secure}  # fmt: skip

    def get(self, path: str) -> httpx.Response:
        return self._kept(httpx.get(self.site + path, headers=self._headers(), timeout=60))

    def post(self, path: str, form: dict[str, Any]) -> httpx.Response:
        page = self.get("/sign-in" if path == "/sign-in" else "/account")
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        assert token, page.text
        return self._kept(
            httpx.post(
                self.site + path, data={**form, "csrfmiddlewaretoken": token[1]}, headers=self._headers(), timeout=60
            )
        )

    def token(self, name: str, *scopes: str, days: str = "90") -> str:
        answer = self.post("/account/tokens", {"name": name, "scope": list(scopes), "days": days})
        assert answer.status_code == 200, answer.text
        assert "no-store" in answer.headers["cache-control"]
        found = re.search(r'<pre id="secret">(plab_[\w-]{43})</pre>', answer.text)
        assert found, answer.text
        return found[1]


@pytest.fixture(scope="module")
def ann(site: str) -> Browser:
    return Browser(site, "ann@example.org", "203.0.113.1")


@pytest.fixture(scope="module")
def ben(site: str) -> Browser:
    return Browser(site, "ben@example.org", "203.0.113.2")


@pytest.fixture(scope="module")
def chief(site: str) -> Browser:
    return Browser(site, "chief@example.org", "203.0.113.3")


class Program:
    """A program with a token, at an address of its own."""

    def __init__(self, site: str, token: str | None, at: str) -> None:
        self.site = site
        self.headers = {"X-Forwarded-For": at} | ({"Authorization": f"Bearer {token}"} if token else {})

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {**self.headers, **options.pop("headers", {})}
        return httpx.request(method, f"{self.site}/api{path}", headers=headers, timeout=60, **options)


def test_a_token_is_shown_once_and_stored_hashed(site: str, home: Path, ann: Browser) -> None:
    secret = ann.token("once", "read")
    again = ann.get("/account/tokens").text
    assert secret not in again
    assert "never used" in again
    assert secret[:9] in again
    assert secret not in ann.get("/account/export.json").text
    assert ann.get("/account/export.json").json()["tokens"][0]["scopes"] == ["read"]
    files = [file for file in home.rglob("*") if file.is_file()]
    assert any(file.name.startswith("paperlab.sqlite3") for file in files)
    assert not [file for file in files if secret[5:].encode() in file.read_bytes()]
    said = Program(site, secret, "203.0.113.50")("GET", "/me/token")
    assert said.json()["scopes"] == ["read"]
    assert said.headers["cache-control"] == "private, no-store"
    assert "access-control-allow-origin" not in said.headers
    assert re.search(r"last used \d+ \w+ \d{4}", ann.get("/account/tokens").text)


def test_what_is_wrong_with_a_form_is_said_and_kept(ann: Browser) -> None:
    for form, said in (
        ({"name": "", "scope": ["read"], "days": "7"}, "A token needs a name"),
        ({"name": "x", "scope": [], "days": "7"}, "Choose at least one"),
        ({"name": "x", "scope": ["root"], "days": "7"}, "Choose at least one"),
        ({"name": "x", "scope": ["read"], "days": "8"}, "A token lasts 7, 30"),
        ({"name": "<b>x</b>" * 9, "scope": ["vote"], "days": "-1"}, "characters; at most 60"),
    ):
        answer = ann.post("/account/tokens", form)
        assert (answer.status_code, said in answer.text) == (400, True), answer.text
        assert "<b>x" not in answer.text
    ann.token("twice", "read")
    assert "You have a token named" in ann.post("/account/tokens", {"name": "twice", "scope": ["read"]}).text


EVERYTHING = [
    ("vote", "PUT", f"/me/votes/{PAPER}", None), ("vote", "DELETE", f"/me/votes/{PAPER}", None),
    ("read", "GET", "/me/votes", None), ("read", "GET", "/me/read", None), ("read", "GET", "/me/collections", None),
    ("read", "GET", "/me/comments", None), ("collect", "PUT", f"/me/read/{PAPER}", None),
    ("collect", "DELETE", f"/me/read/{PAPER}", None), ("collect", "POST", "/me/collections", {"name": "By program"}),
    ("comment", "POST", "/me/comments", {"paper": PAPER, "body": "By a program."}),
]  # fmt: skip


def test_each_scope_allows_its_own_and_nothing_else(site: str, ben: Browser) -> None:
    for number, scope in enumerate(("read", "vote", "collect", "comment", "runs")):
        ask = Program(site, ben.token(f"only {scope}", scope), f"203.0.113.{60 + number}")
        for wanted, method, path, body in EVERYTHING:
            answer = ask(method, path, json=body) if body else ask(method, path)
            assert answer.status_code == (200 if wanted == scope else 403), f"{scope}: {method} {path} {answer.text}"
            if wanted != scope:
                assert f"needs the scope {wanted}" in answer.json()["detail"]
                assert answer.headers["content-type"] == "application/problem+json"
    alone = Program(site, None, "203.0.113.70")
    for _, method, path, body in EVERYTHING:
        answer = alone(method, path, json=body) if body else alone(method, path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_program_does_what_its_owner_could_and_only_for_them(site: str, ann: Browser, ben: Browser) -> None:
    hers = Program(site, ann.token("all", "read", "vote", "collect", "comment"), "203.0.113.80")
    his = Program(site, ben.token("all", "read", "vote", "collect", "comment"), "203.0.113.81")
    for _ in range(2):  # twice is once
        assert hers("PUT", f"/me/votes/{PAPER}v2").json() == {"paper": PAPER, "voted": True, "votes": 1}
    assert [one["paper"] for one in hers("GET", "/me/votes").json()["votes"]] == [PAPER]
    assert his("GET", "/me/votes").json() == {"votes": []}
    hers("PUT", f"/me/read/{PAPER}")
    assert [one["paper"] for one in hers("GET", "/me/read").json()["read"]] == [PAPER]
    hers("DELETE", f"/me/read/{PAPER}")
    assert hers("GET", "/me/read").json() == {"read": []}  # what was marked as unread is kept, and is not read
    made = hers("POST", "/me/collections", json={"name": "Für später", "note": "x"}).json()
    assert hers("POST", "/me/collections", json={"name": "Für später"}).json() == made
    at = f"/me/collections/{made['id']}"
    assert hers("PUT", f"{at}/papers/{PAPER}", json={"note": "read the appendix"}).status_code == 200
    assert hers("PUT", f"{at}/papers/easyquant").status_code == 200  # without a note the one there stays
    kept = hers("GET", at).json()["papers"]
    assert [(one["paper"], one["note"]) for one in kept] == [(PAPER, "read the appendix")]
    assert "read the appendix" in ann.get(f"/collections/{made['id']}").text
    for method, path in (("GET", at), ("PUT", f"{at}/papers/{PAPER}"), ("DELETE", f"{at}/papers/{PAPER}")):
        assert his(method, path).status_code == 404
    said = {"paper": PAPER, "body": "**From a program** <script>alert(1)</script>"}
    first = hers("POST", "/me/comments", json=said, headers={"Idempotency-Key": "one"}).json()
    assert hers("POST", "/me/comments", json=said, headers={"Idempotency-Key": "one"}).json()["id"] == first["id"]
    page = httpx.get(f"{site}/papers/easyquant", headers={"X-Forwarded-For": "203.0.113.82"}).text
    assert page.count("<strong>From a program</strong>") == 1
    assert "<script>alert(1)" not in page
    assert hers("DELETE", f"{at}/papers/{PAPER}").json()["kept"] is False
    assert hers("DELETE", f"/me/votes/{PAPER}").json()["votes"] == 0


def test_a_token_ends_when_it_is_revoked_when_it_expires_and_with_its_owner(
    site: str, home: Path, ann: Browser, ben: Browser
) -> None:
    secret = ann.token("to revoke", "vote")
    ask = Program(site, secret, "203.0.113.90")
    assert ask("PUT", f"/me/votes/{PAPER}").status_code == 200
    number = re.search(r'name="revoke" value="(\d+)"><p><strong><bdi>to revoke', ann.get("/account/tokens").text)
    assert number
    assert ben.post("/account/tokens", {"revoke": number[1]}).status_code == 404
    assert ask("PUT", f"/me/votes/{PAPER}").status_code == 200
    assert ann.post("/account/tokens", {"revoke": number[1]}).status_code == 302
    gone = ask("PUT", f"/me/votes/{PAPER}")
    assert gone.status_code == 401
    assert "revoked" in gone.json()["detail"]
    late = ann.token("short", "read", days="7")
    with sqlite3.connect(home / "paperlab.sqlite3", timeout=30) as database:
        database.execute("UPDATE tokens_token SET expires = '2026-01-02 00:00:00' WHERE name = 'short'")
    database.close()
    answer = Program(site, late, "203.0.113.91")("GET", "/me/token")
    assert answer.status_code == 401
    assert "expired on 2026-01-02" in answer.json()["detail"]
    sleeping = Program(site, ben.token("sleeper", "read"), "203.0.113.92")
    within(home, "from django.contrib.auth.models import User\n"
                 "User.objects.filter(username='ben@example.org').update(is_active=False)")  # fmt: skip
    assert sleeping("GET", "/me/token").status_code == 401
    within(home, "from django.contrib.auth.models import User\n"
                 "User.objects.filter(username='ben@example.org').update(is_active=True)")  # fmt: skip
    assert sleeping("GET", "/me/token").status_code == 200


def test_reading_stays_keyless_and_takes_other_peoples_tokens(site: str) -> None:
    for token in (None, "hf_" + "x" * 34):  # clients of the known API send theirs everywhere
        answer = Program(site, token, "203.0.113.100")("GET", f"/papers/{PAPER}")
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, no-cache"
    forged = Program(site, "plab_" + "x" * 43, "203.0.113.101")
    assert forged("GET", f"/papers/{PAPER}").status_code == 401
    assert forged("POST", "/papers").status_code == 401
    assert Program(site, None, "203.0.113.102")("POST", "/papers").status_code == 405


def test_rates_are_those_of_the_token_and_not_of_the_address(site: str, ann: Browser) -> None:
    """Thirty at once: behind one address a second program is not stopped by the first, and another address is no way
    round for a token."""
    busy, other = ann.token("busy", "read"), ann.token("other", "read")
    at = "203.0.113.110"
    codes = [Program(site, busy, at)("GET", "/me/token").status_code for _ in range(60)]
    assert codes[0] == 200
    assert 429 in codes
    assert Program(site, other, at)("GET", "/me/token").status_code == 200
    assert Program(site, None, at)("GET", "/coverage").status_code == 200
    spent = [Program(site, busy, f"203.0.113.{111 + n}")("GET", "/me/token") for n in range(8)]
    late = next(answer for answer in spent if answer.status_code == 429)
    assert int(late.headers["retry-after"]) >= 1


def test_a_session_is_no_token_and_a_page_elsewhere_cannot_use_one(site: str, ann: Browser) -> None:
    """What a browser carries by itself counts for nothing here, so no page of another site can do a thing."""
    answer = httpx.put(f"{site}/api/me/votes/{PAPER}", headers=ann._headers())
    assert answer.status_code == 401
    asked = httpx.request("OPTIONS", f"{site}/api/me/votes/{PAPER}", headers={
        "Origin": "https://evil.example", "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "authorization", "X-Forwarded-For": "203.0.113.120",
    })  # fmt: skip
    assert "access-control-allow-origin" not in asked.headers


def test_bad_bodies_are_problems_that_name_the_field(site: str) -> None:
    eve = Browser(site, "eve@example.org", "203.0.113.5")  # who has not spent what one may write in a while
    ask = Program(site, eve.token("bodies", "collect", "comment", "runs"), "203.0.113.130")
    for path, body, said in (
        ("/me/collections", {"nam": "x"}, "name"),
        ("/me/collections", {"name": "x", "colour": "red"}, "colour"),
        ("/me/collections", {"name": " "}, "a collection needs a name"),
        ("/me/comments", {"paper": "nope", "body": "x"}, "no paper"),
        ("/me/comments", {"paper": PAPER, "body": ""}, "the comment is empty"),
        ("/me/comments", {"paper": PAPER, "body": "x" * 100_000}, "at most"),
    ):
        answer = ask("POST", path, json=body)
        assert answer.status_code in (400, 404), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert said in answer.text, answer.text
    for content in (b"", b"{", b"[]", b"\xff"):
        answer = ask("POST", "/me/collections", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    assert ask("PATCH", "/me/collections").status_code == 405
    assert ask("POST", "/me/votes").status_code == 405
    assert ask("GET", "/me/nothing").status_code == 404


def test_runs_need_the_scope_and_the_right(site: str, chief: Browser) -> None:
    dan = Browser(site, "dan@example.org", "203.0.113.4")  # who has not spent what one may write in a while
    reader = Program(site, dan.token("runs", "runs"), "203.0.113.140")
    asked = {"method": "easyquant", "claim": "better-than-rtn", "parameters": {"bits": 3}}
    refused = reader("POST", "/me/runs", json=asked)
    assert refused.status_code == 403
    assert "the site's staff" in refused.json()["detail"]
    ask = Program(site, chief.token("runs", "runs"), "203.0.113.141")
    near = ask("POST", "/me/runs", json={"method": "easyqant"})
    assert "did you mean easyquant" in near.json()["errors"][0]["detail"]
    bad = ask("POST", "/me/runs", json={**asked, "parameters": {"bit": 3}})
    assert bad.status_code == 400
    assert "bit" in bad.json()["errors"][0]["parameter"]
    row = ask("POST", "/me/runs", json=asked, headers={"Idempotency-Key": "one"}).json()
    assert ask("POST", "/me/runs", json=asked, headers={"Idempotency-Key": "one"}).json()["id"] == row["id"]
    assert (row["method"], row["claim"], row["params"]) == ("easyquant", "better-than-rtn", {"bits": 3})
    ended = ask("DELETE", f"/me/runs/{row['id']}").json()
    assert ended["state"] == "cancelled" or ended["stopping"]
    assert ask("GET", f"/me/runs/{row['id']}").status_code == 200


def test_the_document_describes_it(site: str) -> None:
    document = httpx.get(f"{site}/api/me/openapi.json").json()
    assert "/api/me/votes/{paper}" in document["paths"]
    assert set(document["paths"]["/api/me/votes/{paper}"]) == {"put", "delete"}
    assert "/api/me/votes/{paper}" not in httpx.get(f"{site}/api/openapi.json").json()["paths"]
