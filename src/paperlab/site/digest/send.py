"""Send the digest: a person's row is claimed before anything is sent, so it goes once at most, whatever crashes."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from email.message import EmailMessage
from pathlib import Path

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.template.loader import render_to_string

from paperlab.site.digest import hours, letters, post, relay
from paperlab.site.digest.choose import Interest, Issue, Section
from paperlab.site.digest.models import (
    ACTIVE,
    REFUSED,
    SENDING,
    SENT,
    SUPPRESSED,
    UNSURE,
    Delivery,
    Subscription,
)
from paperlab.site.people.models import Follow

logger = logging.getLogger(__name__)

CHUNK = 500
KNOWN = 60  # the last letters to an address, whose bounces are believed
WAITS = (1, 5, 30, 120, 360)  # minutes until what the relay refused for the moment is tried again
TRIES = len(WAITS) + 1
WEEK_ENDS = 6  # Sunday: like each digest, a week's goes on the day after, Monday


@dataclass
class Counts:
    """What became of the digests of a day. reason: what the relay said last."""

    people: int = 0
    sent: int = 0
    nothing: int = 0
    before: int = 0
    refused: int = 0
    unsure: int = 0
    reason: str = ""


def people(day: date, *, late: bool = False) -> Iterator[tuple[Subscription, list[Interest], int | None]]:
    """Who is to get a digest of this day, with what they follow: by their subscription, and by their account; and the
    account for which papers are to be picked.

    Those whose digest the relay has refused come last, so that they hold up nobody. late: only those who had asked for
    it when it was due, and every week.
    """
    wanted = Subscription.objects.filter(state=ACTIVE)
    if late:
        due_at = datetime.combine(day + timedelta(1), time(), hours.zone())
        wanted = wanted.filter(Q(confirmed=None) | Q(confirmed__lt=due_at), every="week")
    elif day.weekday() != WEEK_ENDS:
        wanted = wanted.exclude(every="week")
    refused = set(Delivery.objects.filter(day=day, state=REFUSED).values_list("subscription", flat=True))
    last = 0
    while rows := list(wanted.filter(pk__gt=last).order_by("pk")[:CHUNK]):
        last = rows[-1].pk
        yield from _interests([row for row in rows if row.pk not in refused])
    again = sorted(refused)
    for start in range(0, len(again), CHUNK):
        yield from _interests(list(wanted.filter(pk__in=again[start : start + CHUNK]).order_by("pk")))


def _interests(rows: list[Subscription]) -> Iterator[tuple[Subscription, list[Interest], int | None]]:
    found = User.objects.filter(username__in=[row.email for row in rows]).values_list("pk", "username", "is_active")
    users = {user: email for user, email, _ in found}
    readers = {email: user for user, email, active in found if active}
    follows: dict[str, list[Interest]] = {}
    for user, kind, value in Follow.objects.filter(user__in=users).values_list("user", "kind", "value"):
        follows.setdefault(users[user], []).append((kind, value))
    for row in rows:
        own = [(str(kind), str(value)) for kind, value in row.interests]
        reader = readers.get(row.email) if row.for_you else None
        yield row, list(dict.fromkeys([*own, *follows.get(row.email, [])])), reader


def compose(row: Subscription, issue: Issue, sections: list[Section]) -> EmailMessage:
    """Somebody's digest."""
    leave = f"{letters.site()}/unsubscribe/{letters.seal(row)}"
    count = sum(len(section.items) for section in sections)
    context = {"issue": issue, "sections": sections, "leave": leave, "site": letters.site(), "every": row.every}
    first = sections[0].items[0].text.splitlines()[0]
    subject = f"{issue.span.title}: {first}" if count == 1 else f"{issue.span.title}: {count} for you"
    headers = {
        "List-Unsubscribe": f"<{leave}>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        "List-Id": f"paperlab digest <digest.{letters.host()}>",
        "Precedence": "bulk",
    }
    text, html = render_to_string("digest/digest.txt", context), render_to_string("digest/digest.html", context)
    return letters.letter(row.email, subject, text, html, letters.message_id("digest", row.nonce, issue.day), headers)


def _claim(row: Subscription, day: date) -> Delivery | None:
    """The row of this person and day, ours alone to send; None where it was sent, or may have been."""
    try:
        with transaction.atomic():
            name = letters.message_id("digest", row.nonce, day)
            return Delivery.objects.create(subscription=row, day=day, message_id=name)
    except IntegrityError:
        again = Delivery.objects.filter(subscription=row, day=day, state=REFUSED, tries__lt=TRIES)
        return Delivery.objects.get(subscription=row, day=day) if again.update(state=SENDING) else None


def _became(claimed: Delivery, state: str, reason: str = "", tries: int = 0) -> None:
    Delivery.objects.filter(pk=claimed.pk).update(
        state=state, reason=reason[:500], tries=claimed.tries + tries, at=datetime.now(UTC)
    )


def digest(
    day: date,
    *,
    to: Path | None = None,
    dry: bool = False,
    late: bool = False,
    progress: Callable[[Counts], None] = lambda counts: None,
) -> Counts:
    """Send the digests of a day that were not sent yet. to: write them there instead, and note nothing. dry: only
    count. late: see `people`. Raises Away where the relay cannot be reached, Refusing where it refuses one after the
    other (what was not sent until then is sent by the next call), SmtpError, and what a followed search raises."""
    letters.sender()
    issues = {every: Issue(day, every, letters.site()) for every in ("day", "week")}
    out: post.Post = relay.relay() if to is None else post.post(to)
    counts, gone = Counts(), dict[str, str]()
    try:
        for row, interests, reader in people(day, late=late):
            counts.people += 1
            issue = issues[row.every]
            sections = issue.sections(interests, reader)
            if not sections:
                counts.nothing += 1
            elif dry:
                counts.sent += 1
            elif to is not None:
                out.hand_over(compose(row, issue, sections))
                counts.sent += 1
            else:
                _send(row, issue, sections, out, counts, gone)
            progress(counts)
    finally:
        out.close()
        if gone and _takes(day):  # a relay that takes no letter at all may call every address unknown
            for email, reason in gone.items():
                suppress(email, reason)
    return counts


def _takes(day: date) -> bool:
    """Whether the relay has taken a digest of the day."""
    return Delivery.objects.filter(day=day, state=SENT).exists()


def _send(
    row: Subscription, issue: Issue, sections: list[Section], out: post.Post, counts: Counts, gone: dict[str, str]
) -> None:
    """Send one digest. gone: where an address is put at which there is nobody."""
    claimed = _claim(row, issue.day)
    if claimed is None:
        counts.before += 1
        return
    try:
        out.hand_over(compose(row, issue, sections))
    except post.Refusing as error:
        _became(claimed, REFUSED, str(error), int(_takes(issue.day)))  # no try is lost to a relay that takes nothing
        raise
    except post.Away:
        _became(claimed, REFUSED)
        raise
    except (post.NotTaken, ValueError) as error:
        counts.refused, counts.reason = counts.refused + 1, str(error)
        _became(claimed, REFUSED, str(error), 1)
        if isinstance(error, post.NotTaken) and error.gone:
            gone[row.email] = str(error)
    except post.Unsure as error:
        counts.unsure += 1
        _became(claimed, UNSURE, str(error))
    else:
        counts.sent += 1
        _became(claimed, SENT)


def suppress(email: str, reason: str) -> bool:
    """Write to an address no more, until somebody there confirms again; whether it was subscribed."""
    rows = Subscription.objects.filter(email=email).exclude(state=SUPPRESSED)
    return bool(rows.update(state=SUPPRESSED, reason=reason[:500], wanted=False))


def bounced(email: str, report: bytes) -> bool:
    """Suppress an address of a delivery report, whether it did; False where the report returns no letter of ours to it,
    by its Message-ID, which nobody can make up: anybody can write a report, about anybody."""
    row = Subscription.objects.filter(email=email).first()
    if row is None:
        return False
    names = list(row.deliveries.order_by("-day").values_list("message_id", flat=True)[:KNOWN])
    names += [letters.message_id("confirm", row.digest)] if row.digest else []
    return any(name.encode() in report for name in names) and suppress(email, "bounced")


def due(now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Callable[[], bool]:
    """The worker's job: the digest of yesterday, from PAPERLAB_DIGEST_HOUR on, in PAPERLAB_TIMEZONE; and of the last
    week that ended, should there have been no worker on its Monday.
    """
    plan: dict[date, tuple[int, datetime | None]] = {}  # how often it was tried, and when next; None: it is done

    def run() -> bool:
        at = now().astimezone(hours.zone())
        yesterday = at.date() - timedelta(1)
        if at < hours.goes(yesterday):
            return False
        week = yesterday - timedelta((yesterday.weekday() - WEEK_ENDS) % 7)
        sent = 0
        for day in {week, yesterday}:
            tried, then = plan.get(day, (0, at))
            if then is None or at < then:
                continue
            counts = digest(day, late=day != yesterday)
            sent += counts.sent
            held = Delivery.objects.filter(day=day, state=REFUSED, tries__lt=TRIES, subscription__state=ACTIVE)
            wait = timedelta(minutes=WAITS[min(tried, len(WAITS) - 1)])
            if counts.refused and held.exists():
                plan[day] = tried + 1, at + wait
                logger.warning("%d digests were refused (%s); again in %s", counts.refused, counts.reason, wait)
            else:
                plan[day] = tried + 1, None
        for day in set(plan) - {week, yesterday}:
            del plan[day]
        return sent > 0

    return run
