"""From which day votes and comments count for trending: those of a new account not at once.

An account is made with a verified address, by a mailed link. That alone costs a spammer nothing where addresses are
free, so that its votes wait too: until it is TRIAL days old, and long enough to be closed by a moderator before.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

from django.db import transaction
from django.db.models import F, Q

TRIAL = 3  # days


def today() -> date:
    """The day that it is, in UTC."""
    return datetime.now(UTC).date()


def arrivals() -> Callable[[], bool]:
    """The worker's job: on a new day, papers whose votes or comments count from then on have moved in trending."""
    from paperlab.site.store import write
    from paperlab.site.store.models import Counter, Paper

    reached: date | None = None

    def run() -> bool:
        nonlocal reached
        now = today()
        if now == reached:
            return False
        with transaction.atomic():
            revision = write.lock()
            row = Counter.objects.get_or_create(name="counted", defaults={"value": now.toordinal()})[0]
            span = (date.fromordinal(max(1, row.value)) + timedelta(1), now)
            waited = Q(votes__counts__range=span, votes__counts__gt=F("votes__day"))
            waited |= Q(site_comments__counts__range=span, site_comments__counts__gt=F("site_comments__day"))
            moved = list(Paper.objects.filter(waited).only("pk").distinct()) if span[0] <= now else []
            write.number(moved, revision)
            Counter.objects.filter(name="counted").update(value=now.toordinal())
        reached = now
        return bool(moved)

    return run
