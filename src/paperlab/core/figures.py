"""Estimate each arm's own figure and its 95 % interval from a record's samples; tables, charts and pages share it.

A verdict rests on pairs (`core.verdict`); these intervals do not, so two that overlap may still differ surely.

One method for all: Student's t on the scale on which the figure lives, with the standard error carried there by the
delta method. A perplexity is exp of a mean, so its scale is the mean. A mean of values that are never negative
(losses, seconds, divergences) has the logarithm, which keeps the lower end above 0 and leans the interval the way such
values are skewed. A mean of shares (right/wrong, ranks) has Wilson's interval (1927) for the number of items that would
have this standard error (Korn & Graubard, Survey Methodology 24, 1998); for plain right/wrong it is Wilson's own. All
other means keep their scale. Samples without any spread, such as the original's divergence from itself, give an
interval of width 0; one value alone gives none.

Chosen against bootstrap-t (Efron & Tibshirani 1993, chapter 12), plain t and Johnson's skewness-corrected t by
simulation: on log-normal, exponential and chi-square samples of 16 to 96 values it covers 92 to 95 % (plain t 89 to
95 %), close to bootstrap-t at a thousandth of its cost, and it gives an interval from two values on.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import fsum
from statistics import NormalDist, median
from typing import Any

from paperlab.core.card import Arm, Check, arm_from
from paperlab.core.record import ArmResult, Record
from paperlab.core.statistics import Aggregate, aggregate, is_right_wrong, t_quantile
from paperlab.core.task import Metric

LEVEL = 0.95
ROLES = ("method", "baseline", "other")  # of a record's arms

_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Value:
    """A figure with its 95 % interval.

    low, high: NaN where there is no interval. n: items it rests on, or seeds where a record is paired by seeds.
    draws: how many seeds each item was seen under.
    """

    value: float
    low: float
    high: float
    n: int
    draws: int = 1


NOTHING = Value(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True)
class ArmFigures:
    """One arm of a record without its samples.

    role: one of ROLES. values: by metric. bits: per weight. bytes, peak: bytes. build: seconds, the median over seeds.
    Figures that were not measured are NaN. error: why the arm broke, or "". axes: the arm's other totals by name
    (density, steps, parameters), of which its task says by which arms may be compared.
    """

    arm: Arm
    role: str
    values: dict[str, Value]
    bits: float
    bytes: float
    build: float
    peak: float
    error: str
    axes: dict[str, float] = field(default_factory=dict)

    def value(self, metric: str) -> Value:
        """The figure by one metric; NOTHING where there are no samples of it."""
        return self.values.get(metric, NOTHING)


def arm_value(record: Record, arm: ArmResult, metric: str | None = None) -> Value:
    """The arm's figure by `metric` (the record's own unless named) with its interval.

    Paired by items: the mean over items and draws, the interval covering both (`combined_error`). Paired by seeds:
    the mean of the seeds' figures. Raises KeyError for an unknown metric.
    """
    how = record.metrics[metric or record.metric]
    seeds = [values for values in (by_key.get(how.of, []) for by_key in arm.samples.values()) if len(values)]
    if not seeds:
        return NOTHING
    bounded, right_wrong = how.better == "higher", how.aggregate == "mean" and _counts(record, how)
    if record.paired_by == "seeds":
        figures = [[aggregate(values, how.aggregate)] for values in seeds]
        size = sum(map(len, seeds)) if right_wrong else None
        found = _interval(figures, "mean", bounded or right_wrong, False, size)
        return Value(found.value, found.low, found.high, len(figures))
    shortest = min(map(len, seeds))  # equal, unless the run was interrupted
    return _interval([values[:shortest] for values in seeds], how.aggregate, bounded, right_wrong)


def baseline_index(record: Record) -> int:
    """Which arm of a record is the baseline: 1, or the position of a rival of it that is stronger.

    The strongest is the one that leaves the claim least: the lowest figure where the check expects a lower one. Arms
    that broke, have no finite figure, or miss what should be equal to the method are no rivals.
    """
    check = record.check
    if not check.rivals or len(record.arms) < 2:
        return 1
    best, index = math.inf, 1
    for i, arm in enumerate(record.arms):
        if i == 1 or (i > 1 and arm.arm in check.rivals and unequal(check, record.arms[0], arm) is None):
            figure = math.nan if arm.error else arm_value(record, arm).value
            figure = figure if check.expect == "lower" else -figure
            if i == 1 and not math.isfinite(figure):
                return 1  # the check's own baseline broke: the verdict says so
            if figure < best:
                best, index = figure, i
    return index


def unequal(check: Check, method: ArmResult, baseline: ArmResult) -> str | None:
    """The first total that should agree and does not; tolerances are relative to the larger of the two."""
    for name, tolerance in check.equal.items():
        ours, theirs = method.totals.get(name), baseline.totals.get(name)
        if ours is None or theirs is None:
            arm = method if ours is None else baseline
            return f"{name} should be equal, but {arm.arm} has no such total"
        if not abs(ours - theirs) <= tolerance * max(abs(ours), abs(theirs)):  # nan is unequal too
            return f"{name} should be equal within {100 * tolerance:g} %, but is {ours:g} against {theirs:g}"
    return None


def _counts(record: Record, how: Metric) -> bool:
    """Whether a metric counts right answers: every value of every arm is 0 or 1. Where all are the same, only if more
    is better: a divergence that is 0 everywhere is no count of errors."""
    seen: set[float] = set()
    for arm in record.arms:
        for by_key in arm.samples.values():
            for x in by_key.get(how.of, ()):
                if x not in (0, 1):
                    return False
                seen.add(x)
    return len(seen) == 2 or how.better == "higher"


def interval(values: Sequence[float], how: Aggregate = "mean", *, bounded: bool = False) -> Value:
    """The figure of `values` and its 95 % interval.

    bounded: the values cannot exceed 1 by their nature, so if all of them lie in [0, 1], they are taken as shares, and
    as answers right or wrong if each is 0 or 1. Raises ValueError for no values.
    """
    right_wrong = how == "mean" and is_right_wrong(values) and (bounded or len(set(values)) == 2)
    return _interval([values], how, bounded, right_wrong)


def combined_error(table: Sequence[Sequence[float]]) -> tuple[float, int]:
    """(standard error, degrees of freedom) of the mean of table[draw][item], items and draws both being samples.

        error² = variance of the draws' means / draws + variance of the items' means / items

    This counts the part that belongs to neither twice, so it errs to the wide side (the unbiased one subtracts it:
    Owen, Annals of Applied Statistics 1, 2007; it can come out negative). The degrees of freedom are the fewer of the
    two, with a handful of draws that is draws - 1. Draws that are all the same, of an arm that draws nothing, count as
    one. The error is NaN where one value is all there is. Raises ValueError where the draws differ in length.
    """
    draws = [list(values) for values in table]
    items = len(draws[0])
    if any(len(values) != items for values in draws):
        raise ValueError(f"draws of equal length wanted, got {sorted({len(values) for values in draws})}")
    if all(values == draws[0] for values in draws[1:]) and items > 1:
        draws = draws[:1]
    count = len(draws)
    squares, freedom = [], []
    if count > 1:
        squares.append(_variance([fsum(values) / items for values in draws]) / count)
        freedom.append(count - 1)
    if items > 1:
        means = draws[0] if count == 1 else [fsum(column) / count for column in zip(*draws, strict=True)]
        squares.append(_variance(means) / items)
        freedom.append(items - 1)
    return (math.sqrt(fsum(squares)), min(freedom)) if squares else (math.nan, 0)


def _variance(values: Sequence[float]) -> float:
    """The unbiased variance; exactly 0 for values that are all the same."""
    if min(values) == max(values):
        return 0.0
    mean = fsum(values) / len(values)
    return fsum([(x - mean) * (x - mean) for x in values]) / (len(values) - 1)


def _interval(
    table: Sequence[Sequence[float]], how: Aggregate, bounded: bool, right_wrong: bool, size: int | None = None
) -> Value:
    """The figure of table[draw][item]. right_wrong: each value is an answer. size: answers behind the values."""
    draws, items = len(table), len(table[0])
    values = [x for draw in table for x in draw]
    figure = aggregate(values, how)
    if len(values) == 1 or not all(map(math.isfinite, values)):
        return Value(figure, math.nan, math.nan, items, draws)
    error, freedom = combined_error(table)
    least, most = min(values), max(values)
    reach = t_quantile((1 + LEVEL) / 2, freedom)
    if how == "exp_mean":
        mean = fsum(values) / len(values)
        ends = _exp(mean - reach * error), _exp(mean + reach * error)
    elif right_wrong and all(draw == table[0] for draw in table):
        ends = _wilson(figure, items, _Z)
    elif (bounded or right_wrong) and least >= 0 and most <= 1:
        ends = _share(figure, error, reach, len(values) if right_wrong else size)
    elif least >= 0 and figure > 0:
        ratio = reach * error / figure
        ends = figure * math.exp(-ratio), figure * _exp(ratio)
    else:
        ends = figure - reach * error, figure + reach * error
    return Value(figure, *ends, items, draws)


def _share(share: float, error: float, reach: float, size: int | None) -> tuple[float, float]:
    """Wilson's interval for the number of right/wrong answers whose standard error would be `error`; of those that
    there are (`size`) at most."""
    spread = share * (1 - share)
    if spread > 0 and error > 0:
        alike = spread / (error * error)
        return _wilson(share, alike if size is None else min(alike, size), reach)
    return (share, share) if size is None else _wilson(share, size, reach)


def _wilson(share: float, n: float, z: float) -> tuple[float, float]:
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if share == 0 else max(0.0, centre - reach)
    return low, 1.0 if share == 1 else min(1.0, centre + reach)


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def build_seconds(arm: ArmResult) -> float:
    """Median over seeds of the seconds to build the arm; NaN where none was timed."""
    times = arm.seconds.get("build", [])
    return median(times) if times else math.nan


def arm_figures(record: Record) -> tuple[ArmFigures, ...]:
    """Every arm of a record in its order, its figure by each metric of which it has samples."""
    found, baseline = [], baseline_index(record)
    for i, arm in enumerate(record.arms):
        keys = {key for by_key in arm.samples.values() for key in by_key}
        values = {name: arm_value(record, arm, name) for name, metric in record.metrics.items() if metric.of in keys}
        found.append(
            ArmFigures(
                arm.arm,
                ROLES[0 if i == 0 else 1 if i == baseline else 2],
                values,
                arm.totals.get("bits_per_weight", math.nan),
                arm.totals.get("bytes", math.nan),
                build_seconds(arm),
                arm.peak_memory or math.nan,
                arm.error or "",
                {name: arm.totals[name] for name in sorted(arm.totals) if name not in ("bits_per_weight", "bytes")},
            )
        )
    return tuple(found)


def arm_rows(record: Record) -> list[dict[str, Any]]:
    """`arm_figures` as JSON holds it: what is kept of each arm so that no page needs the samples again.

    Figures have 12 digits, for mathematical libraries differ in the last one. What was not measured is left out.
    """
    rows = []
    for arm in arm_figures(record):
        values = {name: _written(value) for name, value in arm.values.items()}
        row: dict[str, Any] = {"arm": asdict(arm.arm), "role": arm.role, "values": values}
        for name in ("bits", "bytes", "build", "peak"):
            figure = getattr(arm, name)
            if figure == figure:
                row[name] = _tidy(figure)
        if arm.error:
            row["error"] = arm.error
        if axes := {name: _tidy(total) for name, total in arm.axes.items() if total == total}:
            row["axes"] = axes
        rows.append(row)
    return rows


def read_arm(row: dict[str, Any]) -> ArmFigures:
    """An arm from its row. Raises KeyError or TypeError for what `arm_rows` did not write."""
    nan = math.nan
    values = {
        name: Value(nan if value is None else value, nan if low is None else low, nan if high is None else high, n, k)
        for name, (value, low, high, n, k) in row["values"].items()
    }
    bits, size, build, peak = (row.get(name, nan) for name in ("bits", "bytes", "build", "peak"))
    return ArmFigures(
        arm_from(row["arm"]), row["role"], values, bits, size, build, peak, row.get("error", ""), row.get("axes", {})
    )


def _written(value: Value) -> list[Any]:
    ends = [None if x != x else _tidy(x) for x in (value.value, value.low, value.high)]
    return [*ends, value.n, value.draws]


def _tidy(x: float) -> float:
    return float(f"{x:.12g}")
