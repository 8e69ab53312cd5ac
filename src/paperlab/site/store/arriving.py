"""The worker's job that brings papers by itself: the sources of PAPERLAB_FETCH, each at its time.

How each has gone is kept in the database, where the admin's page, `paperlab doctor` and the next worker read it. One
that fails is asked again later and later, up to its own time or a quarter of a day, and said once, not at every try.
"""

import logging
import random
import re
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta

from django.conf import settings
from django.db import models
from django.utils import timezone

from paperlab.core.home import me
from paperlab.site import alive
from paperlab.site.start import StoreError
from paperlab.site.store import hangs, timetable
from paperlab.site.store.harvest import harvest
from paperlab.site.store.item import SourceError
from paperlab.site.store.models import Fetching
from paperlab.site.store.sources import named

logger = logging.getLogger(__name__)

AGAIN = (300, 6 * 3600)  # seconds until a source that failed is asked again: at first, and at most
JITTER = 0.1  # of the time between two readings, so that not all sites ask at one moment
TRIES = 3  # in a row; then it waits
LEASE = 1200  # seconds for which a worker has a source to itself: longer than one page may take


def sync() -> list[Fetching]:
    """The sources of the setting as rows of the database; those no longer named are forgotten."""
    wanted: dict[str, int] = settings.PAPERLAB_FETCH
    Fetching.objects.exclude(name__in=wanted).delete()
    for name, every in wanted.items():
        row, _ = Fetching.objects.get_or_create(name=name, defaults={"every": every, "next_run": timezone.now()})
        if row.every != every:  # a new time counts from now, a shorter one at once
            soon = min(row.next_run, timezone.now() + timedelta(seconds=every))
            Fetching.objects.filter(pk=row.pk).update(every=every, next_run=soon)
    return list(Fetching.objects.order_by("name"))


def ask(names: list[str]) -> int:
    """Fetch now: let the worker read these sources at its next look; how many there are."""
    return Fetching.objects.filter(name__in=names).update(next_run=timezone.now(), failures=0)


def due(chance: Callable[[], float] = random.random) -> Callable[[], bool]:
    """The job: reads one source whose time has come; whether there was one. chance: in [0, 1)."""
    synced = False

    def run() -> bool:
        nonlocal synced
        if not synced:
            sync()
            synced = True
        ready = Fetching.objects.filter(next_run__lte=timezone.now()).exclude(name__in=hangs.names_aside("fetch"))
        row = ready.order_by("next_run").first()
        if row is None or not _claim(row):
            return False
        with alive.doing(f"fetch {row.name}"):
            _read(row, chance)
        hangs.over(f"fetch {row.name}")
        return True

    return run


def _claim(row: Fetching) -> bool:
    """Whether the source is this worker's; of several machines on one database it is one's."""
    now = timezone.now()
    mine = Fetching.objects.filter(pk=row.pk, next_run=row.next_run)
    return bool(mine.update(next_run=now + timedelta(seconds=LEASE), last_tried=now, holder=me()))


def release() -> None:
    """Give back the sources that the worker before this one was reading when it ended: they are due."""
    Fetching.objects.filter(holder=me()).update(next_run=timezone.now(), holder="")


def _read(row: Fetching, chance: Callable[[], float]) -> None:
    def hold(*_: object) -> None:
        alive.sign()
        Fetching.objects.filter(pk=row.pk).update(next_run=timezone.now() + timedelta(seconds=LEASE))

    mine = Fetching.objects.filter(pk=row.pk)
    try:
        counts = harvest(named.source(row.name, tries=TRIES), hold)
    except Exception as error:  # a source may answer anything, and the others go on
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        failures = row.failures + 1
        wait = min(AGAIN[0] * 2 ** min(failures - 1, 20), AGAIN[1], row.every)
        again = timezone.now() + timedelta(seconds=wait * (1 + JITTER * chance()))
        _say(row, reason, again, None if isinstance(error, SourceError | StoreError | OSError) else error)
        mine.update(failures=failures, error=reason, next_run=again, holder="")
        return
    now = timezone.now()
    again = now + timedelta(seconds=row.every * (1 + JITTER * chance()))
    if row.failures:
        logger.info("fetch: %s answers again", row.name)
    mine.update(failures=0, error="", last_success=now, counts=asdict(counts), next_run=again, holder="")


def _say(row: Fetching, reason: str, again: datetime, error: Exception | None) -> None:
    """One line for one trouble: not at each try, and not for each source of a machine that is offline."""
    said = Fetching.objects.filter(~models.Q(error="")).values_list("error", flat=True)
    if _kind(reason) in {_kind(known) for known in said}:
        return
    logger.warning(
        "fetch: %s: %s; next try at %s UTC, then less and less often; PAPERLAB_FETCH=off stops this",
        row.name, reason, f"{again:%H:%M}", exc_info=error,
    )  # fmt: skip


def _kind(reason: str) -> str:
    """A reason without the host that it begins with, and without days and seconds."""
    return re.sub(r"\d+", "", reason.partition(": ")[2] or reason)


def announcement() -> list[str]:
    """What arrives by itself, for who starts the site, and what of it fails."""
    rows = sync()
    if not rows:
        return ["nothing is fetched automatically: PAPERLAB_FETCH is off"]
    said = ", ".join(f"{row.name} every {timetable.words(row.every)}" for row in rows)
    return [f"fetched automatically: {said}", *(f"{row.name}: {sentence(row)}" for row in rows if row.error)]


def sentence(row: Fetching, now: datetime | None = None) -> str:
    """How a source is doing, in a line."""
    now = now or timezone.now()
    went = f"fetched {_ago(now - row.last_success)} ago" if row.last_success else "not fetched yet"
    if row.error:
        times = f", {row.failures} times" if row.failures > 1 else ""
        went += f"; failed {_ago(now - (row.last_tried or now))} ago{times}: {row.error}"
    wait = row.next_run - now
    coming = f"next in {_ago(wait)}" if wait > timedelta(seconds=30) else "next now, if a worker runs"
    return f"every {timetable.words(row.every)}; {went}; {coming}"


def _ago(span: timedelta) -> str:
    seconds = max(0, round(span.total_seconds()))
    if seconds < 90:
        return f"{seconds} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{round(seconds / 3600)} h" if seconds < 36 * 3600 else f"{round(seconds / 86_400)} days"
