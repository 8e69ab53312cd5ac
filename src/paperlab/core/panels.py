"""Arms beside each other: records grouped by all that makes figures comparable, and the front of each group."""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Literal

from paperlab.core.card import Arm
from paperlab.core.methods import Method, find_method
from paperlab.core.record import ArmResult, Record
from paperlab.core.verdict import data_of
from paperlab.core.words import clean, number

COLUMNS = ("task", "task_version", "model", "data", "scale", "machine", "seeds", "arm", "metric", "better", "value",
           "low", "high", "n", "bits_per_weight", "bytes", "build_seconds", "peak_memory", "front_bytes", "front_build",
           "records", "note")  # fmt: skip


@dataclass(frozen=True)
class Value:
    """value with its 95 % interval; low and high are NaN where n is 1. n: items, or seeds, it rests on."""

    value: float
    low: float
    high: float
    n: int


Valued = Callable[[Record, ArmResult, str], Value]


@dataclass(frozen=True)
class Point:
    """One arm in one setting, merged over the records that hold it. bytes and build are NaN where unknown."""

    arm: Arm
    value: Value
    bits: float
    bytes: float
    build: float
    peak: float
    records: tuple[str, ...]
    note: str
    on: tuple[str, ...] = ()  # the fronts it lies on: "bytes", "build"


@dataclass(frozen=True)
class Panel:
    """All arms that were measured under one and the same setting."""

    task: str
    version: int
    metric: str
    better: str
    model: str
    data: str
    scale: str
    machine: str
    seeds: int
    points: tuple[Point, ...]

    @property
    def here(self) -> str:
        """The setting in one line."""
        parts = (self.model, f"{self.task} v{self.version}", self.data, self.scale, self.machine)
        return " · ".join(filter(None, parts))


def front(points: Sequence[tuple[float, float]], better: Literal["lower", "higher"]) -> list[int]:
    """Indices of the points (cost, value) that no other dominates, by rising cost. A point dominates another if it
    costs no more, is no worse, and is less costly or better. Of exact twins all stay. NaN is never on the front."""
    sign = 1.0 if better == "lower" else -1.0
    order = sorted((cost, sign * value, i) for i, (cost, value) in enumerate(points) if cost == cost and value == value)
    kept: list[tuple[float, float, int]] = []
    for cost, value, i in order:
        if not kept or value < kept[-1][1] or (cost, value) == kept[-1][:2]:
            kept.append((cost, value, i))
    return [i for _, _, i in kept]


def chosen(names: Sequence[str], known: Mapping[str, Method]) -> list[str]:
    """The slugs that families and slugs name, in order, each once. Raises LookupError with near names."""
    slugs: list[str] = []
    for name in names:
        family = name.replace("_", "-").lower()
        inside = [s for s, method in known.items() if method.card.family.replace("_", "-") == family]
        if not inside:
            inside = [family] if family in known else [find_method(name).slug]
        slugs += [s for s in inside if s not in slugs]
    if not slugs:
        raise LookupError("name at least one family or method")
    return slugs


def holding(record: Record, slugs: Sequence[str]) -> Record | None:
    """The record with the arms that belong to a comparison of `slugs`; None if there are none."""
    if record.method in slugs:
        return record
    arms = [arm for arm in record.arms if any(one.method in slugs for one in arm.arm.chain)]
    return replace(record, arms=arms) if arms else None


def panels(records: Sequence[Record], value: Valued) -> list[Panel]:
    """Records grouped by all that makes figures comparable, each arm once per group.

    value: an arm's own figure by a metric, with its interval.

    Together stand only arms of one task version, model, scale, seeds, machine and setting (the hashes of model and
    data, counts). The metric is the one that decides in most of the group's records.
    """
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in sorted(records, key=lambda r: (r.started, r.id)):
        setting = json.dumps(record.setting, sort_keys=True)
        key = (
            record.task,
            record.task_version,
            record.model,
            record.scale,
            record.machine,
            tuple(record.seeds),
            setting,
        )
        groups.setdefault(key, []).append(record)
    found = []
    for (task, version, model, scale, machine, seeds, _), group in sorted(groups.items(), key=lambda item: item[0]):
        counts = Counter(record.metric for record in group)
        metric = min(counts, key=lambda name: (-counts[name], name))
        better = group[0].metrics[metric].better
        points = _fronts(_merge(group, metric, value), better)
        if points:
            found.append(
                Panel(
                    task,
                    version,
                    metric,
                    better,
                    model,
                    data_of(group[0]) or "",
                    scale,
                    machine,
                    len(seeds),
                    tuple(points),
                )
            )
    return found


def _merge(group: Sequence[Record], metric: str, value: Valued) -> list[Point]:
    """Each arm once: figures of its newest record, the median of all build times, a note where records differ."""
    arms: dict[str, list[tuple[Record, ArmResult]]] = {}
    for record in group:
        for arm in record.arms:
            if not arm.error and metric in record.metrics and arm.samples:
                arms.setdefault(str(arm.arm), []).append((record, arm))
    points = []
    for name in sorted(arms):
        record, arm = arms[name][-1]
        values = [value(r, a, metric) for r, a in arms[name]]
        times = [t for t in (build_seconds(a) for _, a in arms[name]) if t == t]
        figures = sorted({one.value for one in values})
        note = f"in {len(values)} records" if len(values) > 1 else ""
        if len(figures) > 1 and not math.isclose(figures[0], figures[-1], rel_tol=1e-9):
            note += f", which differ: {number(figures[0])} to {number(figures[-1])}; the newest is shown"
        nan = math.nan
        points.append(
            Point(arm.arm, values[-1], arm.totals.get("bits_per_weight", nan), arm.totals.get("bytes", nan),
                  median(times) if times else nan, arm.peak_memory or nan, tuple(r.id for r, _ in arms[name]), note)
        )  # fmt: skip
    return points


def _fronts(points: list[Point], better: Any) -> list[Point]:
    size = set(front([(p.bytes, p.value.value) for p in points], better))
    time = set(front([(p.build, p.value.value) for p in points], better))
    return [
        replace(p, on=(*(["bytes"] if i in size else []), *(["build"] if i in time else [])))
        for i, p in enumerate(points)
    ]


def labels(arms: Sequence[Arm]) -> list[str]:
    """Short names: the method, with those parameters that tell its arms here apart."""
    every = [one for arm in arms for one in arm.chain]

    def name(one: Arm) -> str:
        others = [other for other in every if other.method == one.method]
        names = {name for other in others for name in other.params}
        telling = [n for n in sorted(names) if len({repr(other.params.get(n)) for other in others}) > 1]
        return " ".join([one.method, *(f"{n}={one.params[n]}" for n in telling if n in one.params)])

    short = [clean(" after ".join(name(one) for one in reversed(arm.chain))) for arm in arms]
    twice = {label for label in short if short.count(label) > 1}  # a parameter named in one arm, left out in another
    return [clean(arm) if label in twice else label for arm, label in zip(arms, short, strict=True)]


def ordered(panel: Panel) -> list[Point]:
    """The best first; what has no figure last."""
    sign = 1 if panel.better == "lower" else -1
    return sorted(panel.points, key=lambda p: (p.value.value != p.value.value, sign * p.value.value, str(p.arm)))


def to_csv(groups: Sequence[Panel]) -> str:
    """One row per arm and setting, full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for panel in groups:
        for p in panel.points:
            row: list[object] = [panel.task, panel.version, panel.model, panel.data, panel.scale, panel.machine,
                                 panel.seeds, str(p.arm), panel.metric, panel.better, p.value.value,
                                 p.value.low, p.value.high, p.value.n, p.bits, p.bytes, p.build, p.peak,
                                 "bytes" in p.on, "build" in p.on, " ".join(p.records), p.note]  # fmt: skip
            writer.writerow([_cell(value) for value in row])
    return text.getvalue()


def _cell(value: object) -> object:
    """Nothing for NaN; text that a spreadsheet would run as a formula is quoted."""
    if isinstance(value, float):
        return "" if value != value else repr(value)
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


def build_seconds(arm: ArmResult) -> float:
    """Median over seeds of the seconds to build the arm; NaN where none was timed."""
    times = arm.seconds.get("build", [])
    return median(times) if times else math.nan
