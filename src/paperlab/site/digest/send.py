"""Send the digest: a person's row is claimed before anything is sent, so it goes once at most, whatever crashes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path

from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.template.loader import render_to_string

from paperlab.site.digest import letters, post
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

CHUNK = 500
TRIES = 3  # of a letter that the relay refused for the moment
WEEKLY = 0  # Monday: the day on which a week's digest goes


@dataclass
class Counts:
    """What became of the digests of a day."""

    people: int = 0
    sent: int = 0
    nothing: int = 0
    before: int = 0
    refused: int = 0
    unsure: int = 0


def people(day: date) -> Iterator[tuple[Subscription, list[Interest]]]:
    """Who is to get a digest of this day, with what they follow: by their subscription, and by their account."""
    last = 0
    while rows := list(
        Subscription.objects.filter(state=ACTIVE, pk__gt=last)
        .exclude(every__in=() if day.weekday() == WEEKLY else ("week",))
        .order_by("pk")[:CHUNK]
    ):
        last = rows[-1].pk
        users = dict(User.objects.filter(username__in=[row.email for row in rows]).values_list("pk", "username"))
        follows: dict[str, list[Interest]] = {}
        for user, kind, value in Follow.objects.filter(user__in=users).values_list("user", "kind", "value"):
            follows.setdefault(users[user], []).append((kind, value))
        for row in rows:
            own = [(str(kind), str(value)) for kind, value in row.interests]
            yield row, list(dict.fromkeys([*own, *follows.get(row.email, [])]))


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
        "List-Id": f"paperlab digest <digest.{letters.site().partition('://')[2].partition(':')[0]}>",
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
    day: date, *, to: Path | None = None, dry: bool = False, progress: Callable[[Counts], None] = lambda counts: None
) -> Counts:
    """Send the digests of a day that were not sent yet. to: write them there instead, and note nothing. dry: only
    count. Raises Away where the relay cannot be reached; what was not sent until then is sent by the next call."""
    issues = {every: Issue(day, every, letters.site()) for every in ("day", "week")}
    out, counts = post.post(to), Counts()
    try:
        for row, interests in people(day):
            counts.people += 1
            issue = issues[row.every]
            sections = issue.sections(interests)
            if not sections:
                counts.nothing += 1
            elif dry:
                counts.sent += 1
            elif to is not None:
                out.hand_over(compose(row, issue, sections))
                counts.sent += 1
            else:
                _send(row, issue, sections, out, counts)
            progress(counts)
    finally:
        out.close()
    return counts


def _send(row: Subscription, issue: Issue, sections: list[Section], out: post.Post, counts: Counts) -> None:
    claimed = _claim(row, issue.day)
    if claimed is None:
        counts.before += 1
        return
    try:
        out.hand_over(compose(row, issue, sections))
    except post.Away:
        _became(claimed, REFUSED)
        raise
    except (post.NotTaken, ValueError) as error:
        counts.refused += 1
        _became(claimed, REFUSED, str(error), 1)
        if isinstance(error, post.NotTaken) and error.for_good:
            suppress(row.email, str(error))
    except post.Unsure as error:
        counts.unsure += 1
        _became(claimed, UNSURE, str(error))
    else:
        counts.sent += 1
        _became(claimed, SENT)


def suppress(email: str, reason: str) -> bool:
    """Write to an address no more; whether it was subscribed."""
    rows = Subscription.objects.filter(email=email).exclude(state=SUPPRESSED)
    return bool(rows.update(state=SUPPRESSED, reason=reason[:500], wanted=False))


def due() -> Callable[[], bool]:
    """The worker's job: the digest of yesterday, from PAPERLAB_DIGEST_HOUR on."""
    done: list[date] = []

    def run() -> bool:
        now = datetime.now(UTC)
        day = now.date() - timedelta(1)
        if done == [day] or now.hour < settings.PAPERLAB_DIGEST_HOUR:
            return False
        counts = digest(day)
        if not counts.refused:
            done[:] = [day]
        elif Delivery.objects.filter(day=day, state=REFUSED, tries__lt=TRIES, subscription__state=ACTIVE).exists():
            raise post.Away(f"{counts.refused} digests were refused for the moment")
        else:
            done[:] = [day]
        return counts.sent > 0

    return run
