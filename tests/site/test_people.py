"""What people do on the site: as the one person at this machine, and as many on a public one, some of them hostile."""

import itertools
import json
from datetime import timedelta
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("store")
ADDRESSES = itertools.count(1)

HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "[x](data:text/html,a)",
    '<a href="x" onclick="alert(1)">x</a>', "![x](https://evil.example/pixel.png)", "<svg/onload=alert(1)>",
    "[x](  JaVaScRiPt:alert(1))", "<style>*{display:none}</style>", "`<script>`", "[a]: javascript:x\n\n[a]",
    "<https://ok.example/\"onmouseover=alert(1)>", "<iframe src=//evil.example>", "&lt;script&gt;",
]  # fmt: skip


@pytest.fixture
def paper() -> Any:
    from paperlab.site.store.models import Paper

    return Paper.objects.create(
        arxiv="2401.00001", title="One", title_key="one", family="quantization", authors=["A. Author"]
    )


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings

    monkeypatch.setattr(settings, "PAPERLAB_LOCAL", False)


def browser(**options: Any) -> Any:
    """A browser at an address of its own, so that no test spends another's rate."""
    from django.test import Client

    return Client(headers={"host": "localhost"}, REMOTE_ADDR=f"198.51.{next(ADDRESSES) % 250}.7", **options)


def member(email: str, **options: Any) -> Any:
    from django.contrib.auth.models import User

    one = browser(**options)
    one.force_login(User.objects.get_or_create(username=email, email=email)[0])
    return one


def here(**options: Any) -> Any:
    from django.test import Client

    return Client(headers={"host": "localhost"}, **options)


def test_at_home_nobody_signs_in(paper: Any) -> None:
    from paperlab.site.people.models import Comment, Vote

    one = here()
    assert "Sign in" not in one.get("/papers/2401.00001").content.decode()
    for _ in range(2):  # twice is once
        assert one.post("/papers/2401.00001/vote", {"on": "1"}).status_code == 302
        one.post("/papers/2401.00001/comment", {"body": "*Good.*", "once": "form"})
        one.post("/papers/2401.00001/read")
        one.post("/papers/2401.00001/keep", {"new": "Later", "note": "for Friday"})
        one.post("/follow", {"kind": "family", "value": "quantization"})
        one.post("/follow", {"kind": "claim", "value": "easyquant:better-than-rtn"})
        one.post("/follow", {"kind": "search", "value": "q=pruning&offset=20"})
    assert (Vote.objects.count(), Comment.objects.count()) == (1, 1)
    shown = one.get("/papers/2401.00001").content.decode()
    for part in ("<em>Good.</em>", "You have read this paper.", "Later", 'aria-pressed="true"'):
        assert part in shown, part
    said = json.loads(one.get("/account/export.json").content)
    assert said["collections"][0]["papers"][0]["note"] == "for Friday"
    assert {(f["kind"], f["value"]) for f in said["follows"]} == {
        ("family", "quantization"), ("claim", "easyquant:better-than-rtn"), ("search", "q=pruning"),
    }  # fmt: skip
    piece = one.post("/papers/2401.00001/vote", {"on": "0"}, headers={"HX-Request": "true"}).content.decode()
    assert 'aria-pressed="false"' in piece
    assert "<html" not in piece
    assert one.post("/account/delete", {"word": "no"}).status_code == 400
    one.post("/papers/2401.00001/vote")
    assert one.post("/account/delete", {"word": "delete"}).status_code == 200
    assert json.loads(one.get("/account/export.json").content)["comments"] == []
    assert not Vote.objects.exists()


def test_votes_and_comments_move_trending(paper: Any) -> None:
    from paperlab.site.people.counting import today
    from paperlab.site.search.trending import static, trending
    from paperlab.site.store.models import Counter

    one, before = here(), Counter.objects.filter(name="revision").values_list("value", flat=True).first() or 0
    assert trending(today()) == []
    one.post("/papers/2401.00001/vote")
    one.post("/papers/2401.00001/comment", {"body": "said"})
    assert trending(today()) == [(paper.pk, 1.5)]
    assert trending(today() + timedelta(3)) == [(paper.pk, 0.75)]
    assert set(static([paper.pk])) == {paper.pk}
    assert Counter.objects.get(name="revision").value == before + 2
    one.post("/papers/2401.00001/vote", {"on": "0"})
    assert trending(today()) == [(paper.pk, 0.5)]


@pytest.mark.parametrize("body", HOSTILE)
def test_comments_hold_no_script(paper: Any, body: str) -> None:
    import re
    from html.parser import HTMLParser

    from paperlab.site.people.markdown import html

    one = here()
    one.post("/papers/2401.00001/comment", {"body": body})
    assert one.get("/papers/2401.00001").status_code == 200
    found: list[tuple[str, dict[str, str | None]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            found.append((tag, dict(attributes)))

    Reader().feed(html(body))
    for tag, attributes in found:
        assert tag in {"p", "a", "em", "strong", "code", "pre", "blockquote", "ul", "ol", "li", "br", "hr"}, tag
        assert set(attributes) <= {"href", "rel"}
        assert re.match(r"https?://", attributes.get("href") or "https://"), attributes


def test_names_and_notes_are_shown_as_they_are(paper: Any) -> None:
    one, evil = here(), "<script>alert(1)</script>"
    one.post("/papers/2401.00001/keep", {"new": evil, "note": evil})
    one.post("/follow", {"kind": "author", "value": evil})
    for path in ("/account", "/collections", "/papers/2401.00001"):
        assert evil not in one.get(path).content.decode(), path
    where = json.loads(one.get("/account/export.json").content)["collections"]
    assert where[0]["name"] == evil


WRITES = (
    "/papers/2401.00001/vote", "/papers/2401.00001/comment", "/papers/2401.00001/read", "/papers/2401.00001/keep",
    "/follow", "/submit", "/account/delete", "/account", "/collections", "/sign-in", "/sign-out", "/subscribe",
    "/moderation", "/report/comment/1",
)  # fmt: skip


@pytest.mark.parametrize("path", WRITES)
def test_another_page_can_do_nothing(paper: Any, path: str) -> None:
    strict = here(enforce_csrf_checks=True)
    assert strict.post(path, {"word": "delete", "body": "x", "email": "a@example.org"}).status_code == 403


def test_reading_changes_nothing(paper: Any) -> None:
    from paperlab.site.people.models import Collection, Comment, Follow, Read, SignIn, Submission, Vote

    one = here()
    for path in WRITES:
        one.get(path, {"on": "1", "body": "x", "email": "a@example.org", "arxiv": "2401.00009", "do": "delete"})
    for model in (Vote, Comment, Read, Follow, Collection, Submission, SignIn):
        assert not model.objects.exists(), model


@pytest.mark.usefixtures("public")
def test_strangers_are_led_to_the_door_and_back(paper: Any) -> None:
    one = browser()
    answer = one.post("/papers/2401.00001/vote", {"next": "/papers/2401.00001"})
    assert answer.headers["Location"] == "/sign-in?next=%2Fpapers%2F2401.00001"
    assert "data-vote" not in one.get("/papers/2401.00001").content.decode()
    for path in ("/account", "/collections", "/submit", "/account/export.json"):
        assert one.get(path).headers["Location"].startswith("/sign-in?next=")


@pytest.mark.usefixtures("public")
def test_nobody_sees_or_changes_what_is_anothers(paper: Any) -> None:
    from paperlab.site.people.models import Collection, Comment

    one, other = member("one@example.org"), member("other@example.org")
    one.post("/papers/2401.00001/comment", {"body": "mine"})
    one.post("/papers/2401.00001/keep", {"new": "mine"})
    said, kept = Comment.objects.get(), Collection.objects.get()
    for path in (f"/comments/{said.pk}", f"/collections/{kept.pk}"):
        assert other.get(path).status_code == 404
        assert other.post(path, {"do": "delete", "body": "yours", "note": "x"}).status_code == 404
    assert other.post("/papers/2401.00001/keep", {"collection": kept.pk, "on": "0"}).status_code == 404
    assert Comment.objects.get().body == "mine"
    assert kept.kept.count() == 1
    assert "mine" not in json.dumps(json.loads(other.get("/account/export.json").content))
    assert "one@example.org" not in other.get("/papers/2401.00001").content.decode()
    one.post(f"/comments/{said.pk}", {"body": "changed"})
    assert Comment.objects.get().body == "changed"
    one.post(f"/comments/{said.pk}", {"do": "delete"})
    assert not Comment.objects.exists()


def letter(email: str) -> str:
    """The token in the letter that the worker would write now."""
    from paperlab.site.people import signing

    found = [(row, token) for row, token in signing.letters() if row.email == email]
    assert len(found) == 1
    assert signing.written(*found[0])
    return found[0][1]


@pytest.mark.usefixtures("public")
def test_a_mailed_link_signs_in_once() -> None:
    from paperlab.site.people.models import SignIn

    one, other = browser(), browser()
    assert one.post("/sign-in", {"email": " New@Example.org ", "next": "/account"}).status_code == 200
    token = letter("new@example.org")
    assert token not in json.dumps(list(SignIn.objects.values()), default=str)
    assert one.get(f"/sign-in/{token}").status_code == 200  # a program that reads mail spends nothing
    assert "_auth_user_id" not in one.session
    one.session["before"] = 1
    before = one.session.session_key
    answer = one.post(f"/sign-in/{token}")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/account")
    assert (
        answer.headers["Referrer-Policy"] == "same-origin"
    )  # with no-referrer, browsers send "Origin: null", which is refused
    assert one.session.session_key != before
    assert other.post(f"/sign-in/{token}").status_code == 410
    assert other.get(f"/sign-in/{token}").status_code == 410
    assert one.get("/account").status_code == 200
    assert one.post("/sign-out").status_code == 302
    assert one.get("/account").status_code == 302


@pytest.mark.usefixtures("public")
def test_a_link_is_good_for_a_quarter_of_an_hour() -> None:
    from paperlab.site.people import signing
    from paperlab.site.people.models import SignIn

    one = browser()
    one.post("/sign-in", {"email": "late@example.org"})
    token = letter("late@example.org")
    row = SignIn.objects.get()
    assert row.expires is not None
    assert row.expires - row.asked < timedelta(minutes=16)
    SignIn.objects.update(expires=row.asked)
    assert one.post(f"/sign-in/{token}").status_code == 410
    assert signing.letters() == []  # and no second letter by itself
    assert one.post("/sign-in/" + "x" * 3000).status_code == 410


@pytest.mark.usefixtures("public")
def test_nothing_tells_who_has_an_account() -> None:
    member("known@example.org")
    answers = []
    for email in ("known@example.org", "unheard@example.org"):
        answer = browser().post("/sign-in", {"email": email})
        answers.append((answer.status_code, answer.content.replace(email.encode(), b"")))
        wrong = browser().post("/sign-in", {"email": email, "password": "wrong"})
        answers.append((wrong.status_code, b"or the password is wrong" in wrong.content))
    assert answers[0] == answers[2]
    assert answers[1] == answers[3]


@pytest.mark.usefixtures("public")
def test_letters_and_passwords_are_rationed() -> None:
    statuses = [browser().post("/sign-in", {"email": "flood@example.org"}).status_code for _ in range(8)]
    assert statuses == [200] * 5 + [429] * 3  # whoever asks, one address gets few letters
    statuses = [
        browser().post("/sign-in", {"email": "forced@example.org", "password": f"{n}"}).status_code for n in range(12)
    ]
    assert statuses == [400] * 8 + [429] * 4
    one = browser()
    statuses = [one.post("/sign-in", {"email": f"a{n}@example.org"}).status_code for n in range(8)]
    assert statuses[-1] == 429


@pytest.mark.usefixtures("public")
def test_a_password_is_an_option() -> None:
    one = member("pass@example.org")
    assert one.post("/account", {"password": "12345"}).status_code == 400
    assert one.post("/account", {"password": "correct horse battery"}).status_code == 302
    assert one.get("/account").status_code == 200  # this session goes on
    other = browser()
    answer = other.post(
        "/sign-in", {"email": "Pass@example.org", "password": "correct horse battery", "next": "/submit"}
    )
    assert answer.headers["Location"] == "/submit"


@pytest.mark.usefixtures("public")
def test_a_password_is_changed_by_who_knows_it() -> None:
    """Not by whoever sits at a browser that was left open."""
    one = member("change@example.org")
    assert one.post("/account", {"password": "correct horse battery"}).status_code == 302
    assert 'name="old"' in one.get("/account").content.decode()
    for sent in ({"password": "another battery horse"}, {"old": "", "password": ""},
                 {"old": "guessed", "password": "another battery horse"}):  # fmt: skip
        answer = one.post("/account", sent)
        assert answer.status_code == 400
        assert "not your current password" in answer.content.decode()
    email = {"email": "change@example.org"}
    assert browser().post("/sign-in", {**email, "password": "another battery horse"}).status_code == 400
    changed = one.post("/account", {"old": "correct horse battery", "password": "another battery horse"})
    assert changed.status_code == 302
    assert browser().post("/sign-in", {**email, "password": "another battery horse"}).status_code == 302
    statuses = [one.post("/account", {"old": f"{n}", "password": "x" * 20}).status_code for n in range(9)]
    assert statuses[-1] == 429  # nor by who tries them all


@pytest.mark.usefixtures("public")
def test_the_administration_rations_passwords_too() -> None:
    form = {"username": "admin", "password": "guess", "next": "/admin/"}
    assert [browser().post("/admin/login/", form).status_code for _ in range(12)] == [200] * 8 + [429] * 4
    one = browser()
    statuses = [one.post("/admin/login/", {**form, "username": f"a{n}"}).status_code for n in range(12)]
    assert statuses == [200] * 8 + [429] * 4
    assert one.get("/admin/login/").status_code == 200


@pytest.mark.usefixtures("public")
def test_what_is_personal_is_kept_by_no_shared_cache(paper: Any) -> None:
    one = member("private@example.org")
    for path in ("/", "/account", "/papers/2401.00001", "/collections", "/search?q=one", "/account/export.json"):
        told = one.get(path).headers["Cache-Control"]
        assert "private" in told, path
        assert "public" not in told
    assert "public" in browser().get("/feeds/new.atom").headers["Cache-Control"]


@pytest.mark.usefixtures("public")
def test_pages_and_feeds_are_rationed_by_address(paper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from paperlab.site.api import guard, limits

    monkeypatch.setattr(guard, "PAGES", limits.Rate(0.001, 20))
    one = browser()
    statuses = [one.get(path).status_code for _ in range(15) for path in ("/robots.txt", "/feeds/new.atom")]
    assert statuses == [200] * 20 + [429] * 10
    late = one.get("/")
    assert late.status_code == 429
    assert int(late.headers["Retry-After"]) >= 1
    assert "Set-Cookie" not in late.headers
    assert one.get("/health").status_code == browser().get("/robots.txt").status_code == 200


@pytest.mark.usefixtures("public")
@pytest.mark.parametrize(
    "to",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "http:evil",
        "/%0d%0aX: y\r\n",
    ],
)
def test_no_redirect_leads_out(paper: Any, to: str) -> None:
    one = member("redirected@example.org")
    for path, sent in (("/papers/2401.00001/vote", {}), ("/follow", {"kind": "family", "value": "pruning"})):
        where = one.post(path, {**sent, "next": to}).headers["Location"]
        assert where.startswith("/"), where
        assert not where.startswith(("//", "/\\"))
        assert "\n" not in where
    two = browser()
    email = f"led{next(ADDRESSES)}@example.org"
    two.post("/sign-in", {"email": email, "next": to})
    where = two.post(f"/sign-in/{letter(email)}").headers["Location"]
    assert where.startswith("/")
    assert "evil.example" not in where.split("/")[:3]


def test_only_arxiv_ids_are_fetched(monkeypatch: pytest.MonkeyPatch, paper: Any) -> None:
    from paperlab.site.people import fetching
    from paperlab.site.people.models import Submission
    from paperlab.site.store import harvest
    from paperlab.site.store.item import SourceError

    one = here()
    for wrong in ("http://169.254.169.254/", "file:///etc/passwd", "2401.00001; x", "cat:cs.CL", "\0", "a" * 5000):
        assert one.post("/submit", {"arxiv": wrong}).status_code == 400, wrong
    assert (
        one.post("/submit", {"arxiv": "https://arxiv.org/abs/2401.00001v3"}).headers["Location"] == "/papers/2401.00001"
    )
    for form in ("2405.00009", "arXiv:2405.00009v2"):
        assert one.post("/submit", {"arxiv": form}).headers["Location"] == "/submit"
    assert Submission.objects.get().arxiv == "2405.00009"
    asked: list[str] = []

    def away(source: Any, *_: Any) -> None:
        asked.append(source.name)
        raise SourceError("arXiv is away")

    monkeypatch.setattr(harvest, "harvest", away)
    for _ in range(fetching.TRIES):
        with pytest.raises(SourceError):
            fetching.fetch()
    assert not fetching.fetch()
    assert "arXiv is away" in one.get("/submit").content.decode()
    one.post("/submit", {"arxiv": "2405.00009"})
    monkeypatch.setattr(harvest, "harvest", lambda source, *_: None)
    assert fetching.fetch()
    assert Submission.objects.get().state == "unknown"


@pytest.mark.parametrize("name", ["p@example.org", "reader 7", "You", "x" * 41])
def test_a_name_is_nobody_elses_and_no_address(paper: Any, name: str) -> None:
    one = here()
    assert one.post("/account", {"name": "Ada"}).status_code == 302
    assert one.post("/account", {"name": name}).status_code == 400
    one.post("/papers/2401.00001/comment", {"body": "Hello"})
    assert "<bdi>Ada</bdi>" in one.get("/papers/2401.00001").content.decode()
    assert one.post("/account", {"name": ""}).status_code == 302
    assert "<bdi>Ada</bdi>" not in one.get("/papers/2401.00001").content.decode()


@pytest.mark.usefixtures("public")
def test_an_account_goes_with_all_it_held(paper: Any) -> None:
    from django.contrib.auth.models import User

    from paperlab.site.people.models import Comment, Follow, Kept, Vote

    one, other = member("gone@example.org"), member("stays@example.org")
    for person in (one, other):
        person.post("/papers/2401.00001/vote")
        person.post("/papers/2401.00001/comment", {"body": "said"})
        person.post("/papers/2401.00001/keep", {"new": "list"})
        person.post("/follow", {"kind": "author", "value": "A. Author"})
    assert one.post("/account/delete", {"word": "delete"}).status_code == 200
    assert [User.objects.filter(email=e).count() for e in ("gone@example.org", "stays@example.org")] == [0, 1]
    for model in (Vote, Comment, Kept, Follow):
        assert model.objects.count() == 1, model
    assert one.get("/account").status_code == 302


def test_too_much_is_refused(paper: Any) -> None:
    one = here()
    assert one.post("/papers/2401.00001/comment", {"body": "x" * 10_001}).status_code == 400
    assert one.post("/papers/2401.00001/comment", {"body": " \n "}).status_code == 400
    assert one.post("/papers/2401.00001/comment", {"body": "x" * 1_100_000}).status_code in (400, 413)
    assert one.post("/papers/2401.00001/comment", {"body": "> " * 4000 + "deep"}).status_code == 302
    assert one.get("/papers/2401.00001").status_code == 200
    for kind, value in (("family", "nothing"), ("claim", "easyquant:no"), ("search", "year=abc"), ("evil", "x")):
        assert one.post("/follow", {"kind": kind, "value": value}).status_code == 400, kind


def test_a_page_of_cards_asks_for_its_votes_once(paper: Any) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from paperlab.site.store.models import Paper

    for number in range(2, 22):
        Paper.objects.create(
            arxiv=f"2401.{number:05d}", title=f"P{number}", title_key=f"{number}", published="2024-01-02"
        )
    one = here()
    one.get("/papers")
    with CaptureQueriesContext(
        connection,
    ) as asked:
        assert one.get("/papers").status_code == 200
    assert sum('"people_vote"' in query["sql"] for query in asked.captured_queries) <= 3


def test_on_a_site_of_ones_own_the_administration_is_open_and_on_another_it_is_not(
    store: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.conf import settings
    from django.contrib.auth.models import User
    from django.test import Client

    own = Client(headers={"host": "localhost"})
    monkeypatch.setattr(settings, "PAPERLAB_LOCAL", True)
    assert own.get("/admin/").status_code == 200
    assert own.get("/admin/catalogue/fetching/").status_code == 200
    you = User.objects.get(username="you")
    assert (you.is_staff, you.is_superuser) == (False, False)  # nothing is stored
    monkeypatch.setattr(settings, "PAPERLAB_LOCAL", False)
    assert own.get("/admin/").status_code == 302
