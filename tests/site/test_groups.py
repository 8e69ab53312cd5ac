"""Groups as their members and others meet them: founding, inviting, the journal club, shared collections, leaving."""

import html
import itertools
import re
from datetime import timedelta
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
    from paperlab.site.store.models import Paper

    return Paper.objects.create(arxiv="2401.00001", title="Rounding <b>well</b>", title_key="one")


def browser(email: str = "") -> Any:
    from django.contrib.auth.models import User
    from django.test import Client

    one = Client(headers={"host": "localhost"}, REMOTE_ADDR=f"192.0.2.{next(ADDRESSES) % 250}")
    if email:
        one.force_login(User.objects.get_or_create(username=email, email=email)[0])
    return one


def founded(by: Any, name: str = "Our lab") -> str:
    answer = by.post("/groups", {"name": name, "about": "*Thursdays* <script>alert(1)</script>"})
    assert answer.status_code == 302, answer.content
    return str(answer["Location"])


def text(answer: Any) -> str:
    return str(answer.content.decode())


def joined(leader: Any, at: str, email: str) -> Any:
    link = re.search(r'<pre id="invitation">http://localhost(\S+)</pre>', text(leader.get(at)))
    assert link
    other = browser(email)
    path = html.unescape(link[1])
    assert "Join <bdi>" in text(other.get(path))
    assert other.get(at).status_code == 404  # reading the link joins nobody
    assert other.post(path)["Location"] == at
    return other


def test_a_lab_founds_a_group_invites_and_plans(paper: Any) -> None:
    from paperlab.site.people.actions import today

    ann = browser("ann@example.org")
    at = founded(ann)
    page = text(ann.get(at))
    assert "<em>Thursdays</em>" in page
    assert "<script>alert(1)" not in page
    ben = joined(ann, at, "ben@example.org")
    day = today() + timedelta(3)
    planned = ben.post(at, {"do": "meet", "day": str(day), "paper": "arXiv:2401.00001v2", "presenter": "Cleo",
                            "notes": "Read **section 3**."})  # fmt: skip
    assert planned["Location"].startswith(f"{at}#meeting-")
    ben.post(at, {"do": "meet", "day": str(today() - timedelta(4)), "paper": "2401.00001"})
    page = text(ann.get(at))
    assert f'datetime="{day}"' in page
    assert "presented by <bdi>Cleo</bdi>" in page
    assert "<strong>section 3</strong>" in page
    assert "<b>well" not in page
    assert page.index("Cleo") < page.index("<h3>Past meetings</h3>") < page.index(str(today() - timedelta(4)))
    edit = re.search(r'href="(/groups/meetings/\d+)"', page)
    assert edit
    assert 'value="2401.00001"' in text(ann.get(edit[1]))
    ann.post(edit[1], {"day": str(day), "paper": "2401.00001", "presenter": "Dora", "notes": ""})
    assert "Dora" in text(ben.get(at))
    assert "Cleo" not in text(ben.get(at))
    ann.post(edit[1], {"do": "delete"})
    assert "Dora" not in text(ben.get(at))


def test_what_is_wrong_is_said_and_nothing_is_lost(paper: Any) -> None:
    ann = browser("ann@example.org")
    assert "A group needs a name" in text(ann.post("/groups", {"name": " "}))
    at = founded(ann)
    good = {"do": "meet", "day": "2026-12-24", "paper": "2401.00001", "presenter": "Cleo", "notes": "my long notes"}
    for change, said in (
        ({"day": "24.12."}, "The date is expected as YYYY-MM-DD"),
        ({"day": "0001-01-01"}, "is not between 1990 and 2100"),
        ({"paper": "9999.99999"}, "No paper"),
        ({"paper": "\0"}, "No paper"),
        ({"presenter": "x" * 81}, "at most 80 are allowed"),
        ({"notes": "x" * 4001}, "at most 4,000 are allowed"),
    ):
        answer = ann.post(at, {**good, **change})
        assert answer.status_code == 400
        assert said in text(answer)
        for kept in {**good, **change}.values():
            assert kept.replace("\0", "") in text(answer)
    assert text(ann.get(at)).count('class="comment"') == 0


def test_collections_are_shared_by_their_owner_and_filled_by_all(paper: Any) -> None:
    from paperlab.site.people.models import Collection

    ann = browser("ann@example.org")
    at = founded(ann)
    ben = joined(ann, at, "ben@example.org")
    number = ben.post("/collections", {"name": "To read", "note": "for the lab"})["Location"].rpartition("/")[2]
    assert ann.post(at, {"do": "share", "collection": number}).status_code == 400  # not hers
    assert ann.post(at, {"do": "add", "collection": number, "paper": "2401.00001"}).status_code == 400  # not shared
    assert "for the lab" not in text(ann.get(at))
    ben.post(at, {"do": "share", "collection": number})
    ann.post(at, {"do": "add", "collection": number, "paper": "2401.00001", "note": "see figure 2"})
    for one in (ann, ben):
        assert "see figure 2" in text(one.get(at))
    assert "see figure 2" in text(ben.get(f"/collections/{number}"))
    assert ann.get(f"/collections/{number}").status_code == 404  # it stays his
    assert ann.post(at, {"do": "unshare", "collection": number}).status_code == 400
    ben.post(at, {"do": "leave"})
    assert "for the lab" not in text(ann.get(at))
    assert Collection.objects.filter(pk=number).exists()


def test_nobody_else_learns_of_a_group_unless_it_is_public(paper: Any) -> None:
    ann = browser("ann@example.org")
    at = founded(ann)
    ann.post("/account", {"name": "Ann A."})
    ann.post(at, {"do": "meet", "day": "2026-12-24", "paper": "2401.00001", "presenter": "Cleo"})
    meeting = re.search(r'href="(/groups/meetings/\d+)"', text(ann.get(at)))
    assert meeting
    eve = browser("eve@example.org")
    for one in (eve, browser()):
        assert one.get(at).status_code == 404
        assert one.post(at, {"do": "meet", "day": "2026-12-24", "paper": "2401.00001"}).status_code == 404
    assert eve.get(meeting[1]).status_code == 404
    assert eve.post(meeting[1], {"do": "delete"}).status_code == 404
    ann.post(at, {"do": "change", "name": "Our lab", "about": "", "public": "1"})
    for one in (eve, browser()):
        page = text(one.get(at))
        assert "Cleo" in page
        assert "Ann A." not in page
        assert '<form method="post"' not in page.partition("<main")[2]
        assert "invitation" not in page
        assert one.post(at, {"do": "leave"}).status_code == 404


def test_invitations_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from paperlab.site.groups import actions

    ann, eve = browser("ann@example.org"), browser("eve@example.org")
    at = founded(ann)
    link = html.unescape(re.search(r"http://localhost(/groups/join/[^<]+)", text(ann.get(at)))[1])  # type: ignore[index]
    for bad in ("/groups/join/x", link[:-2], link.replace("join/", "join/W")):
        assert eve.post(bad).status_code == 410
    assert "/sign-in?next=" in browser().get(link)["Location"]
    ann.post(at, {"do": "renew"})
    assert "has expired" in text(eve.get(link))
    assert eve.post(link).status_code == 410
    new = html.unescape(re.search(r"http://localhost(/groups/join/[^<]+)", text(ann.get(at)))[1])  # type: ignore[index]
    monkeypatch.setattr(actions, "INVITED", timedelta(seconds=-1))
    assert eve.post(new).status_code == 410


def test_leaders_lead_members_do_not_and_a_group_is_never_without(paper: Any) -> None:
    from paperlab.site.groups.models import Group, Member

    ann = browser("ann@example.org")
    at = founded(ann)
    ben, cleo = joined(ann, at, "ben@example.org"), joined(ann, at, "cleo@example.org")
    number = Member.objects.get(user__email="cleo@example.org").pk
    for sent in ({"do": "remove", "member": str(number)}, {"do": "renew"}, {"do": "delete", "word": "delete"},
                 {"do": "change", "name": "Ours"}, {"do": "lead", "member": str(number)}):  # fmt: skip
        assert ben.post(at, sent).status_code == 404
    assert "invitation" not in text(ben.get(at))
    ann.post(at, {"do": "remove", "member": str(number)})
    assert cleo.get(at).status_code == 404
    ann.post("/account/delete", {"word": "delete"})
    assert Member.objects.get(user__email="ben@example.org").leads
    assert ben.get("/account/export.json").json()["groups"][0]["name"] == "Our lab"
    assert ben.post(at, {"do": "delete", "word": ""}).status_code == 400
    ben.post(at, {"do": "leave"})
    assert not Group.objects.exists()


def test_forms_need_their_token(paper: Any) -> None:
    from django.contrib.auth.models import User
    from django.test import Client

    strict = Client(enforce_csrf_checks=True, headers={"host": "localhost"})
    strict.force_login(User.objects.get_or_create(username="x@example.org")[0])
    assert strict.post("/groups", {"name": "x"}).status_code == 403
