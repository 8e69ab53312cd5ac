"""Jobs of the worker that hung: counted, and set aside for a while after some times in a row.

A job is named as the worker names it, with the part that it was at where it has parts: "words", "fetch hf:daily".
"""

import time
from datetime import timedelta

from django.db.models import F, Q
from django.utils import timezone

from paperlab.site.store.models import Hang

MOST = 3  # times in a row
REST = timedelta(days=1)  # for which it is set aside then; after that it is tried once more
LOOK = 30.0  # seconds between two looks at what the administration has let go

_known: dict[str, bool] = {}  # names of what hung -> whether it is set aside
_looked = float("-inf")


def count(names: list[str]) -> None:
    """Note that these hung, and made the worker be replaced."""
    now = timezone.now()
    for name in names:
        row, new = Hang.objects.get_or_create(name=name[:200], defaults={"at": now})
        if not new:
            Hang.objects.filter(pk=row.pk).update(times=F("times") + 1, at=now)
    _look(again=True)


def aside() -> Q:
    """The condition of what is set aside now."""
    return Q(times__gte=MOST, at__gt=timezone.now() - REST)


def is_aside(name: str) -> bool:
    """Whether a job is to be left out."""
    return _look().get(name, False)


def names_aside(job: str) -> list[str]:
    """The parts of a job that are to be left out."""
    return [name.partition(" ")[2] for name, out in _look().items() if out and name.startswith(f"{job} ")]


def over(name: str) -> None:
    """Note that a job came to its end."""
    if name in _look() and not _known[name]:
        Hang.objects.filter(name=name).delete()
        _known.pop(name, None)


def _look(*, again: bool = False) -> dict[str, bool]:
    global _looked
    if again or time.monotonic() - _looked > LOOK:
        out = set(Hang.objects.filter(aside()).values_list("name", flat=True))
        names = {name: name in out for name in Hang.objects.values_list("name", flat=True)}
        _known.clear()
        _known.update(names)
        _looked = time.monotonic()
    return _known


def sentence(row: Hang) -> str:
    """How a job that hung stands, in a line."""
    times = "once" if row.times == 1 else f"{row.times} times in a row"
    said = f"hung {times}, the last time at {row.at:%Y-%m-%d %H:%M} UTC"
    until = row.at + REST
    if row.times < MOST or until <= timezone.now():
        return said
    return f"{said}; set aside until {until:%Y-%m-%d %H:%M} UTC"
