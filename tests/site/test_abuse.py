"""What people tried on a site for others, and on one of one's own: each was possible once."""

import html
import itertools
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("store")
ADDRESSES = itertools.count(1)


@pytest.fixture(autouse=True)
def public(store: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings

    monkeypatch.setattr(settings, "PAPERLAB_LOCAL", False)


@pytest.fixture
def paper() -> Any:
    return papers(1)[0]


def papers(count: int) -> list[Any]:
    from paperlab.site.store.models import Paper

    return [
        Paper.objects.create(arxiv=f"2401.{number:05d}", title=f"Paper {number}", title_key=str(number))
        for number in range(1, count + 1)
    ]


def browser(email: str = "", **more: Any) -> Any:
    from django.contrib.auth.models import User
    from django.test import Client

    one = Client(headers={"host": "localhost"}, REMOTE_ADDR=f"192.0.2.{next(ADDRESSES) % 250}")
    if email:
        one.force_login(User.objects.get_or_create(username=email, email=email, **more)[0])
    return one


def text(answer: Any) -> str:
    return html.unescape(answer.content.decode())


def asked(one: Any, path: str) -> int:
    """How many questions a page asks of the store."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    one.get(path)
    with CaptureQueriesContext(connection) as questions:
        assert one.get(path).status_code == 200
    return len(questions)


# -- text --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "&#xe000;0&#xe001;",
        "&#57344;99999999999999999999&#57345; $a$",
        "\ue0001\ue001 $a$",
        "$a$ &#xe000;0&#xe001;" * 99,
    ],
)
def test_no_comment_takes_its_page_down_or_repeats_a_formula(paper: Any, body: str) -> None:
    ann, chief = browser("ann@example.org"), browser("chief@example.org", is_staff=True)
    made = ann.post("/papers/2401.00001/comment", {"body": body})
    assert made.status_code == 302
    page = browser().get("/papers/2401.00001")
    assert page.status_code == 200
    assert text(page).count("<math") == body.count("$a$")
    assert chief.get("/moderation?show=latest").status_code == 200


@pytest.mark.parametrize("where", ["/library?tag=%00", "/?from=%00", "/search?q=a%00", "/%00", "/sign-in?next=/a%00"])
def test_the_character_nul_is_refused_before_a_database_sees_it(where: str) -> None:
    answer = browser("ann@example.org").get(where)
    assert answer.status_code == 400
    assert "NUL" in text(answer)


def test_a_form_loses_its_nul_and_nothing_else(paper: Any) -> None:
    from paperlab.site.people.models import Comment, SignIn

    ann = browser("ann@example.org")
    assert ann.post("/papers/2401.00001/comment", {"body": "hel\0lo", "once": "a\0b"}).status_code == 302
    assert Comment.objects.get().once.endswith(" ab")
    assert "hello" in text(browser().get("/papers/2401.00001"))
    assert ann.post("/follow", {"kind": "author", "value": "A\0", "on": "0"}).status_code == 302
    assert browser().post("/sign-in", {"email": "eve@example.org", "next": "/a\0"}).status_code == 200
    assert SignIn.objects.get().next == "/a"
    form = {"name": "x", "scope": "comment", "days": "7"}
    secret = re.search(r"plab_[\w-]{43}", text(ann.post("/account/tokens", form)))
    assert secret
    headers = {"Authorization": f"Bearer {secret[0]}"}
    named = {"paper": "2401\0", "body": "hello"}
    assert ann.post("/api/me/comments", named, content_type="application/json", headers=headers).status_code == 404


def test_a_day_before_all_others_is_a_day_without_papers(paper: Any) -> None:
    answer = browser().get("/api/daily_papers?date=0001-01-01&sort=trending")
    assert answer.status_code == 200
    assert answer.json() == []


@pytest.mark.parametrize("name", ["\u1d00dmin", "p\u1d00perlab", "admin\u7ba1\u7406", "\u7ba1\u7406staff", "Ann admin"])
def test_no_name_is_that_of_the_staff(name: str) -> None:
    ann = browser("ann@example.org")
    assert ann.post("/account", {"name": name}).status_code == 400
    for good in ("Ann \u674e", "\u674e Ann", "adminah", "\u5f20\u4e09", "T\u014dky\u014d"):
        assert ann.post("/account", {"name": good}).status_code == 302, good


def test_an_address_that_no_letter_can_go_to_is_refused() -> None:
    assert browser().post("/sign-in", {"email": "\u017fam@example.org"}).status_code == 400
    assert browser().post("/subscribe", {"email": "\u017fam@example.org"}).status_code == 400


# -- groups ------------------------------------------------------------------------------------------------------------


def lab() -> tuple[Any, Any, str, str]:
    """(who leads, a member, the group's address, the invitation's)."""
    ann, ben = browser("ann@example.org"), browser("ben@example.org")
    at = ann.post("/groups", {"name": "Our lab"})["Location"]
    link = re.search(r'<pre id="invitation">http://localhost(\S+)</pre>', text(ann.get(at)))
    assert link
    assert ben.post(link[1])["Location"] == at
    return ann, ben, at, link[1]


def test_who_was_removed_does_not_come_back_by_the_same_link() -> None:
    ann, ben, at, link = lab()
    number = re.search(r'name="member" value="(\d+)"', text(ann.get(at)))
    assert number
    ann.post(at, {"do": "remove", "member": number[1]})
    assert ben.get(at).status_code == 404
    assert ben.post(link).status_code == 410
    assert ben.get(at).status_code == 404


def test_a_group_made_public_shows_no_collection_whose_owner_shares_it_with_members_alone(paper: Any) -> None:
    ann, ben, at, _ = lab()
    number = ben.post("/collections", {"name": "Rejected by us", "note": "between us"})["Location"].rpartition("/")[2]
    ben.post("/papers/2401.00001/keep", {"collection": number, "note": "weak proof"})
    ben.post(at, {"do": "share", "collection": number})
    ann.post(at, {"do": "change", "name": "Our lab", "about": "", "public": "1"})
    for said in ("Rejected by us", "between us", "weak proof"):
        assert said in text(ann.get(at))
        assert said not in text(browser().get(at))
    ben.post(f"/collections/{number}", {"do": "share"})
    assert "weak proof" in text(browser().get(at))


def test_nobody_writes_over_the_notes_in_anothers_collection(paper: Any) -> None:
    ann, ben, at, _ = lab()
    number = ben.post("/collections", {"name": "To read"})["Location"].rpartition("/")[2]
    ben.post("/papers/2401.00001/keep", {"collection": number, "note": "what I think"})
    ben.post(at, {"do": "share", "collection": number})
    form = {"do": "add", "collection": number, "paper": "2401.00001"}
    answer = ann.post(at, {**form, "note": "what she thinks"})
    assert answer.status_code == 400
    assert "only its writer changes" in text(answer)
    assert ann.post(at, form).status_code == 302  # without a note, it is there already
    assert "what I think" in text(ben.get(f"/collections/{number}"))


# -- an account --------------------------------------------------------------------------------------------------------


def test_all_that_is_of_an_account_is_in_its_export_and_goes_with_it(paper: Any) -> None:
    """Whichever table points to an account: a new one fails here until it is exported, and goes."""
    from django.apps import apps
    from django.contrib.auth.models import User
    from django.contrib.sessions.models import Session

    from paperlab.site.digest.models import Subscription
    from paperlab.site.people.models import SignIn
    from paperlab.site.runs.models import Run

    ann, at_work = browser("ann@example.org"), browser("ann@example.org")
    exported = {
        "Vote": "votes", "Comment": "comments", "Report": "reports", "Collection": "collections", "Read": "read",
        "Choice": "choices", "Follow": "follows", "Submission": "submissions", "NameLook": "account", "Token": "tokens",
        "Member": "groups", "Group": "groups", "Meeting": "meetings", "Kept": "notes",
        "Reply": "replies", "Run": "runs",
        "Decision": None, "LogEntry": None,  # by the staff, and about it
    }  # fmt: skip
    pointing = {
        model.__name__
        for model in apps.get_models()
        for field in model._meta.get_fields()
        if field.related_model is User and field.concrete and not field.many_to_many
    }
    assert pointing == set(exported)
    user = User.objects.get(username="ann@example.org")
    Subscription.objects.create(email=user.email, nonce="n", interests=[["author", "Ann"]])
    SignIn.objects.create(email=user.email, next="/groups/7")
    Run.objects.create(once="1", method="easyquant", scale="quick", who=user)
    body = ann.get("/account/export.json").json()
    assert set(filter(None, exported.values())) <= set(body)
    assert body["subscriptions"][0]["interests"] == [["author", "Ann"]]
    assert [run["method"] for run in body["runs"]] == ["easyquant"]
    assert at_work.get("/account").status_code == 200
    assert ann.post("/account/delete", {"word": "delete"}).status_code == 200
    assert not any(one.get_decoded().get("_auth_user_id") for one in Session.objects.all())
    assert not SignIn.objects.exists()
    assert not Subscription.objects.exists()
    assert at_work.get("/account").status_code == 302


def test_pages_ask_no_more_for_a_hundred_rows_than_for_ten() -> None:
    from django.contrib.auth.models import User

    from paperlab.site.groups.models import Group, Member, Shared
    from paperlab.site.people.models import Collection, Comment, Kept, Tag

    ann, made = browser("ann@example.org"), papers(100)
    user = User.objects.get(username="ann@example.org")
    big = Collection.objects.create(user=user, name="big", shared="x")
    group = Group.objects.create(name="lab")
    Member.objects.create(group=group, user=user)
    pages = [f"/collections/{big.pk}", f"/groups/{group.pk}", "/account/export.json", "/papers/2401.00001"]
    counts = []
    for first, last in ((0, 5), (5, 50)):
        for number in range(first, last):
            Tag.objects.create(kept=Kept.objects.create(collection=big, paper=made[number]), name="t")
            other = Collection.objects.create(user=user, name=f"c{number}")
            Kept.objects.create(collection=other, paper=made[number])
            Shared.objects.create(group=group, collection=other)
            Comment.objects.create(
                user=user, paper=made[0], body="x", once=str(number), day=datetime.now(UTC).date(), hidden=True
            )
        counts.append({page: asked(ann, page) for page in pages})
    assert counts[0] == counts[1]


# -- caches and doors --------------------------------------------------------------------------------------------------


def test_the_page_of_the_api_is_each_readers_own() -> None:
    ann, stranger = browser("ann@example.org"), browser()
    for path in ("/api", "/api/"):
        first = stranger.get(path)
        assert "Sign in" in text(first)
        mine = ann.get(path, headers={"If-None-Match": first.headers.get("ETag", "")})
        assert mine.status_code == 200
        assert 'href="/library"' in text(mine)
        assert "public" not in mine.headers["Cache-Control"]
        assert ann.post(path).status_code == 405


def test_no_address_at_the_door_leads_to_another_site(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings
    from django.test import Client

    monkeypatch.setattr(settings, "PAPERLAB_LOCAL", True)
    monkeypatch.setattr(settings, "PAPERLAB_TOKEN", "a-token")
    one = Client(headers={"host": "localhost", "accept": "text/html"})
    answer = one.get("http://localhost//evil.example/x")
    assert answer.status_code == 401
    assert 'action="/%2Fevil.example/x"' in text(answer)
    answer = one.get("http://localhost//evil.example/x?token=a-token")
    assert answer["Location"] == "/%2Fevil.example/x"


def test_the_owners_token_may_do_what_it_was_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of whoever's site it is starts runs with a token of that scope, and does nothing else with it."""
    from django.conf import settings
    from django.contrib.auth.models import User
    from django.test import Client

    from paperlab.site.tokens import actions

    monkeypatch.setattr(settings, "PAPERLAB_LOCAL", True)
    monkeypatch.setattr(settings, "PAPERLAB_TOKEN", "a-token")
    you, guest = User.objects.create(username="you"), User.objects.create(username="guest@example.org")
    good, none, other = (
        actions.make(user, scopes[0], scopes, 7)[1]
        for user, scopes in ((you, ["runs"]), (guest, ["runs"]), (guest, ["read"]))
    )
    client = Client(headers={"host": "localhost"})
    for secret, status in ((good, 200), (none, 403), (other, 403)):
        assert client.get("/api/me/runs", headers={"authorization": f"Bearer {secret}"}).status_code == status
    assert client.get("/runs.json", headers={"authorization": f"Bearer {good}"}).status_code == 401
    monkeypatch.setattr(settings, "PAPERLAB_LOCAL", False)
    assert client.get("/api/me/runs", headers={"authorization": f"Bearer {good}"}).status_code == 403


# -- the digest's hour -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "hour"), [("0", 0.0), ("23.5", 23.5), ("", 6.0), ("6", 6.0)])
def test_hours_of_a_day(monkeypatch: pytest.MonkeyPatch, text: str, hour: float) -> None:
    from paperlab.site import settings

    monkeypatch.setenv("PAPERLAB_DIGEST_HOUR", text)
    assert settings.hour("PAPERLAB_DIGEST_HOUR", 6.0) == hour


@pytest.mark.parametrize("text", ["24", "-0.5", "99", "nan", "inf", "six"])
def test_hours_that_no_day_has(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """At 24 o'clock no digest would ever go, and nobody would be told."""
    from paperlab.site import settings

    monkeypatch.setenv("PAPERLAB_DIGEST_HOUR", text)
    with pytest.raises(settings.SettingError, match="PAPERLAB_DIGEST_HOUR"):
        settings.hour("PAPERLAB_DIGEST_HOUR", 6.0)


@pytest.mark.parametrize(
    ("name", "hour"),
    [("Asia/Kolkata", "7:30"), ("Pacific/Auckland", "15:00"), ("America/New_York", "6:00"), ("UTC", "6:00")],
)
def test_the_page_says_the_hour_from_which_it_goes(monkeypatch: pytest.MonkeyPatch, name: str, hour: str) -> None:
    from django.conf import settings

    from paperlab.site.digest import hours

    monkeypatch.setattr(settings, "PAPERLAB_TIMEZONE", name)
    monkeypatch.setattr(settings, "PAPERLAB_DIGEST_HOUR", 6.0)
    assert hours.begins(datetime(2026, 1, 5, tzinfo=UTC)) == hour
    assert f"({name})" in text(browser().get("/subscribe"))


@pytest.mark.parametrize("name", ["Asia/Shanghai", "Pacific/Auckland", "America/Los_Angeles", "Europe/Berlin"])
def test_what_comes_into_a_list_at_the_end_of_its_day_is_in_a_digest(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from django.conf import settings

    from paperlab.site.digest import hours, send

    monkeypatch.setattr(settings, "PAPERLAB_TIMEZONE", name)
    monkeypatch.setattr(settings, "PAPERLAB_DIGEST_HOUR", 6.0)
    sent: list[tuple[Any, datetime]] = []

    def digest(day: Any, *, late: bool) -> Any:
        if not late:
            sent.append((day, at))
        return send.Counts()

    monkeypatch.setattr(send, "digest", digest)
    at = datetime(2026, 3, 27, 1, tzinfo=UTC)  # over the days on which clocks are put forward
    job = send.due(lambda: at)
    while at < datetime(2026, 4, 7, tzinfo=UTC):
        job()
        at += timedelta(minutes=30)
    days = sorted({day for day, _ in sent})
    assert days == [days[0] + timedelta(number) for number in range(len(days))]
    assert len(days) >= 10
    for day, when in sent:
        assert when >= datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1, hours=1)
        assert when.astimezone(hours.zone()).hour >= 6


def test_a_site_without_a_token_takes_no_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from paperlab.site import settings

    assert settings.token("off", tmp_path) == ""
    monkeypatch.setenv("PAPERLAB_PROXIES", "127.0.0.1")
    with pytest.raises(settings.SettingError, match="whoever reaches the proxy"):
        settings.token("off", tmp_path)
    assert settings.token(None, tmp_path)
