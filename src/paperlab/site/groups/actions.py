"""What members do: found a group, invite and join, share collections, plan and keep the journal club."""

from datetime import date, timedelta
from typing import Any

from django.contrib.auth.models import User
from django.core import signing
from django.db import transaction
from django.db.models import F

from paperlab.site.api import shapes
from paperlab.site.groups.models import Group, Meeting, Member, Shared
from paperlab.site.pages import addresses
from paperlab.site.people import actions as people
from paperlab.site.people import names
from paperlab.site.people.actions import Refused
from paperlab.site.people.models import Collection, Written
from paperlab.site.store import clean
from paperlab.site.store.models import Paper

MOST = {"groups": 50, "members": 200, "collections": 50, "meetings": 1_000}
TEXT = 4_000  # characters of a text about a group, or of notes
NAME = 80  # of a presenter's name
INVITED = timedelta(days=14)
_SALT = "paperlab.groups"
FIRST, LAST = date(1990, 1, 1), date(2100, 1, 1)


def _name(text: str) -> str:
    name = clean.line(text)
    if not name or len(name) > 120:
        raise Refused("a group needs a name of at most 120 characters")
    return name


def _text(value: str, what: str) -> str:
    plain = clean.text(value).strip()
    if len(plain) > TEXT:
        raise Refused(f"{what} has {len(plain):,} characters; at most {TEXT:,} are allowed")
    return plain


def found(user: User, name: str, about: str) -> Group:
    """A new group that its founder leads. Raises Refused."""
    name, about = _name(name), _text(about, "the text")
    if Member.objects.filter(user=user).count() >= MOST["groups"]:
        raise Refused(f"you can be in at most {MOST['groups']} groups")
    with transaction.atomic():
        group = Group.objects.create(name=name, about=about, user=user)
        Member.objects.create(group=group, user=user, leads=True)
    return group


def change(group: Group, user: User, name: str, about: str, public: bool) -> None:
    """Change what a group is called, says, and shows. Raises Refused."""
    name, about = _name(name), _text(about, "the text")
    _unhidden(group, user)
    if public:
        names_apart(group, name, user)
        for row in group.shared.select_related("collection"):
            people.unofficial(row.collection.name, user)
    if (name, about) != (group.name, group.about):
        group.user = user
    group.name, group.about, group.public = name, about, public
    group.save(update_fields=["name", "about", "public", "user"])


def names_apart(group: Group, name: str, user: User) -> None:
    """Refuse the name of a public group that poses as the site's own, or as another public group."""
    people.unofficial(name, user)
    looks = names.skeletons(name)
    others = Group.objects.filter(public=True).exclude(pk=group.pk).values_list("name", flat=True)
    if any(looks & names.skeletons(other) for other in others):
        raise Refused(f"another public group is named {name!r}, or so that it looks the same; add a word")


def _unhidden(row: Written, user: User) -> None:
    if row.hidden and row.writer != user:
        raise Refused(f"a moderator hid this {row.kind}: only its writer can change it")


def invitation(group: Group) -> str:
    """The word of the link by which others join, good for two weeks."""
    return signing.dumps([group.pk, group.invitation], salt=_SALT)


def invited(word: str) -> Group | None:
    """The group of an invitation; None where it is none, too old, or taken back."""
    try:
        pk, number = signing.loads(word, salt=_SALT, max_age=INVITED)
    except (signing.BadSignature, ValueError, TypeError):
        return None
    return Group.objects.filter(pk=pk, invitation=number).first()


def join(group: Group, user: User) -> None:
    """Make somebody a member; twice is once. Raises Refused."""
    if group.members.count() >= MOST["members"]:
        raise Refused(f"a group can have at most {MOST['members']} members")
    Member.objects.get_or_create(group=group, user=user)


def renew(group: Group) -> None:
    """End the links that were given out."""
    Group.objects.filter(pk=group.pk).update(invitation=F("invitation") + 1)


def remove(group: Group, member: Member) -> None:
    """Take somebody out, and end the links by which they came: they could join again at once."""
    with transaction.atomic():
        member.delete()
        renew(group)


def share(group: Group, user: User, collection: int, on: bool) -> None:
    """Share one's own collection with the group, or no longer. Raises Refused."""
    own = Collection.objects.filter(pk=collection, user=user).first()
    if own is None:
        raise Refused("choose one of your own collections")
    if not on:
        Shared.objects.filter(group=group, collection=own).delete()
        return
    if group.shared.count() >= MOST["collections"]:
        raise Refused(f"a group can have at most {MOST['collections']} collections")
    if group.public:
        people.unofficial(own.name, user)
    Shared.objects.get_or_create(group=group, collection=own)


def _paper(name: str) -> Paper:
    row = None if "\0" in name else shapes.find(name[:200])
    if row is None:
        raise Refused(f"no paper {name[:80]!r} here: give its arXiv id, such as 2403.02775, or the name in its address")
    return row


def add(group: Group, user: User, collection: int, name: str, note: str) -> None:
    """Put a paper into a collection that is shared with the group. Raises Refused."""
    row = group.shared.filter(collection=collection).select_related("collection").first()
    if row is None:
        raise Refused("this collection is no longer shared with the group")
    paper, note = _paper(name), _text(note, "the note")
    by = None if row.collection.user_id == user.pk else user
    if note and by and row.collection.kept.filter(paper=paper).exclude(note="").exclude(user=by).exists():
        raise Refused("this paper is in the collection with a note already, which only its writer changes")
    people.keep(row.collection, paper, True, note or None, by=by)


def meet(
    group: Group, user: User, day: str, paper: str, presenter: str, notes: str, row: Meeting | None = None
) -> Meeting:
    """Plan a meeting, or change one. Raises Refused."""
    try:
        on = date.fromisoformat(day)
    except ValueError:
        raise Refused(f"the date is expected as YYYY-MM-DD, not {day[:40]!r}") from None
    if not FIRST <= on < LAST:
        raise Refused(f"the date {on} is not between {FIRST.year} and {LAST.year}")
    found_paper, name = _paper(paper), clean.line(presenter)
    if len(name) > NAME:
        raise Refused(f"the presenter's name has {len(name)} characters; at most {NAME} are allowed")
    if row is None:
        if group.meetings.count() >= MOST["meetings"]:
            raise Refused(f"a group can have at most {MOST['meetings']:,} meetings")
        row = Meeting(group=group)
    _unhidden(row, user)
    text = _text(notes, "the notes")
    if (name, text) != (row.presenter, row.notes):
        row.user = user
    row.day, row.paper, row.presenter, row.notes = on, found_paper, name, text
    row.save()
    return row


def exported(user: User) -> list[dict[str, Any]]:
    """Somebody's groups as their export has them."""
    rows = Member.objects.filter(user=user).select_related("group__user")
    return [
        {"name": one.group.name if one.group.seen_by(user.pk) else None, "leads": one.leads, "joined": str(one.joined)}
        for one in rows
    ]


def exported_meetings(user: User) -> list[dict[str, Any]]:
    """The meetings that somebody planned, or changed last, as their export has them."""
    rows = Meeting.objects.filter(user=user).select_related("paper")
    return [
        {"day": str(m.day), "paper": addresses.name(m.paper), "presenter": m.presenter, "notes": m.notes} for m in rows
    ]
