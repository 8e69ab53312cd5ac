"""Records as the pages show them: each arm's own figure, a family's arms beside each other, read once per change."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from paperlab.core.methods import methods
from paperlab.core.panels import Panel, Value, build_seconds, chosen, holding, panels
from paperlab.core.record import ArmResult, Record, from_json
from paperlab.core.standings import current
from paperlab.core.statistics import aggregate, t_quantile
from paperlab.core.verdict import data_of
from paperlab.site import records


@dataclass(frozen=True)
class ArmFigures:
    """One arm of a record in a table. role: "method", "baseline" or "beside"; missing figures are NaN."""

    name: str
    role: str
    value: Value
    bits: float
    bytes: float
    build: float
    peak: float
    error: str


@dataclass(frozen=True)
class Told:
    """A record without its samples."""

    record: Record
    arms: tuple[ArmFigures, ...]
    data: str


def value(record: Record, arm: ArmResult, metric: str) -> Value:
    """The arm's own figure with its 95 % interval by Student's t, on a log scale for perplexities.

    Verdicts rest on pairs and resampling; this is only how sure one arm's figure is by itself.
    """
    how = record.metrics[metric]
    seeds = [values for values in (by_key.get(how.of, []) for by_key in arm.samples.values()) if values]
    if not seeds:
        return Value(math.nan, math.nan, math.nan, 0)
    if record.paired_by == "seeds":
        values, final = [aggregate(one, how.aggregate) for one in seeds], "mean"
    else:
        shortest = min(len(one) for one in seeds)
        values, final = [math.fsum(one[i] for one in seeds) / len(seeds) for i in range(shortest)], how.aggregate
    n, figure = len(values), aggregate(values, "exp_mean" if final == "exp_mean" else "mean")
    if n < 2 or not all(map(math.isfinite, values)):
        return Value(figure, math.nan, math.nan, n)
    mean = math.fsum(values) / n
    error = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1) / n)
    reach = t_quantile(0.975, n - 1) * error
    if final == "exp_mean":
        return Value(figure, _exp(mean - reach), _exp(mean + reach), n)
    return Value(figure, mean - reach, mean + reach, n)


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def record(name: str) -> Told | None:
    """A record; None where there is none, or it cannot be read (coverage tells of those)."""
    return _record(name, records.record_index().mark)


@lru_cache(maxsize=2048)
def _record(name: str, mark: str) -> Told | None:
    found = _whole(name)
    if found is None:
        return None
    arms = tuple(
        ArmFigures(
            str(arm.arm),
            ("method", "baseline", "beside")[min(i, 2)],
            value(found, arm, found.metric),
            arm.totals.get("bits_per_weight", math.nan),
            arm.totals.get("bytes", math.nan),
            build_seconds(arm),
            arm.peak_memory or math.nan,
            arm.error or "",
        )
        for i, arm in enumerate(found.arms)
    )
    for arm in found.arms:
        arm.samples.clear()
    return Told(found, arms, data_of(found) or "")


def _whole(name: str) -> Record | None:
    place = records.record_index().places.get(name)
    if place is None:
        return None
    try:
        with open(place.file, "rb") as stream:
            stream.seek(place.offset)
            return from_json(stream.read(place.length).decode())
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class Compared:
    """A family's arms in every setting. machines: by record id."""

    panels: tuple[Panel, ...]
    records: int
    unfinished: int
    where: dict[str, Record]


def compared(family: str) -> Compared:
    """What the finished records of present checks of a family's methods say, settings and hardware kept apart."""
    return _compared(family, records.record_index().mark)


@lru_cache(maxsize=64)
def _compared(family: str, mark: str) -> Compared:
    slugs = [slug for slug, method in methods().items() if method.card.family == family]
    if not slugs:
        return Compared((), 0, 0, {})
    slugs = chosen(slugs, methods())
    everything = [found for name in records.record_index().places if (found := _whole(name)) is not None]
    today = current(everything, methods())
    live = [held for r in (*today.current, *today.repeated, *today.unfinished) if (held := holding(r, slugs))]
    used = [r for r in live if r.status == "finished"]
    groups = tuple(panels(used, value))
    for one in used:
        for arm in one.arms:
            arm.samples.clear()
    return Compared(groups, len(used), len(live) - len(used), {one.id: one for one in used})


def families() -> list[tuple[str, int]]:
    """The families that have finished records of claims or controls, with how many methods each."""
    known = methods()
    ran: dict[str, set[str]] = {}
    for row in records.record_index().verdicts.values():
        method = known.get(row["method"])
        if method is not None and row["status"] == "finished" and row["state"] != "superseded":
            ran.setdefault(method.card.family, set()).add(row["method"])
    return sorted((family, len(slugs)) for family, slugs in ran.items())


def rows(slug: str) -> list[dict[str, Any]]:
    """The verdict rows of a paper, of every state, the latest first."""
    return list(reversed(records.record_index().by_paper.get(slug, [])))
