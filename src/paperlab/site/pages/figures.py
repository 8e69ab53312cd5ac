"""Records and families as the pages show them, read once per change; the figures themselves come from `core`."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from paperlab.core import panels, summaries
from paperlab.core.figures import ArmFigures, arm_figures
from paperlab.core.methods import methods, possible_acts
from paperlab.core.record import Record, from_json
from paperlab.core.verdict import data_of
from paperlab.site import records


@dataclass(frozen=True)
class RecordFigures:
    """A record without its samples."""

    record: Record
    arms: tuple[ArmFigures, ...]
    data: str


def record(name: str) -> RecordFigures | None:
    """A record; None where there is none, or it cannot be read (coverage tells of those)."""
    return _record(name, records.record_index().mark)


@lru_cache(maxsize=2048)
def _record(name: str, mark: str) -> RecordFigures | None:
    place = records.record_index().places.get(name)
    if place is None:
        return None
    try:
        with open(place.file, "rb") as stream:
            stream.seek(place.offset)
            found = from_json(stream.read(place.length).decode())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    arms = arm_figures(found)
    for arm in found.arms:
        arm.samples.clear()
    return RecordFigures(found, arms, data_of(found) or "")


# What is compared over the families: a name in addresses, and the kind of result that its methods make.
GROUPS = {"compression": "Compressed"}


def mark(family: str) -> tuple[summaries.Stamp, ...]:
    """What changes whenever a record with an arm of the family's methods is added, and with no other."""
    return summaries.mark(_slugs(family))


def compared(family: str, now: tuple[summaries.Stamp, ...] | None = None) -> panels.Compared:
    """What the finished records of present checks of a family's methods say, settings and hardware kept apart.

    now: its mark, where the caller has it already.
    """
    return _compared(family, now or mark(family))


@lru_cache(maxsize=64)
def _compared(family: str, mark: tuple[summaries.Stamp, ...]) -> panels.Compared:
    slugs = _slugs(family)
    return panels.compared(slugs, summaries.read(slugs, strict=False))


def _slugs(family: str) -> list[str]:
    """The methods of a family, or of a group."""
    if family in GROUPS:
        kind = GROUPS[family]
        return [slug for slug, method in methods().items() if any(act.builds == kind for act in possible_acts(method))]
    return [slug for slug, method in methods().items() if method.card.family == family]


def groups() -> list[tuple[str, int]]:
    """The groups, with how many of their methods have finished records."""
    return [(name, len(compared(name).methods)) for name in GROUPS]


def families() -> list[tuple[str, int]]:
    """The families that have finished records of claims or controls, with how many methods each."""
    return list(_families(summaries.mark()))


@lru_cache(maxsize=1)
def _families(mark: tuple[summaries.Stamp, ...]) -> tuple[tuple[str, int], ...]:
    found = {method.card.family: 0 for method in methods().values()}
    for family in found:
        found[family] = len(compared(family).methods)
    return tuple(sorted((family, count) for family, count in found.items() if count))


def rows(slug: str) -> list[dict[str, Any]]:
    """The verdict rows of a paper, of every state, the latest first."""
    return list(reversed(records.record_index().by_paper.get(slug, [])))
