"""Arms next to each other: grouped by all that makes figures comparable, with the front of each group.

Command line, report and pages show these rows; nobody else computes them.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Literal

from paperlab.core import summaries
from paperlab.core.card import Arm
from paperlab.core.figures import ArmFigures, Value
from paperlab.core.methods import Method, find_method, identity, methods
from paperlab.core.summaries import Summary
from paperlab.core.task import constants, task_version
from paperlab.core.verdict import ORIGINAL
from paperlab.core.words import clean, number

COLUMNS = ("task", "task_version", "model", "data", "scale", "machine", "seeds", "arm", "metric", "better", "value",
           "low", "high", "n", "bits_per_weight", "bytes", "build_seconds", "peak_memory", "front_bytes", "front_build",
           "broken", "axes", "records", "note")  # fmt: skip

NEAR = 0.05  # of the original's figure: what is no farther from it than this is offered first


@dataclass(frozen=True)
class Point:
    """One arm in one setting, merged over the records that have it. bytes and build are NaN where unknown."""

    arm: Arm
    value: Value
    bits: float
    bytes: float
    build: float
    peak: float
    records: tuple[str, ...]
    note: str
    on: tuple[str, ...] = ()  # the fronts it lies on: "bytes", "build"
    broken: bool = False  # its figure is not finite, or worse than the panel's floor
    axes: dict[str, float] = field(default_factory=dict)  # its other totals by name


@dataclass(frozen=True)
class Panel:
    """All arms that were measured under one and the same setting. floor: the worst figure of an arm that still works
    (such as five times the original's perplexity), None where it is not known."""

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
    floor: float | None = None

    @property
    def original(self) -> Point | None:
        """The untouched model, where it was measured."""
        return next((p for p in self.points if p.arm.method == ORIGINAL and math.isfinite(p.value.value)), None)

    @property
    def axes(self) -> tuple[str, ...]:
        """The task's further axes of comparison on which its arms here differ: density, steps, parameters ..."""
        named = [name for name in constants(self.task).get("AXES", ()) if name not in ("bytes", "bits_per_weight")]
        return tuple(name for name in named if len({p.axes[name] for p in self.points if name in p.axes}) > 1)

    @property
    def here(self) -> str:
        """The setting in one line."""
        parts = (self.model, f"{self.task} v{self.version}", self.data, self.scale, self.machine)
        return " · ".join(filter(None, parts))


@dataclass(frozen=True)
class Compared:
    """What the finished records of present checks say of some methods.

    methods: those with a finished record of their own. unfinished: records of present checks that broke off. papers: by
    record id, the paper whose page shows it.
    """

    panels: tuple[Panel, ...]
    records: int
    unfinished: int
    methods: frozenset[str]
    papers: dict[str, str | None]


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


def compared(
    slugs: Sequence[str],
    records: Iterable[Summary] | None = None,
    known: Mapping[str, Method] | None = None,
    versions: Mapping[str, int] | None = None,
) -> Compared:
    """All arms of these methods' checks, and these methods wherever they were an arm of another's check.

    records: all that `summaries.read` finds, unless given. known, versions: the methods and the tasks' versions that
    decide which checks are present; those on disk, unless given.
    """
    known = methods() if known is None else known
    wanted = frozenset(slugs)
    records = summaries.read(wanted) if records is None else records
    ours = [kept for one in records if (kept := _arms_of(one, wanted))]
    cards = [known[name] for name in {one.method for one in ours} if name in known]
    present = {check.hash for method in cards for check in method.card.checks}
    now = {task: task_version(task) if versions is None else versions.get(task) for task in {r.task for r in ours}}
    live = [one for one in ours if one.check_hash in present and one.task_version == now[one.task]]
    finished = [one for one in live if one.status == "finished"]
    papers = {one.id: one.paper for one in finished}
    ran = wanted & {one.method for one in finished}
    return Compared(tuple(panels(finished)), len(finished), len(live) - len(finished), ran, papers)


def _arms_of(record: Summary, slugs: frozenset[str]) -> Summary | None:
    """The record with the arms that belong to a comparison of `slugs`; None if there are none."""
    if record.method in slugs:
        return record
    arms = tuple(arm for arm in record.arms if any(one.method in slugs for one in arm.arm.chain))
    return replace(record, arms=arms) if arms else None


def panels(records: Sequence[Summary]) -> list[Panel]:
    """Records grouped by all that makes figures comparable, each arm once per group.

    Together stand only arms of one task version, model, scale, seeds, machine and setting (the hashes of model and
    data, counts). The metric is the one that decides in most of the group's records.
    """
    groups: dict[tuple[Any, ...], list[Summary]] = {}
    for r in sorted(records, key=lambda r: (r.started, r.id)):
        groups.setdefault((r.task, r.task_version, r.model, r.scale, r.machine, r.seeds, r.setting), []).append(r)
    found = []
    for (task, version, model, scale, machine, seeds, _), group in sorted(groups.items(), key=lambda item: item[0]):
        counts = Counter(record.metric for record in group)
        metric = min(counts, key=lambda name: (-counts[name], name))
        better, data = group[0].better[metric], group[0].data or ""
        limits = [record.floors[metric] for record in group if metric in record.floors]
        limit = (min if better == "lower" else max)(limits) if limits else None
        points = tuple(_fronts(_merge(group, metric), better, limit))
        if points:
            found.append(Panel(task, version, metric, better, model, data, scale, machine, len(seeds), points, limit))
    return found


def _merge(group: Sequence[Summary], metric: str) -> list[Point]:
    """Each arm once: figures of its newest record, the median of all build times, a note where records differ."""
    known: dict[str, str] = {}  # filling in defaults takes longer than all the rest
    arms: dict[str, list[tuple[Summary, ArmFigures]]] = {}
    for record in group:
        for arm in record.arms:
            if not arm.error and metric in arm.values:
                arms.setdefault(_identity(arm.arm, known), []).append((record, arm))
    points = []
    for its in arms.values():
        _, arm = its[-1]
        ids = tuple(dict.fromkeys(record.id for record, _ in its))
        times = [one.build for _, one in its if one.build == one.build]
        figures = sorted({one.values[metric].value for _, one in its})
        note = f"in {len(ids)} records" if len(ids) > 1 else ""
        if len(figures) > 1 and not math.isclose(figures[0], figures[-1], rel_tol=1e-9):
            note += f", which differ: {number(figures[0])} to {number(figures[-1])}; the newest is shown"
        shown = min((one.arm for _, one in its), key=lambda a: (len(a.params), str(a)))
        points.append(
            Point(shown, arm.values[metric], arm.bits, arm.bytes,
                  median(times) if times else math.nan, arm.peak, ids, note, axes=arm.axes)
        )  # fmt: skip
    return sorted(points, key=lambda point: str(point.arm))


def _identity(arm: Arm, known: dict[str, str]) -> str:
    written = str(arm)
    if written not in known:
        known[written] = identity(arm)
    return known[written]


def _fronts(points: list[Point], better: Any, limit: float | None) -> list[Point]:
    """The points with the fronts they lie on.

    On a front stands what somebody could take instead of the original: not the original itself, which would leave
    nothing beside it where it costs no time, and nothing broken, however small.
    """
    sign = 1 if better == "lower" else -1
    worst = math.inf if limit is None else sign * limit
    points = [replace(p, broken=not math.isfinite(p.value.value) or sign * p.value.value > worst) for p in points]
    offered = [i for i, p in enumerate(points) if not p.broken and p.arm.method != ORIGINAL]
    on: dict[str, set[int]] = {}
    for side in ("bytes", "build"):
        costs = [(getattr(points[i], side), points[i].value.value) for i in offered]
        on[side] = {offered[i] for i in front(costs, better)}
    return [replace(p, on=tuple(side for side in on if i in on[side])) for i, p in enumerate(points)]


def away(panel: Panel, point: Point) -> float:
    """How much worse than the original a point is, as a fraction of it; NaN where there is nothing to divide by."""
    if panel.original is None or not panel.original.value.value:
        return math.nan
    original = panel.original.value.value
    worse = point.value.value - original if panel.better == "lower" else original - point.value.value
    return worse / abs(original)


def offered(panel: Panel, side: str) -> tuple[list[Point], str]:
    """The front as somebody would choose from it, and why its first point comes first.

    side: "bytes" or "build". First the cheapest that is within NEAR of the original, where one is; then the rest, the
    nearest to the original (the best) first. What is broken is on no front.
    """
    sign = 1 if panel.better == "lower" else -1
    on = sorted((p for p in panel.points if side in p.on), key=lambda p: (sign * p.value.value, getattr(p, side)))
    if not on:
        return [], ""
    near = [p for p in on if away(panel, p) <= NEAR]
    if not near:
        return on, "nearest to the original" if panel.original else "best"
    first = min(near, key=lambda p: getattr(p, side))
    cheap = "smallest" if side == "bytes" else "fastest to build"
    return [first, *(p for p in on if p is not first)], f"{cheap} within {NEAR:.0%} of the original".replace("%", " %")


def labels(arms: Sequence[Arm]) -> list[str]:
    """Short names: the method, with those parameters that tell its arms here apart."""
    every = [one for arm in arms for one in arm.chain]

    def name(one: Arm) -> str:
        others = [other for other in every if other.method == one.method]
        names = {name for other in others for name in other.params}
        differing = [n for n in sorted(names) if len({repr(other.params.get(n)) for other in others}) > 1]
        return " ".join([one.method, *(f"{n}={one.params[n]}" for n in differing if n in one.params)])

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
                                 "bytes" in p.on, "build" in p.on, p.broken,
                                 " ".join(f"{name}={total!r}" for name, total in p.axes.items()),
                                 " ".join(p.records), p.note]  # fmt: skip
            writer.writerow([_cell(value) for value in row])
    return text.getvalue()


def _cell(value: object) -> object:
    """Nothing for NaN; text that a spreadsheet would run as a formula is quoted."""
    if isinstance(value, float):
        return "" if value != value else repr(value)
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value
