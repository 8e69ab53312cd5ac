"""Actions of people on papers: vote, comment, collect, read, follow, submit. Each change is one transaction."""

import secrets
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import Count, Prefetch

from paperlab.core.methods import methods
from paperlab.core.paper import FAMILIES
from paperlab.site.people import links, mine, names
from paperlab.site.people.counting import TRIAL, today
from paperlab.site.people.markdown import LIMIT
from paperlab.site.people.models import (
    READ,
    UNREAD,
    Choice,
    Collection,
    Comment,
    Follow,
    Kept,
    NameLook,
    Read,
    Report,
    SignIn,
    Submission,
    Tag,
    Vote,
)
from paperlab.site.people.who import HERE
from paperlab.site.search import query
from paperlab.site.store import clean, write
from paperlab.site.store.models import Paper
from paperlab.site.store.prepared import Prepared

KINDS = ("family", "author", "search", "claim")
MOST = 500  # collections, follows of one person
NOTE = 4_000  # characters
AGAIN = timedelta(hours=1)  # after which somebody may say the same words once more
TAGS, TAG = 20, 40  # tags on one paper, characters of one


class Refused(ValueError):
    """An action that is not possible; the message says why."""


def once() -> str:
    """A token that makes a form count once, however often it is sent."""
    return secrets.token_urlsafe(16)


def moved(papers: list[Paper]) -> None:
    """The papers' places in trending have changed: the index is to look at them again."""
    if papers:
        write.number(papers, write.lock())


def _is_staff(user: User) -> bool:
    """Whether somebody may have the names of the site's office; on a site of one's own nobody needs them."""
    return user.is_staff and user.username != HERE


def first_day(user: User) -> date:
    """The day on which a vote or a comment that somebody gives now counts for trending."""
    if user.is_staff or user.username == HERE:
        return today()
    return max(today(), user.date_joined.astimezone(UTC).date() + timedelta(TRIAL))


def rename(user: User, text: str) -> None:
    """Set the name shown with one's comments; empty: none, only a number. Raises Refused."""
    try:
        name = names.read(text, staff=_is_staff(user))
    except names.BadName as error:
        raise Refused(str(error)) from error
    looks = {look[:255] for look in names.skeletons(name)}
    taken = f"somebody else is named {name!r}, or so that it looks the same; add a word or an initial"
    try:
        with transaction.atomic():
            if NameLook.objects.filter(look__in=looks).exclude(user=user).exists():
                raise Refused(taken)
            NameLook.objects.filter(user=user).delete()
            NameLook.objects.bulk_create([NameLook(user=user, look=look) for look in looks])
            User.objects.filter(pk=user.pk).update(first_name=name)
    except IntegrityError as error:  # taken in this moment; or the same form was sent twice, and is done
        if not User.objects.filter(pk=user.pk, first_name=name).exists():
            raise Refused(taken) from error


def vote(user: User, paper: Paper, on: bool) -> None:
    """Give a paper one's vote, or take it back; doing it twice changes nothing."""
    with transaction.atomic():
        if on:
            days = {"day": today(), "counts": first_day(user)}
            changed = Vote.objects.get_or_create(user=user, paper=paper, defaults=days)[1]
        else:
            changed = bool(Vote.objects.filter(user=user, paper=paper).delete()[0])
        if changed:
            moved([paper])


def _body(text: str) -> str:
    body = clean.text(text).strip()
    if not body:
        raise Refused("the comment is empty")
    if len(body) > LIMIT:
        raise Refused(f"the comment has {len(body):,} characters; at most {LIMIT:,} are allowed")
    return body


def comment(user: User, paper: Paper, text: str, token: str) -> Comment:
    """Add a comment; the same form sent again is the same comment. Raises Refused."""
    body, token = _body(text), f"{user.pk} {token or once()}"[:64]
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)  # so that two forms sent at once come one after the other
        made = Comment.objects.filter(once=token).first()
        if made is not None:
            return made
        if Comment.objects.filter(user=user, body=body, at__gt=datetime.now(UTC) - AGAIN).exists():
            raise Refused("you have posted the same words within the last hour")
        made = Comment.objects.create(
            user=user, paper=paper, body=body, once=token, day=today(), counts=first_day(user)
        )
        moved([paper])
        return made


def edit_comment(row: Comment, text: str) -> None:
    """Change a comment. Raises Refused."""
    Comment.objects.filter(pk=row.pk).update(body=_body(text), edited=datetime.now(UTC))


def delete_comment(row: Comment) -> None:
    """Delete a comment."""
    with transaction.atomic():
        paper = row.paper
        row.delete()
        moved([paper])


def collect(user: User, name: str, note: str = "") -> Collection:
    """The collection of that name, made if there is none. Raises Refused."""
    name = clean.line(name)[:120]
    if not name:
        raise Refused("a collection needs a name")
    if Collection.objects.filter(user=user).count() >= MOST:
        raise Refused(f"you can have at most {MOST} collections")
    return Collection.objects.get_or_create(user=user, name=name, defaults={"note": note[:NOTE].replace("\0", "")})[0]


def name_collection(collection: Collection, text: str) -> None:
    """Give a collection another name. Raises Refused."""
    name = clean.line(text)[:120]
    if not name:
        raise Refused("a collection needs a name")
    others = Collection.objects.filter(user=collection.user_id, name=name).exclude(pk=collection.pk)
    if others.exists():
        raise Refused(f"you have another collection named {name!r}")
    if collection.shared or collection.in_groups.filter(group__public=True).exists():
        unofficial(name, collection.user)
    Collection.objects.filter(pk=collection.pk).update(name=name)


def unofficial(name: str, user: User) -> None:
    """Refuse a title that strangers will read and take for the site's own. Raises Refused."""
    if not _is_staff(user) and names.poses(name):
        raise Refused(f"{name!r} reads as if this site itself had written it; choose another name to show to others")


def share(collection: Collection, on: bool) -> None:
    """Let whoever has its link see a collection, or no longer: shared again, it has another link. Raises Refused."""
    if on and collection.shared:
        return
    if on:
        unofficial(collection.name, collection.user)
    Collection.objects.filter(pk=collection.pk).update(shared=links.fresh() if on else "")


def read_tags(text: str) -> list[str]:
    """The tags of a line, between commas. Raises Refused."""
    names = list(dict.fromkeys(name for part in text.split(",") if (name := clean.line(part).lower())))
    if len(names) > TAGS:
        raise Refused(f"{len(names)} tags; a paper can have at most {TAGS}")
    if long := [name for name in names if len(name) > TAG]:
        raise Refused(f"the tag {long[0][:60]!r} has {len(long[0])} characters; at most {TAG} are allowed")
    return names


def keep(
    collection: Collection,
    paper: Paper,
    on: bool,
    note: str | None = None,
    tags: str | None = None,
    by: User | None = None,
) -> None:
    """Put a paper into a collection, with a note and with tags between commas, or take it out. None: as they were.
    by: who writes, None for the collection's owner. Raises Refused."""
    if not on:
        Kept.objects.filter(collection=collection, paper=paper).delete()
        return
    names = None if tags is None else read_tags(tags)
    changed: dict[str, Any] = {} if note is None else {"note": note[:NOTE].replace("\0", ""), "user": by}
    with transaction.atomic():
        hidden = Kept.objects.filter(collection=collection, paper=paper, hidden=True).exclude(user=by)
        if note is not None and hidden.exists():
            raise Refused("a moderator hid somebody else's note on this paper; take the paper out to write another")
        row = Kept.objects.update_or_create(collection=collection, paper=paper, defaults=changed)[0]
        if names is not None:
            row.tags.exclude(name__in=names).delete()
            Tag.objects.bulk_create([Tag(kept=row, name=name) for name in names], ignore_conflicts=True)


def read(user: User, paper: Paper, on: bool) -> None:
    """Mark a paper as read, or as unread; what is marked as unread stays so when it is opened again."""
    Read.objects.update_or_create(user=user, paper=paper, defaults={"state": READ if on else UNREAD})


def remember(user: User, on: bool) -> None:
    """Keep from now on which papers somebody opens, or no longer."""
    Choice.objects.update_or_create(user=user, defaults={"remember": on})


def forget_reading(user: User) -> None:
    """Delete which papers somebody has opened or marked."""
    Read.objects.filter(user=user).delete()


def interest(kind: str, value: str) -> tuple[str, str]:
    """What can be followed, in its one form. Raises Refused."""
    value = clean.line(value)[:500]
    if kind == "family" and value in FAMILIES:
        return kind, value
    if kind == "author" and value:
        return kind, value
    if kind == "claim":
        slug, _, claim = value.partition(":")
        method = methods().get(slug)
        if method and claim in [check.claim for check in method.card.checks]:
            return kind, value
    if kind == "search" and value:
        try:
            asked = query.read(parse_qs(value.lstrip("?")))
        except query.BadQuery as error:
            raise Refused(f"this search cannot be followed: {error}") from error
        kept = urlencode([pair for pair in asked.params() if pair[0] not in ("offset", "limit", "sort")])
        if kept and len(kept) <= 500:
            return kind, kept
    raise Refused(f"no such {kind if kind in KINDS else 'kind of interest'} to follow: {value[:80]!r}")


def follow(user: User, kind: str, value: str, on: bool) -> None:
    """Follow something, or no longer. Raises Refused."""
    if not on:
        Follow.objects.filter(user=user, kind=kind[:10], value=value[:500]).delete()
        return
    if Follow.objects.filter(user=user).count() >= MOST:
        raise Refused(f"you can follow at most {MOST} things; unfollow one first")
    kind, value = interest(kind, value)
    Follow.objects.get_or_create(user=user, kind=kind, value=value)


def submit(user: User, text: str) -> Paper | Submission:
    """The paper of an arXiv id, if it is here, else a wish that the worker fetches it. Raises Refused."""
    known = clean.arxiv_id(text[:200])
    if known is None:
        raise Refused("this is not an arXiv id; examples are 2403.02775 and cs/0601001")
    paper = Paper.objects.filter(arxiv=known[0]).first()
    if paper is not None:
        return paper
    row, new = Submission.objects.get_or_create(arxiv=known[0], defaults={"user": user})
    if not new and row.state in ("failed", "unknown"):  # asked again: tried again
        Submission.objects.filter(pk=row.pk).update(state="waiting", reason="", tries=0)
        row.refresh_from_db()
    return row


_VOTES = Prepared(
    lambda papers: (
        Vote.objects.filter(paper__in=papers, user__is_active=True)
        .order_by()
        .values_list("paper", "counts")
        .annotate(number=Count("pk"))
    )
)


def votes(papers: list[int]) -> dict[int, tuple[int, int]]:
    """How many people here voted for each paper, and how many of them by new accounts, whose votes do not count for
    trending yet; closed accounts have no vote."""
    counted, now = dict.fromkeys(papers, (0, 0)), today()
    for paper, counts, number in _VOTES.rows(list(counted)):
        every, fresh = counted[paper]
        counted[paper] = every + number, fresh + (number if counts > now else 0)
    return counted


def all_votes(here: tuple[int, int], elsewhere: int | None) -> tuple[int, str]:
    """One number of votes, and where they come from in words. here: as `votes` has it."""
    count, fresh = here
    parts = [f"{count:,} on this site" + (f" ({fresh:,} from new accounts, not in trending yet)" if fresh else "")]
    parts += [] if elsewhere is None else [f"{elsewhere:,} on daily lists"]
    return count + (elsewhere or 0), ", ".join(parts)


def export(user: User) -> dict[str, Any]:
    """All that is known of a person."""
    from paperlab.site.digest.models import Subscription
    from paperlab.site.groups.actions import exported as groups
    from paperlab.site.groups.actions import exported_meetings as meetings
    from paperlab.site.replies.actions import exported as replies
    from paperlab.site.runs.models import Run
    from paperlab.site.tokens.actions import exported as tokens

    def name(paper: Paper) -> str:
        return paper.arxiv or paper.slug or f"~{paper.pk}"

    subscribed = Subscription.objects.filter(email=user.email) if user.email else Subscription.objects.none()
    return {
        "account": {
            "email": user.email or None,
            "name": user.first_name or None,
            "joined": str(user.date_joined),
            "last": str(user.last_login),
        },
        "votes": [
            {"paper": name(v.paper), "day": str(v.day), "counts": str(v.counts)}
            for v in Vote.objects.filter(user=user).select_related("paper")
        ],
        "comments": [
            {"paper": name(c.paper), "at": str(c.at), "body": c.body, "hidden": c.hidden}
            for c in Comment.objects.filter(user=user).select_related("paper")
        ],
        "reports": [
            {r.what.model_class().kind: r.which, "at": str(r.at), "reason": r.reason, "note": r.note}
            for r in Report.objects.filter(user=user).select_related("what")
        ],
        "collections": [
            {
                "name": c.name,
                "note": c.note,
                "shared": bool(c.shared),
                "papers": [
                    {
                        "paper": name(k.paper),
                        "note": k.note if k.seen_by(user.pk) else None,
                        "tags": [tag.name for tag in k.tags.all()],
                        "added": str(k.added),
                    }
                    for k in c.kept.all()
                ],
            }
            for c in Collection.objects.filter(user=user).prefetch_related(
                Prefetch("kept", Kept.objects.select_related("paper", "user", "collection__user")), "kept__tags"
            )
        ],
        "read": [
            {"paper": name(r.paper), "state": r.state, "at": str(r.at)}
            for r in Read.objects.filter(user=user).select_related("paper")
        ],
        "choices": {"remember": mine.choice(user.pk).remember},
        "follows": [{"kind": f.kind, "value": f.value, "at": str(f.at)} for f in Follow.objects.filter(user=user)],
        "submissions": [{"arxiv": s.arxiv, "state": s.state} for s in Submission.objects.filter(user=user)],
        "subscriptions": [
            {"email": s.email, "state": s.state, "every": s.every, "interests": s.interests, "for_you": s.for_you}
            for s in subscribed
        ],
        "runs": [
            {"run": r.pk, "method": r.method, "claim": r.claim or None, "scale": r.scale, "asked": str(r.asked)}
            for r in Run.objects.filter(who=user).defer("log")
        ],
        "tokens": tokens(user),
        "notes": [  # in the collections of others
            {"paper": name(k.paper), "note": k.note} for k in Kept.objects.filter(user=user).select_related("paper")
        ],
        "groups": groups(user),
        "meetings": meetings(user),
        "replies": replies(user),
    }


def forget(user: User) -> None:
    """Delete an account and all that it holds: its sessions on other machines and its sign-in links too."""
    from paperlab.site.digest.models import Subscription
    from paperlab.site.people.moderation import end_sessions

    with transaction.atomic():
        end_sessions(user)
        SignIn.objects.filter(email=user.username).delete()
        papers = list(Paper.objects.filter(votes__user=user) | Paper.objects.filter(site_comments__user=user))
        if user.email:
            Subscription.objects.filter(email=user.email).delete()
        user.delete()
        moved(papers)
