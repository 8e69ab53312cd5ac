"""Authors' replies: written, proved against a local repository host and a local ORCID, decided on, shown, changed."""

import html
import itertools
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

pytestmark = pytest.mark.usefixtures("store")
ADDRESSES = itertools.count(1)
ORCID = "0000-0002-1825-0097"  # of ORCID's own example record, Josiah Carberry


class Outside:
    """A repository host and ORCID in one. files: by path; asked: what came in; person: whom ORCID names."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        self.person: dict[str, Any] = {"name": "Josiah Carberry", "orcid": ORCID}
        self.agents: set[str] = set()
        self.url = ""


@pytest.fixture
def outside() -> Iterator[Outside]:
    told = Outside()

    class Handler(BaseHTTPRequestHandler):
        def reply(self, status: int, body: bytes, kind: str = "text/plain") -> None:
            told.agents.add(self.headers.get("User-Agent", ""))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            told.asked.append((self.path, {}))
            found = told.files.get(self.path)
            self.reply(404 if found is None else 200, found or b"404: Not Found")

        def do_POST(self) -> None:
            """The token endpoint as ORCID's documentation has it: a form, JSON back, a code that counts once."""
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            told.asked.append((self.path, form))
            good = self.path == "/oauth/token" and {name: form.get(name, [""])[0] for name in form} == {
                "client_id": "APP-TEST", "client_secret": "hush", "grant_type": "authorization_code", "code": "Q70Y3A",
                "redirect_uri": "http://localhost/replies/orcid",
            }  # fmt: skip
            if not good or self.headers["Accept"] != "application/json":
                return self.reply(400, b'{"error":"invalid_grant","error_description":"Invalid authorization code"}')
            body = {"access_token": "f5af9f51", "token_type": "bearer", "refresh_token": "1725f653",
                    "expires_in": 631138518, "scope": "/authenticate", **told.person}  # fmt: skip
            return self.reply(200, json.dumps(body).encode(), "application/json")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    told.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield told
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def configured(store: None, outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings

    monkeypatch.setattr(settings, "PAPERLAB_LOCAL", False)
    monkeypatch.setattr(settings, "PAPERLAB_REPLIES", ("code", "orcid"))
    monkeypatch.setattr(
        settings, "PAPERLAB_REPOSITORIES", {"github.com": f"{outside.url}/{{repository}}/HEAD/{{file}}"}
    )
    monkeypatch.setattr(settings, "PAPERLAB_ORCID", outside.url)
    monkeypatch.setattr(settings, "PAPERLAB_ORCID_CLIENT", "APP-TEST")
    monkeypatch.setattr(settings, "PAPERLAB_ORCID_SECRET", "hush")


@pytest.fixture
def paper() -> Any:
    from paperlab.site.store.models import Paper

    return Paper.objects.create(
        arxiv="2403.02775", slug="easyquant", title="EasyQuant", title_key="easyquant",
        authors=["Ann Other", "Josiah S. Carberry"], code="https://github.com/lab/easy.quant",
    )  # fmt: skip


def browser(email: str = "", **more: Any) -> Any:
    from django.contrib.auth.models import User
    from django.test import Client

    one = Client(headers={"host": "localhost"}, REMOTE_ADDR=f"198.18.0.{next(ADDRESSES) % 250}")
    if email:
        one.force_login(User.objects.get_or_create(username=email, email=email, **more)[0])
    return one


def text(answer: Any) -> str:
    return html.unescape(answer.content.decode())


def written(by: Any, claim: str = "easyquant:better-than-rtn") -> str:
    form = {"claim": claim, "name": "Josiah Carberry", "body": "Use *128* groups. <script>alert(1)</script>"}
    answer = by.post("/papers/easyquant/reply", form)
    assert answer.status_code == 302, text(answer)
    return str(answer["Location"])


def approved(at: str, do: str = "show") -> None:
    chief = browser("chief@example.org", is_staff=True)
    number = at.rpartition("/")[2]
    found = re.search(
        rf'name="reply" value="{number}"><input type="hidden" name="mark" value="(\w+)"', text(chief.get("/replies"))
    )
    assert found
    assert chief.post("/replies", {"reply": number, "mark": found[1], "do": do}).status_code == 302


def test_a_line_in_the_repository_proves_and_the_owner_decides(paper: Any, outside: Outside) -> None:
    from paperlab.site.replies import actions

    author = browser("author@example.org")
    at = written(author)
    line = re.search(r'<pre id="line">(paperlab-author-\w{24})</pre>', text(author.get(at)))
    assert line
    assert "Reply of an author" not in text(browser().get("/papers/easyquant"))
    author.post(at, {"do": "check"})
    assert actions.check()
    assert "Not verified: none of paperlab.txt, README.md" in text(author.get(at))
    assert [path for path, _ in outside.asked] == [
        f"/lab/easy.quant/HEAD/{name}" for name in ("paperlab.txt", "README.md", "README.rst", "README")
    ]
    outside.files["/lab/easy.quant/HEAD/README.md"] = f"# EasyQuant\n\n<!-- {line[1]} -->\n".encode()
    author.post(at, {"do": "check"})
    assert actions.check()
    assert not actions.check()
    assert "waits for the site's owner" in text(author.get(at))
    assert "Reply of an author" not in text(browser().get("/papers/easyquant"))
    approved(at)
    page = browser().get("/papers/easyquant").content.decode()
    claim = page.partition('id="claim-better-than-rtn')[2].partition("</section>")[0]
    assert "Reply of an author: <bdi>Josiah Carberry</bdi>" in claim
    assert 'href="https://github.com/lab/easy.quant"' in claim
    assert "Use <em>128</em> groups." in claim
    assert "<script>alert(1)" not in page
    assert page.count("Reply of an author:") == 1
    assert all(agent.startswith("paperlab/") for agent in outside.agents)


def test_another_accounts_line_proves_nothing(paper: Any, outside: Outside) -> None:
    from paperlab.site.replies import actions

    author, eve = browser("author@example.org"), browser("eve@example.org")
    theirs = re.search(r'<pre id="line">([^<]+)<', text(author.get(written(author))))
    assert theirs
    outside.files["/lab/easy.quant/HEAD/paperlab.txt"] = theirs[1].encode()
    at = written(eve)
    eve.post(at, {"do": "check"})
    assert actions.check()
    assert "Not verified" in text(eve.get(at))
    assert author.get(at).status_code == 404
    assert author.post(at, {"do": "delete"}).status_code == 404


@pytest.mark.parametrize(
    "code",
    ["https://github.com/lab", "https://evil.example/a/b", "http://127.0.0.1/a/b", "https://github.com/../../x",
     "https://github.com/a/..", "https://github.com@evil.example/a/b", "javascript:alert(1)", ""],
)  # fmt: skip
def test_only_repositories_of_the_hosts_named_are_asked(paper: Any, outside: Outside, code: str) -> None:
    from paperlab.site.replies import actions

    paper.code = code
    paper.save()
    author = browser("author@example.org")
    at = written(author)
    assert "names no repository" in text(author.get(at))
    author.post(at, {"do": "check"})
    assert actions.check()
    assert outside.asked == []


def signed_in(by: Any, at: str, code: str = "Q70Y3A") -> Any:
    """Go to ORCID and come back, as a browser does."""
    there = by.get(f"{at}/orcid")
    assert there.status_code == 302
    asked = parse_qs(urlsplit(there["Location"]).query)
    assert urlsplit(there["Location"]).path == "/oauth/authorize"
    assert asked["scope"] == ["/authenticate"]
    assert asked["response_type"] == ["code"]
    assert asked["client_id"] == ["APP-TEST"]
    assert "hush" not in there["Location"]
    return by.get(asked["redirect_uri"][0].removeprefix("http://localhost"), {"code": code, "state": asked["state"][0]})


def test_orcid_proves_an_author_of_that_name(paper: Any, outside: Outside) -> None:
    author = browser("author@example.org")
    at = written(author, "")
    assert signed_in(author, at)["Location"] == at
    assert "waits for the site's owner" in text(author.get(at))
    approved(at)
    page = text(browser().get("/papers/easyquant"))
    assert f'href="https://orcid.org/{ORCID}"' in page
    assert "Josiah Carberry" in page


@pytest.mark.parametrize(
    ("person", "code", "said"),
    [
        ({"name": "Eve Else", "orcid": ORCID}, "Q70Y3A", "ORCID names you Eve Else, and no author"),
        ({"name": None, "orcid": ORCID}, "Q70Y3A", "your name is private there"),
        ({"name": "Josiah Carberry", "orcid": "0000-0002-1825-0098"}, "Q70Y3A", "ORCID did not say who you are"),
        ({"name": "Josiah Carberry", "orcid": ORCID}, "stale", "ORCID did not say who you are"),
    ],
)
def test_orcid_proves_nobody_else(paper: Any, outside: Outside, person: Any, code: str, said: str) -> None:
    outside.person = person
    author = browser("author@example.org")
    at = written(author)
    signed_in(author, at, code)
    assert said in text(author.get(at))
    assert "first verify that you are an author" in text(author.get(at))


def test_a_sign_in_at_orcid_is_of_who_set_out(paper: Any, outside: Outside) -> None:
    """A link that an author follows proves nothing for whoever made it, nor the other way round."""
    from paperlab.site.replies.models import Reply

    author, eve = browser("author@example.org"), browser("eve@example.org")
    hers = written(eve)
    state = parse_qs(urlsplit(eve.get(f"{hers}/orcid")["Location"]).query)["state"][0]
    assert author.get("/replies/orcid", {"code": "Q70Y3A", "state": state}).status_code == 404
    for bad in ("", "x", state[:-2]):
        assert author.get("/replies/orcid", {"code": "Q70Y3A", "state": bad}).status_code == 400
    assert outside.asked == []
    assert not Reply.objects.exclude(proof="").exists()


def test_a_changed_reply_is_read_again_and_a_refused_one_is_not_shown(paper: Any, outside: Outside) -> None:
    author = browser("author@example.org")
    at = written(author)
    signed_in(author, at)
    approved(at)
    assert "Reply of an author" in text(browser().get("/papers/easyquant"))
    author.post(at, {"name": "Josiah Carberry", "body": "Buy my book"})
    assert "Reply of an author" not in text(browser().get("/papers/easyquant"))
    approved(at, "refuse")
    assert "Buy my book" not in text(browser().get("/papers/easyquant"))
    assert "decided not to show it" in text(author.get(at))
    assert author.get("/account/export.json").json()["replies"][0]["state"] == "refused"
    author.post("/account/delete", {"word": "delete"})
    assert author.get(at).status_code == 302  # nobody is signed in any more


def test_a_decision_is_on_the_words_that_were_read(paper: Any, outside: Outside) -> None:
    author, chief = browser("author@example.org"), browser("chief@example.org", is_staff=True)
    at = written(author)
    signed_in(author, at)
    shown = dict(re.findall(r'name="(reply|mark)" value="(\w+)"', text(chief.get("/replies"))))
    author.post(at, {"name": "Josiah Carberry", "body": "Buy my book"})  # while the page of the owner is open
    answer = chief.post("/replies", {**shown, "do": "show"})
    assert answer.status_code == 409
    assert "was changed while you read it" in text(answer)
    assert "Buy my book" in text(answer)
    assert "Buy my book" not in text(browser().get("/papers/easyquant"))
    approved(at)
    assert "Buy my book" in text(browser().get("/papers/easyquant"))


def test_only_the_staff_decides_and_only_on_what_is_proved(paper: Any, outside: Outside) -> None:
    from paperlab.site.replies.models import Reply

    author = browser("author@example.org")
    at = written(author)
    number = at.rpartition("/")[2]
    assert author.get("/replies").status_code == 404
    assert author.post("/replies", {"reply": number, "do": "show"}).status_code == 404
    browser("chief@example.org", is_staff=True).post("/replies", {"reply": number, "do": "show"})
    assert Reply.objects.get().state == "unproved"


def test_what_is_wrong_is_said_and_nothing_is_lost(paper: Any) -> None:
    author = browser("author@example.org")
    for change, said in (
        ({"claim": "easyquant:nope"}, "No such claim"),
        ({"name": ""}, "Give the name"),
        ({"body": " "}, "The reply is empty"),
        ({"body": "x" * 4001}, "at most 4,000 are allowed"),
    ):
        answer = author.post("/papers/easyquant/reply", {"claim": "", "name": "A", "body": "my words", **change})
        assert answer.status_code == 400
        assert said in text(answer)
        assert change.get("body", "my words") in text(answer)
    written(author)
    again = author.post(
        "/papers/easyquant/reply", {"claim": "easyquant:better-than-rtn", "name": "A", "body": "more words"}
    )
    assert "You have replied to this already" in text(again)
    assert "more words" in text(again)


def test_a_site_that_is_not_configured_has_none_of_it(paper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings

    monkeypatch.setattr(settings, "PAPERLAB_REPLIES", ())
    author = browser("author@example.org")
    assert "Are you an author" not in text(author.get("/papers/easyquant"))
    for path in ("/papers/easyquant/reply", "/replies", "/replies/1", "/replies/1/orcid"):
        assert author.get(path).status_code == 404


def test_settings_say_what_is_wrong_with_them() -> None:
    from paperlab.site import settings

    assert settings.replies("orcid, code") == ("orcid", "code")
    with pytest.raises(settings.SettingError, match="expected code, orcid"):
        settings.replies("oricd")
    with pytest.raises(settings.SettingError, match="expected HOST="):
        settings.repositories("github.com=https://raw.example/{repository}")
