"""What people write reported, hidden and shown, accounts closed and opened, names that look like others'."""

import html
import re
from datetime import timedelta
from typing import Any

import pytest
from test_people import browser, letter, member

pytestmark = pytest.mark.usefixtures("store", "public")
WHERE = "/papers/2401.00001"


@pytest.fixture
def paper() -> Any:
    from paperlab.site.store.models import Paper

    return Paper.objects.create(arxiv="2401.00001", title="One", title_key="one", authors=["A. Author"])


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings

    monkeypatch.setattr(settings, "PAPERLAB_LOCAL", False)


@pytest.fixture
def staff() -> Any:
    from django.contrib.auth.models import User

    one = member("staff@example.org")
    User.objects.filter(email="staff@example.org").update(is_staff=True)
    return one


def seen(one: Any, path: str = WHERE) -> str:
    return html.unescape(one.get(path).content.decode())


def age(email: str, days: int) -> None:
    """Let an account be so many days older."""
    from django.contrib.auth.models import User
    from django.db.models import F

    User.objects.filter(email=email).update(date_joined=F("date_joined") - timedelta(days))


def press(one: Any, label: str, path: str = "/moderation", **more: str) -> Any:
    """Press a button of a page as a browser does, with what its form holds; `more`: chosen in the form."""
    page = one.get(path).content.decode()
    for form in re.findall(r"<form.*?</form>", page, re.DOTALL):
        for name, value, says in re.findall(r'<button name="(\w+)" value="(\w+)">(.*?)</button>', form, re.DOTALL):
            if says.startswith(label):
                sent = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form))
                if chosen := re.search(r'<option value="(\w+)" selected', form):
                    sent["reason"] = chosen[1]
                return one.post(path, {**sent, name: value, **more})
    raise AssertionError(f"{path} has no button {label!r}")


def test_a_report_is_read_and_the_comment_hidden_in_one_click(paper: Any, staff: Any) -> None:
    from paperlab.site.people.models import Comment, Decision

    writer, reader = member("writer@example.org"), member("reader@example.org")
    writer.post(f"{WHERE}/comment", {"body": "Buy **pills** now"})
    said = Comment.objects.get()
    assert f"/report/comment/{said.pk}" in seen(reader)
    assert f"/report/comment/{said.pk}" not in seen(writer)
    report = f"/report/comment/{said.pk}"
    assert "Buy <strong>pills</strong> now" in seen(reader, report)
    assert reader.post(report, {"note": "no reason"}).status_code == 400
    assert "Buy <strong>pills</strong>" in seen(staff)  # a report alone hides nothing
    answer = reader.post(report, {"reason": "spam", "note": "<b>third time</b>"})
    assert b"<h1>Reported</h1>" in answer.content
    reader.post(report, {"reason": "abuse"})  # once each

    page = staff.get("/moderation").content.decode()
    assert "Reported (1)" in page
    assert 'Spam or advertising: <span dir="auto">&lt;b&gt;third time&lt;/b&gt;</span>' in page
    assert "Insults" not in page.partition("<ul")[2].partition("</ul>")[0]
    assert press(staff, "Hide comment").status_code == 302
    assert "pills" not in seen(reader)
    assert "pills" not in seen(browser())
    assert "A moderator hid this comment.</p>" in seen(browser())
    noted = re.sub(r"<[^>]+>", "", seen(writer))
    assert "A moderator hid this comment; only you see it here. The reason: Spam or advertising." in noted
    assert reader.get(report).status_code == 404
    assert "No open reports." in seen(staff, "/moderation")
    press(staff, "Show comment again", "/moderation?show=latest")
    assert "pills" in seen(reader)
    trail = re.sub(r"<[^>]+>", "", seen(staff, "/moderation?show=trail"))
    by = staff.session["_auth_user_id"]
    assert re.search(rf"account {by} hid comment {said.pk} on 2401.00001 .*Reason: Spam", trail)
    assert f"account {by} showed again comment {said.pk}" in trail
    writer.post(f"/comments/{said.pk}", {"do": "delete"})
    writer.post("/account/delete", {"word": "delete"})
    assert Decision.objects.count() == 2  # what was decided stays, without the words and the address
    assert "pills" not in str(list(Decision.objects.values())) + seen(staff, "/moderation?show=trail")


def test_dismissed_reports_leave_the_list(paper: Any, staff: Any) -> None:
    from paperlab.site.people.models import Comment

    writer, reader = member("writer@example.org"), member("reader@example.org")
    writer.post(f"{WHERE}/comment", {"body": "I disagree"})
    report = f"/report/comment/{Comment.objects.get().pk}"
    reader.post(report, {"reason": "abuse"})
    press(staff, "Dismiss report")
    assert "No open reports." in seen(staff, "/moderation")
    assert "I disagree" in seen(reader)
    reader.post(report, {"reason": "abuse"})
    assert "No open reports." in seen(staff, "/moderation")  # it was seen to
    writer.post(f"/comments/{Comment.objects.get().pk}", {"body": "Now with an insult"})
    reader.post(report, {"reason": "abuse"})
    assert "Now with an insult" in seen(staff, "/moderation")


@pytest.mark.parametrize("signed_in", [True, False])
def test_only_moderators_moderate(paper: Any, signed_in: bool) -> None:
    from django.contrib.auth.models import User

    from paperlab.site.people.models import Comment, Decision

    writer = member("writer@example.org")
    writer.post(f"{WHERE}/comment", {"body": "said"})
    key, account = Comment.objects.get().pk, User.objects.get(email="writer@example.org").pk
    one = member("somebody@example.org") if signed_in else browser()
    assert one.get("/moderation").status_code == (403 if signed_in else 302)
    for act in ("hide", "show", "dismiss", "close", "open"):
        answer = one.post("/moderation", {"do": act, "kind": "comment", "thing": key, "account": account})
        assert answer.status_code == (403 if signed_in else 302)
    if not signed_in:
        assert one.post(f"/report/comment/{key}", {"reason": "spam"}).headers["Location"].startswith("/sign-in?")
    assert not Decision.objects.exists()
    assert "said" in seen(one)


def test_an_account_is_closed_told_why_and_opened_again(paper: Any, staff: Any) -> None:
    from paperlab.site.people.counting import today
    from paperlab.site.search.trending import trending

    email = "troll@example.org"
    troll, reader = member(email), member("reader@example.org")
    age(email, 30)
    troll.post(f"{WHERE}/comment", {"body": "rude words"})
    troll.post(f"{WHERE}/vote")
    troll.post("/account", {"password": "correct horse battery"})
    assert " vote: 1 on this site" in seen(browser())
    assert trending(today()) == [(paper.pk, 1.5)]
    asked = browser()
    asked.post("/sign-in", {"email": email})
    link = f"/sign-in/{letter(email)}"
    kept = troll.cookies["sessionid"].value

    press(staff, "Close account", "/moderation?show=latest", reason="abuse", note="a third time")
    assert troll.get("/account").headers["Location"].startswith("/sign-in")  # the session has ended
    assert troll.post(f"{WHERE}/comment", {"body": "more"}).headers["Location"].startswith("/sign-in")
    assert "rude words" not in seen(reader)
    assert " vote: " not in seen(browser())
    assert trending(today()) == []
    for answer in (
        asked.post(link),
        browser().post("/sign-in", {"email": email, "password": "correct horse battery"}),
    ):
        assert answer.status_code == 403
        assert 'The reason: <span dir="auto">Insults, threats or hate: a third time</span>.' in answer.content.decode()
    assert asked.get("/account").status_code == 302
    wrong = browser().post("/sign-in", {"email": email, "password": "a guess"})  # nobody else learns of it
    assert (wrong.status_code, b"or the password is wrong" in wrong.content) == (400, True)

    assert "abuse" not in seen(staff, "/moderation?show=closed")
    assert "Insults, threats or hate: a third time" in seen(staff, "/moderation?show=closed")
    press(staff, "Reopen", "/moderation?show=closed")
    assert "rude words" in seen(reader)
    assert trending(today()) == [(paper.pk, 1.5)]
    again = browser()
    again.cookies["sessionid"] = kept
    assert again.get("/account").status_code == 302  # no old session comes back
    back = browser().post("/sign-in", {"email": email, "password": "correct horse battery"})
    assert back.status_code == 302


def test_the_staff_cannot_be_closed_here(paper: Any, staff: Any) -> None:
    from django.contrib.auth.models import User

    from paperlab.site.people.models import Comment

    staff.post(f"{WHERE}/comment", {"body": "by the house"})
    assert "Close account" not in seen(staff, "/moderation?show=latest")
    me = User.objects.get(email="staff@example.org")
    answer = staff.post(
        "/moderation", {"do": "close", "account": me.pk, "kind": "comment", "thing": Comment.objects.get().pk}
    )
    assert answer.status_code == 400
    assert User.objects.get(pk=me.pk).is_active
    for wrong in (
        {"do": "close"},
        {"do": "hide", "kind": "comment", "thing": "x"},
        {"do": "hide", "kind": "x", "thing": 1},
        {"do": "hide", "kind": "comment", "thing": 10**18},
    ):
        assert staff.post("/moderation", wrong).status_code == 404
    assert staff.post("/moderation", {"do": "everything"}).status_code == 400


def test_reports_and_comments_are_rationed_and_no_text_is_lost(paper: Any) -> None:
    from paperlab.site.people.models import Comment

    writer, reader = member("many@example.org"), member("reporter@example.org")
    answers = [writer.post(f"{WHERE}/comment", {"body": f"word {n}", "once": f"{n}"}) for n in range(12)]
    assert [one.status_code for one in answers] == [302] * 10 + [429] * 2
    assert "word 11</textarea>" in answers[-1].content.decode()
    assert int(answers[-1].headers["Retry-After"]) > 0
    other = member("again@example.org")
    assert other.post(f"{WHERE}/comment", {"body": "the same", "once": "a"}).status_code == 302
    answer = other.post(f"{WHERE}/comment", {"body": "the same", "once": "b"})
    assert answer.status_code == 400
    assert "the same</textarea>" in answer.content.decode()
    assert 'role="alert">You have posted the same words' in answer.content.decode()
    long = other.post(f"{WHERE}/comment", {"body": "x" * 10_001})
    assert (long.status_code, long.content.count(b"x" * 10_001)) == (400, 1)
    keys = list(Comment.objects.order_by("pk").values_list("pk", flat=True))[:7]
    answers = [reader.post(f"/report/comment/{key}", {"reason": "spam", "note": "see this"}) for key in keys]
    assert [one.status_code for one in answers] == [200] * 5 + [429] * 2
    assert 'value="see this"' in answers[-1].content.decode()


@pytest.fixture
def written(paper: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """One of every kind, by one account, in a public group: where it stands, and a reader who is a member."""
    from django.conf import settings
    from django.contrib.auth.models import User

    from paperlab.site.groups.models import Group, Member
    from paperlab.site.people.models import Collection, kinds
    from paperlab.site.replies.models import Reply
    from paperlab.site.store.models import Paper

    monkeypatch.setattr(settings, "PAPERLAB_REPLIES", ("code",))
    writer, reader = member("writer@example.org"), member("reader@example.org")
    account = User.objects.get(email="writer@example.org")
    writer.post(f"{WHERE}/comment", {"body": "zqcomment"})
    at = writer.post("/groups", {"name": "zqgroup", "about": "zqabout"})["Location"]
    writer.post(at, {"do": "change", "name": "zqgroup", "about": "zqabout", "public": "1"})
    writer.post(
        at, {"do": "meet", "day": "2026-12-24", "paper": "2401.00001", "presenter": "zqwho", "notes": "zqmeeting"}
    )
    pk = writer.post("/collections", {"name": "zqcollection", "note": "zqabouttheseveral"})["Location"].rpartition("/")[
        2
    ]
    writer.post(f"/collections/{pk}", {"do": "share"})
    writer.post(f"{WHERE}/keep", {"collection": pk, "note": "zqnote", "tags": "zqtag"})
    writer.post(at, {"do": "share", "collection": pk})
    Reply.objects.create(
        user=account, paper=paper, name="zqname", body="zqreply", state="shown", proof="code", source="https://x.test/a"
    )
    Member.objects.create(group=Group.objects.get(), user=User.objects.get(email="reader@example.org"))
    link = re.search(r'href="http://localhost(/shared/[^"]+)"', seen(writer, f"/collections/{pk}"))
    assert link
    Paper.objects.update(slug="easyquant")  # with checks, beside which replies stand
    things = {kind: model.objects.get() for kind, model in kinds().items()}  # type: ignore[attr-defined]
    assert set(things) == {"comment", "collection", "note", "group", "meeting", "reply"}
    assert Collection.objects.get().shared
    return {"writer": writer, "reader": reader, "at": at, "link": link[1], "things": things}


HERE = "/papers/easyquant"
WORDS = {
    "comment": {"zqcomment"}, "collection": {"zqcollection", "zqabouttheseveral"}, "note": {"zqnote", "zqtag"},
    "group": {"zqgroup", "zqabout"}, "meeting": {"zqwho", "zqmeeting"}, "reply": {"zqname", "zqreply"},
}  # fmt: skip
MARKS = re.compile(r"\bzq[a-z]{2,}\b")  # whole words: a random token may hold the two letters
UNDER = {"collection": {"zqnote", "zqtag"}}  # what goes with it


def everywhere(one: Any, at: str, link: str) -> str:
    """All that somebody else can ask this site for, in one text."""
    paths = [
        WHERE,
        at,
        "/groups",
        link,
        f"{link}.bib",
        f"{link}.ris",
        f"{link}?tag=zqtag",
        "/",
        "/trending",
        "/feeds",
        "/papers",
        "/library",
        "/account/export.json",
        "/api/papers/2401.00001",
        "/api/daily_papers",
        "/papers/easyquant.json",
        "/feeds/papers.atom",
        "/badge/easyquant.svg",
        "/for-you",
        "/search?q=One",
    ]
    said = "\n".join(seen(one, path) for path in paths)
    return said.replace("tag=zqtag", "")  # what was asked


@pytest.mark.parametrize("kind", sorted(WORDS))
def test_whatever_people_write_is_reported_hidden_told_and_shown_again(
    written: dict[str, Any], staff: Any, kind: str
) -> None:
    from django.db.models import Model

    writer, reader, at, link = (written[name] for name in ("writer", "reader", "at", "link"))
    thing: Model = written["things"][kind]
    places = {one: everywhere(one, at, link) for one in (reader, browser())}
    for said in places.values():
        assert {word for words in WORDS.values() for word in words} <= set(MARKS.findall(said))
        assert "A moderator hid" not in said
    report = f"/report/{kind}/{thing.pk}"
    assert report in places[reader]
    assert report not in everywhere(writer, at, link)
    for word in WORDS[kind]:
        assert word in seen(reader, report)
    assert writer.post(report, {"reason": "spam"}).status_code == 400
    assert b"<h1>Reported</h1>" in reader.post(report, {"reason": "false", "note": "not so"}).content
    page = seen(staff, "/moderation")
    assert "Reported (1)" in page
    assert all(word in page for word in WORDS[kind])
    assert all(word in seen(staff, f"/moderation?show=latest&kind={kind}") for word in WORDS[kind])
    assert press(staff, f"Hide {kind}").status_code == 302
    gone = WORDS[kind] | UNDER.get(kind, set())
    for one in (reader, browser()):
        said = everywhere(one, at, link)
        assert not gone & set(MARKS.findall(said))
        assert f"A moderator hid this {kind}" in said
        assert {word for words in WORDS.values() for word in words} - gone <= set(MARKS.findall(said))
    own = re.sub(
        r"<[^>]+>",
        "",
        everywhere(writer, at, link) + seen(writer, f"/collections/{written['things']['collection'].pk}"),
    )
    assert f"A moderator hid this {kind}; only you see it here. The reason: Pretends to be" in own
    assert gone <= set(MARKS.findall(own))
    assert reader.get(report).status_code == 404
    press(staff, f"Show {kind} again", f"/moderation?show=latest&kind={kind}")
    assert gone <= set(MARKS.findall(everywhere(browser(), at, link)))
    trail = re.sub(r"<[^>]+>", "", seen(staff, "/moderation?show=trail"))
    assert re.search(rf"hid {kind} {thing.pk}\b.*Reason: Pretends", trail)
    thing.delete()
    assert not MARKS.search(seen(staff, "/moderation?show=trail") + seen(staff, "/moderation"))


def test_nothing_that_a_closed_account_wrote_is_shown(written: dict[str, Any], staff: Any) -> None:
    reader, at, link = (written[name] for name in ("reader", "at", "link"))
    press(staff, "Close account", "/moderation?show=latest&kind=meeting")
    for one in (reader, browser()):
        assert not MARKS.search(everywhere(one, at, link))
    press(staff, "Reopen", "/moderation?show=closed")
    said = set(MARKS.findall(everywhere(browser(), at, link)))
    assert {word for words in WORDS.values() for word in words} <= said


def test_what_one_cannot_read_one_cannot_report(written: dict[str, Any], staff: Any) -> None:
    from paperlab.site.people.models import Report

    writer, at, link = written["writer"], written["at"], written["link"]
    writer.post(at, {"do": "change", "name": "zqgroup", "about": "zqabout"})  # private again
    eve = member("eve@example.org")
    for kind in ("group", "meeting", "collection", "note"):
        path = f"/report/{kind}/{written['things'][kind].pk}"
        for one in (path, f"{path}?link=x", "/report/nothing/1", f"/report/{kind}/{10**18}"):
            assert eve.get(one).status_code == 404
        assert eve.post(path, {"reason": "spam"}).status_code == 404
        assert written["reader"].get(path).status_code == 200  # a member
        end = link.rpartition("/")[2]
        assert eve.get(f"{path}?link={end}").status_code == (200 if kind in ("collection", "note") else 404)
        assert not MARKS.search(seen(staff, f"/moderation?show=latest&kind={kind}")) or kind in (
            "collection",
            "note",
        )
    writer.post(f"/collections/{written['things']['collection'].pk}", {"do": "unshare"})
    assert eve.get(f"/report/collection/{written['things']['collection'].pk}?link={end}").status_code == 404
    assert not Report.objects.exists()


def test_notes_of_members_in_a_shared_collection_are_theirs(written: dict[str, Any], staff: Any, paper: Any) -> None:
    from paperlab.site.people.models import Kept

    writer, reader, at = written["writer"], written["reader"], written["at"]
    pk = written["things"]["collection"].pk
    writer.post(
        f"/collections/{pk}/paper", {"paper": "2401.00001", "note": "", "tags": ""}
    )  # theirs is not written over
    reader.post(at, {"do": "add", "collection": pk, "paper": "2401.00001", "note": "zqbymember"})
    row = Kept.objects.get()
    assert "zqbymember" in seen(writer, f"/collections/{pk}")
    writer.post(f"/report/note/{row.pk}", {"reason": "abuse"})
    press(staff, "Hide note")
    assert "zqbymember" in seen(reader, at)
    for path in (f"/collections/{pk}", f"/collections/{pk}.ris", "/library.ris", "/account/export.json", at):
        assert "zqbymember" not in seen(writer, path), path
    answer = writer.post(f"/collections/{pk}/paper", {"paper": "2401.00001", "note": "mine", "tags": ""})
    assert answer.status_code == 400
    assert "A moderator hid" in html.unescape(answer.content.decode())
    writer.post(f"{WHERE}/keep", {"collection": pk, "on": "0"})
    writer.post(f"{WHERE}/keep", {"collection": pk, "note": "zqmine"})
    assert "zqmine" in seen(reader, at)


@pytest.mark.parametrize("name", ["Paperlab official", "pаperlab picks", "The M0derators", "ad min"])
def test_titles_that_pose_as_the_site_are_not_shown_to_strangers(paper: Any, staff: Any, name: str) -> None:
    one = member("poser@example.org")
    at = one.post("/groups", {"name": name})["Location"]  # among themselves they may
    answer = one.post(at, {"do": "change", "name": name, "about": "my text", "public": "1"})
    assert (answer.status_code, b"as if this site itself" in answer.content, b"my text" in answer.content) == (
        400,
        True,
        True,
    )
    assert browser().get(at).status_code == 404
    mine = one.post("/collections", {"name": name})["Location"]
    assert one.post(mine, {"do": "share"}).status_code == 400
    good = one.post("/collections", {"name": "Papers of our team"})["Location"]
    assert one.post(good, {"do": "share"}).status_code == 302
    assert one.post(good, {"name": name, "note": ""}).status_code == 400
    hers = staff.post("/collections", {"name": name})["Location"]
    assert staff.post(hers, {"do": "share"}).status_code == 302


def test_two_public_groups_do_not_look_alike(paper: Any) -> None:
    one, other = member("one@example.org"), member("other@example.org")
    first, second = (some.post("/groups", {"name": "Vision Lab"})["Location"] for some in (one, other))
    assert one.post(first, {"do": "change", "name": "Vision Lab", "public": "1"}).status_code == 302
    answer = other.post(second, {"do": "change", "name": "Visiоn Lab", "public": "1"})
    assert (answer.status_code, b"looks the same" in answer.content) == (400, True)
    assert other.post(second, {"do": "change", "name": "Visiоn Lab"}).status_code == 302  # not public
    assert other.post(second, {"do": "change", "name": "Vision Lab, Kyoto", "public": "1"}).status_code == 302
    assert one.post(first, {"do": "change", "name": "Vision Lab", "public": "1"}).status_code == 302  # its own


REFUSED = [
    "Admin", "ADMIN", "adm1n", "аdmin", "ａｄｍｉｎ", "ádmin", "ad min", "admin 2", "rnoderator", "Moderatοr", "r00t",
    "paperIab", "Paperlab Team", "The Admin", "api", "papers", "Sign-in", "reader 7", "reader l2", "Reader", "you",
    "support", "p@example.org", "x\u200dy", "admin\u3164", "Ivan Петров", "a\u0301\u0302\u0303\u0304\u0305 b", "12345",
    "<b>Ada</b>", "ǃǃ", "x" * 41, "Ада Lovelace", "Ⓐdmin", "𝐚𝐝𝐦𝐢𝐧",
]  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_names_of_the_site_and_names_nobody_can_read_are_refused(paper: Any, name: str) -> None:
    from django.contrib.auth.models import User

    one = member("namer@example.org")
    answer = one.post("/account", {"name": name})
    assert answer.status_code == 400
    assert 'role="alert"' in answer.content.decode()
    assert User.objects.get(email="namer@example.org").first_name == ""


@pytest.mark.parametrize(
    "name",
    [
        "Ada L.",
        "José",
        "Jean-Luc O'Neill",
        "Wei Zhang 张伟",
        "山田 太郎",
        "ひらがな",
        "김민수",
        "Иван Петров",
        "محمد",
        "राम",
        "Trần Thị Ánh",
    ],
)
def test_names_of_people_are_taken_and_nobody_looks_like_them(paper: Any, name: str) -> None:
    first, second = member("first@example.org"), member("second@example.org")
    assert first.post("/account", {"name": name}).status_code == 302
    assert first.post("/account", {"name": name}).status_code == 302  # one's own again
    answer = second.post("/account", {"name": f" {name.swapcase()} "})
    assert answer.status_code == 400
    assert "looks the same" in answer.content.decode()
    first.post("/account", {"name": ""})
    assert second.post("/account", {"name": name}).status_code == 302  # free again
    second.post(f"{WHERE}/comment", {"body": "said"})
    assert f"<bdi>{name}</bdi>" in seen(browser())


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("Paul Smith", "PauI Smith"), ("Paul Smith", "Pau1 Smith"), ("BOB", "ВОВ"), ("Bob", "В0b"), ("corn", "com"),
        ("Ada L.", "ada l"), ("scope", "ѕсоре"), ("Ian", "lan"), ("Łukasz", "łukasz"),
        ("Anne-Marie", "Anne‐Marie"),
    ],
)  # fmt: skip
def test_look_alikes_are_one_name(paper: Any, name: str, like: str) -> None:
    first, second = member("first@example.org"), member("second@example.org")
    assert first.post("/account", {"name": name}).status_code == 302
    assert second.post("/account", {"name": like}).status_code == 400


def test_every_first_segment_of_the_site_is_reserved() -> None:
    from paperlab.site.people import names

    for path in ("/", "/about", "/runs/", "/api/", "/admin/", "/moderation", "/collections", "/sign-in", "/static/x"):
        first = path.strip("/").partition("/")[0]
        if first:
            with pytest.raises(names.BadName):
                names.read(first)


def test_moderators_may_say_who_they_are(staff: Any) -> None:
    assert staff.post("/account", {"name": "Moderator"}).status_code == 302
    assert member("other@example.org").post("/account", {"name": "Moderator"}).status_code == 400


def test_votes_of_new_accounts_wait_and_the_count_says_so(paper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from paperlab.site.people import counting
    from paperlab.site.people.models import Vote
    from paperlab.site.search.trending import static, trending
    from paperlab.site.store.models import Counter

    now = counting.today()
    counting.arrivals()()
    old, new = member("old@example.org"), member("new@example.org")
    age("old@example.org", 3)
    age("new@example.org", 1)
    old.post(f"{WHERE}/vote")
    piece = new.post(f"{WHERE}/vote", headers={"HX-Request": "true"}).content.decode()
    new.post(f"{WHERE}/comment", {"body": "said"})
    assert " votes: 2 on this site (1 from new accounts, not in trending yet)</span>" in piece
    assert " votes: 2 on this site (1 from new accounts, not in trending yet)" in seen(browser())
    assert trending(now) == [(paper.pk, 1.0)]
    assert static([paper.pk])[paper.pk] == pytest.approx(now.toordinal() / 3)
    later = now + timedelta(2)
    assert {one.counts for one in Vote.objects.all()} == {now, later}
    assert trending(later) == [(paper.pk, pytest.approx(2 ** (-2 / 3) + 1.5))]

    before = Counter.objects.get(name="revision").value
    run = counting.arrivals()
    assert not run()  # nothing new today
    monkeypatch.setattr(counting, "today", lambda: later)
    assert run()
    assert not run()
    assert not counting.arrivals()()  # a worker that starts again
    assert Counter.objects.get(name="revision").value == before + 1
    paper.refresh_from_db()
    assert paper.revision == before + 1


def test_a_password_is_changed_by_whoever_knows_it_or_reads_the_mail(paper: Any) -> None:
    email = "change@example.org"
    one = member(email)
    first, second, third = "correct horse battery", "staple of horses 7", "a third of them 9"
    assert one.post("/account", {"password": first}).status_code == 302
    for sent in ({"password": second}, {"password": "", "old": "a guess"}):
        answer = one.post("/account", sent)
        assert (answer.status_code, b"not your current password" in answer.content) == (400, True)

    def works(password: str) -> bool:
        return browser().post("/sign-in", {"email": email, "password": password}).status_code == 302

    assert works(first)
    elsewhere = browser()
    elsewhere.post("/sign-in", {"email": email, "password": first})
    assert 'name="old"' in seen(elsewhere, "/account")
    assert elsewhere.post("/account", {"password": second, "old": first}).status_code == 302
    assert one.get("/account").status_code == 302  # other sessions have ended
    assert not works(first)
    forgot = browser()
    forgot.post("/sign-in", {"email": email})
    forgot.post(f"/sign-in/{letter(email)}")
    assert 'name="old"' not in seen(forgot, "/account")
    session = forgot.session
    began = session["by link"]
    session["by link"] = began - 16 * 60
    session.save()
    assert forgot.post("/account", {"password": third}).status_code == 400
    session["by link"] = began
    session.save()
    assert forgot.post("/account", {"password": third}).status_code == 302
    assert works(third)
