"""Paired statistics of a check: how sure may one be, from these samples, that a method differs from its baseline?

Everything here is a pure function of the samples: the same input gives the same output. Resampling draws from
`random.Random` with a fixed seed, and sums are `math.fsum`, because the built-in `sum` of floats changed in
Python 3.12.

Sources: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 12 (bootstrap-t); Davison & Hinkley,
Bootstrap Methods and their Application (1997), section 2.4; Schuirmann (1987) for two one-sided tests; Agresti & Min,
Statistics in Medicine 24 (2005), for pairs of right/wrong; Holm, Scand. J. Statist. 6 (1979); Zou & Donner,
Statistics in Medicine 27 (2008), and Howe, J. Am. Statist. Assoc. 69 (1974), for draws and items in one interval.
"""

import math
import random
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import fsum
from typing import Any, Literal

RESAMPLES = 3999  # (RESAMPLES + 1) * 0.025 and * 0.05 are whole numbers, so no quantile is interpolated
BOOTSTRAP_ITEMS = range(16, 1001)  # fewer: the resamples are too alike; more: Student's t agrees and is instant
MOVED_ITEMS = 10  # with fewer items on which the arms differ, too many resamples would have no spread at all

Aggregate = Literal["mean", "exp_mean"]
Pairs = tuple[Sequence[float], Sequence[float]]  # values of method and baseline, paired by position


@dataclass(frozen=True)
class Gain:
    """A relative gain with its interval.

    gain, low, high: fractions (0.02 is 2 %), positive in the expected direction; low and high may be infinite.
    level: the two-sided level of the interval. p: of "no gain", two-sided; or of "not equivalent" where a margin
    of equivalence was given. n: pairs. minimum: the least gain that this n would have found with a chance of 80 %
    (with a margin of equivalence: the least margin that could have been shown). kind: how the interval was made.
    of: what the gain is relative to.
    """

    gain: float
    low: float
    high: float
    level: float
    p: float
    n: int
    minimum: float
    kind: Literal["bootstrap-t", "t", "paired proportions", "constant", "none", "draws and items"]
    of: Literal["baseline", "larger arm"]
    draws: int = 1
    p_beyond: float | None = None


def aggregate(values: Sequence[float], how: Aggregate) -> float:
    """The figure of an arm: the mean of its values, or exp of it (perplexity from nats per token).

    Overflow and non-finite values give inf or nan, never an exception. Raises ValueError for no values.
    """
    if not values:
        raise ValueError("no values to aggregate")
    try:
        mean = fsum(values) / len(values)
        return math.exp(mean) if how == "exp_mean" else mean
    except (OverflowError, ValueError):  # fsum refuses inf - inf
        return math.nan if any(math.isnan(v) for v in values) or {math.inf, -math.inf} <= set(values) else math.inf


def relative_gain(
    method: Sequence[float],
    baseline: Sequence[float],
    *,
    expect: Literal["lower", "higher"],
    how: Aggregate = "mean",
    by: Literal["items", "seeds"] = "items",
    level: float = 0.95,
    equivalence: float | None = None,
    no_worse: bool = False,
    margin: float | None = None,
    draws: Sequence[Pairs] = (),
    resamples: int = RESAMPLES,
) -> Gain:
    """The relative gain of `method` over `baseline` and its interval, from values paired by position.

        expect lower:    gain = 1 - M / B           M, B: the aggregates of method and baseline
        expect higher:   gain = M / B - 1

    With how="exp_mean" the ratio is exp(mean(m - b)), and the work is done on mean(m - b). With how="mean" and all
    values positive it is done on log(M / B), which keeps the interval inside the possible and treats halving and
    doubling alike. Otherwise it is done on (M - B) / |B|.

    A baseline near zero (its mean within three standard errors of zero, and not all values positive) has no
    meaningful relative gain. There the gain is relative to the larger arm, (M - B) / max(mean|m|, mean|b|), it lies
    in [-2, 2], and `of` says so. Two arms of zeros have gain 0.

    Items: the bootstrap-t interval. Pairs are resampled, each resample is studentised by its own standard error, and
    the quantiles of that distribution replace those of Student's t. On few and skewed items percentile and BCa
    intervals are too short; `benchmarks/coverage.py` measures this one. Where resamples cannot work (fewer than 16
    items, or the arms differ on fewer than 10) and where they are not needed (over 1000) it is Student's t. Items are
    taken as independent. If every value is 0 or 1 (right/wrong), half an item is added to each of the four
    cells of the paired table, p is McNemar's exact one, and the interval is stretched to touch 0 where McNemar
    does not reject.

    Seeds: Student's t on the same studentised quantity with n - 1 degrees of freedom. Three to five values
    have only 10 to 126 distinct resamples, and their percentile interval covers 73 to 86 % instead of 95 %; the t
    interval pays for small n with its wide quantile (4.30 at n = 3).

    equivalence: p is of "not within ± equivalence", by two one-sided tests; with no_worse of "worse by more than that",
    by one.

    One pair has no spread: its interval is infinite. Pairs whose gain is exactly constant give an interval of
    width 0 and the p of the sign test.

    Draws and items (`relative_gain_over_draws`): `draws` are the values of each draw, `method` and `baseline` the
    items' means over them. The interval covers both: an item-only and a draw-only one, combined by their squares,

        low  = theta - sqrt((theta - low_items)^2 + (t_{k-1} * error_draws)^2),     high likewise

    with error_draws^2 = variance of the k draws' figures / k. Without variance over draws it is the item interval;
    where draws dominate it is Student's t with k - 1 degrees. A p is the level at which the interval's end meets the
    bound. Chosen against one t on the sum of both squares: with Satterthwaite's degrees that covers as little as 92 %
    for three draws, with k - 1 degrees it is up to twice as wide (`benchmarks/coverage.md`).

    Raises ValueError if lengths differ, are 0, or a value is not finite.
    """
    n = len(method)
    if n != len(baseline) or n == 0:
        raise ValueError(f"pairs wanted, got {n} values of the method and {len(baseline)} of the baseline")
    if not all(map(math.isfinite, (*method, *baseline))):
        raise ValueError("a value is not finite; a verdict handles diverged arms before it comes here")

    difference = [m - b for m, b in zip(method, baseline, strict=True)]
    scale, log, of = _scale(method, baseline, how)
    ratio = fsum(difference) / fsum(scale) if fsum(scale) else 0.0
    residual = [d - ratio * s for d, s in zip(difference, scale, strict=True)]
    total = fsum(scale)
    theta = math.log1p(ratio) if log else ratio
    spread = _error(fsum(r * r for r in residual), n, total) / (1 + ratio if log else 1)

    def gain(at: float) -> float:
        """From the working scale to the gain."""
        change = _expm1(at) if log or how == "exp_mean" else at
        return -change if expect == "lower" else change

    def theta_of(change: float) -> float:
        """From a relative change M / B - 1 to the working scale."""
        if log or how == "exp_mean":
            return math.log1p(change) if change > -1 else -math.inf
        return change

    def result(kind: str, low: float, high: float, p: float, minimum: float, beyond: float | None = None) -> Gain:
        ends = sorted((gain(low), gain(high)))
        return Gain(gain(theta), ends[0], ends[1], level, p, n, minimum, kind, of, max(1, len(draws)), beyond)  # type: ignore[arg-type]

    bounds = (theta_of(-equivalence), theta_of(equivalence)) if equivalence is not None else None
    if bounds and no_worse:  # only one way is bad
        bounds = (-math.inf, bounds[1]) if expect == "lower" else (bounds[0], math.inf)
    aim = None if margin is None else theta_of(-margin if expect == "lower" else margin)
    drawn = _draws_error(draws, ratio, how, of, total) / (1 + ratio if log else 1)
    still = spread <= 1e-15 * max(1.0, abs(theta))  # rounding alone; exact zero in an A/A run
    if n == 1 and not drawn:
        return result("none", -math.inf, math.inf, 1.0, math.inf, None if aim is None else 1.0)
    if still and not drawn:
        moved = abs(theta) > 1e-15
        p = 0.5 ** (n - 1) if moved else 1.0
        beyond = None if aim is None else p if gain(theta) > (margin or 0.0) else 1.0
        if bounds:
            p = 0.5**n if bounds[0] <= theta <= bounds[1] else 1.0
        return result("constant", theta, theta, p, 0.0, beyond)

    right_wrong = by == "items" and how == "mean" and is_right_wrong(method) and is_right_wrong(baseline)
    centre, error, freedom = theta, spread, n - 1
    above: Callable[[float], float]  # P(T >= t) and P(T <= t) under the distribution of the studentised quantity
    below: Callable[[float], float]
    quantile: Callable[[float], float]
    kind = "t"
    enough = n in BOOTSTRAP_ITEMS and sum(d != 0 for d in difference) >= MOVED_ITEMS
    if by == "items" and enough and not right_wrong:
        kind = "bootstrap-t"
        pivots = _pivots(residual, scale, ratio, log, resamples)
        above = lambda t: (1 + resamples - bisect_left(pivots, t)) / (resamples + 1)  # noqa: E731
        below = lambda t: (1 + bisect_right(pivots, t)) / (resamples + 1)  # noqa: E731
        quantile = lambda q: _order(pivots, q)  # noqa: E731
    else:
        if right_wrong:
            kind = "paired proportions"
            centre, error = _paired_proportions(method, baseline, of)
        above = lambda t: t_cdf(-t, freedom)  # noqa: E731
        below = lambda t: t_cdf(t, freedom)  # noqa: E731
        quantile = lambda q: t_quantile(q, freedom)  # noqa: E731

    tail = (1 - level) / 2
    if drawn:
        kind, least = "draws and items", 1 / (resamples + 1) if kind == "bootstrap-t" else 0.0
        both = _Combined(quantile if error and n > 1 else lambda q: 0.0, error, drawn, len(draws) - 1, least)
        low, high = centre - both.reach(tail, upper=True), centre + both.reach(tail, upper=False)
        p_above, p_below = (lambda at: both.tail(centre - at)), (lambda at: 1 - both.tail(centre - at))
    else:
        low, high = centre - quantile(1 - tail) * error, centre - quantile(tail) * error
        p_above, p_below = (lambda at: above((centre - at) / error)), (lambda at: below((centre - at) / error))
    power = 0.9 if bounds else 0.8
    level_of_test = 0.95 if bounds else 0.975
    reach = (t_quantile(level_of_test, freedom) + t_quantile(power, freedom)) * error if error and n > 1 else 0.0
    if drawn:
        k = len(draws) - 1
        reach = math.hypot(reach, (t_quantile(level_of_test, k) + t_quantile(power, k)) * drawn)
    if bounds:
        p = max(
            p_above(bounds[0]) if bounds[0] > -math.inf else 0.0, p_below(bounds[1]) if bounds[1] < math.inf else 0.0
        )
    else:
        p = min(1.0, 2 * min(p_above(0.0), p_below(0.0)))
        if right_wrong and not drawn:
            p = mcnemar(method, baseline)
            if p > 1 - level:
                low, high = min(low, 0.0), max(high, 0.0)
    beyond = None
    if aim is not None:
        beyond = min(1.0, 2 * (p_below(aim) if expect == "lower" else p_above(aim)))
        if right_wrong and not drawn:
            beyond = max(beyond, p)
    sign = -1 if expect == "lower" else 1
    return result(kind, low, high, p, gain(sign * reach), beyond)


def relative_gain_over_draws(
    method: Sequence[Sequence[float]],
    baseline: Sequence[Sequence[float]],
    *,
    expect: Literal["lower", "higher"],
    how: Aggregate = "mean",
    level: float = 0.95,
    equivalence: float | None = None,
    no_worse: bool = False,
    margin: float | None = None,
    resamples: int = RESAMPLES,
) -> Gain:
    """The relative gain and its interval from values [draw][item], where both draws and items are samples.

    An arm that draws nothing gives one row, which stands for all. Draws that are all alike count as one; then this is
    `relative_gain` of the items. Raises ValueError where the numbers of draws or items do not fit.
    """
    k = max(len(method), len(baseline))
    if not method or not baseline or {len(method), len(baseline)} - {1, k}:
        raise ValueError(f"as many draws of both arms wanted, got {len(method)} and {len(baseline)}")
    if len({len(values) for values in (*method, *baseline)}) > 1:
        raise ValueError("the number of items differs between draws")
    tables = [list(arm) * (k if len(arm) == 1 else 1) for arm in (method, baseline)]
    items = [[values[0] if k == 1 else fsum(values) / k for values in zip(*table, strict=True)] for table in tables]
    draws = list(zip(*tables, strict=True))
    varies = any(list(one) != list(arm[0]) for arm in tables for one in arm)
    if not varies:  # the mean of equal values may differ from them in the last bit
        items = [list(table[0]) for table in tables]
    return relative_gain(
        *items,
        expect=expect,
        how=how,
        level=level,
        equivalence=equivalence,
        no_worse=no_worse,
        margin=margin,
        draws=draws if varies else (),
        resamples=resamples,
    )


def _draws_error(draws: Sequence[Pairs], ratio: float, how: Aggregate, of: str, total: float) -> float:
    """Standard error of the ratio that comes from the draws: the spread of their residuals, carried by the delta
    method. total: the sum of what differences are measured against, over one mean draw."""
    if len(draws) < 2 or not total:
        return 0.0
    use = 1
    if of == "larger arm":
        use = max((0, 1), key=lambda arm: fsum(abs(v) for draw in draws for v in draw[arm]))
    residual = []
    for method, baseline in draws:
        difference = fsum([m - b for m, b in zip(method, baseline, strict=True)])
        if how == "exp_mean":
            scale = float(len(method))
        elif of == "larger arm":
            scale = fsum(map(abs, (method, baseline)[use]))
        else:
            scale = math.copysign(1.0, fsum(v for draw in draws for v in draw[1])) * fsum(baseline)
        residual.append(difference - ratio * scale)
    mean = fsum(residual) / len(residual)
    variance = fsum([(r - mean) ** 2 for r in residual]) / (len(residual) - 1)
    return math.sqrt(variance / len(residual)) / abs(total)


@dataclass(frozen=True)
class _Combined:
    """An interval that covers items and draws: the squares of their reaches added.

    quantile, error: of the items' studentised quantity. drawn, freedom: standard error and degrees of the draws.
    least: the smallest p that resampling can give.
    """

    quantile: Callable[[float], float]
    error: float
    drawn: float
    freedom: int
    least: float

    def reach(self, tail: float, *, upper: bool) -> float:
        """How far the interval reaches down (by the items' upper quantile) or up (by the lower one)."""
        items = self.quantile(1 - tail) if upper else -self.quantile(tail)
        return math.hypot(max(0.0, items) * self.error, t_quantile(1 - tail, self.freedom) * self.drawn)

    def tail(self, distance: float) -> float:
        """P of a centre this far or farther above the bound: the tail whose interval just reaches the bound."""
        if distance == 0:
            return 0.5
        low, high = 0.0, abs(distance) / self.drawn  # of the draws' t
        for _ in range(60):
            middle = (low + high) / 2
            tail = t_cdf(-middle, self.freedom)
            if not low < middle < high or tail == 0:
                break
            items = self.quantile(1 - tail) if distance > 0 else -self.quantile(tail)
            reached = math.hypot(max(0.0, items) * self.error, middle * self.drawn)
            low, high = (middle, high) if reached < abs(distance) else (low, middle)
        p = max(self.least, t_cdf(-high, self.freedom))
        return p if distance > 0 else 1 - p


def _scale(
    method: Sequence[float], baseline: Sequence[float], how: Aggregate
) -> tuple[list[float], bool, Literal["baseline", "larger arm"]]:
    """What differences are measured against, item by item; whether on the log scale; and its name."""
    n = len(method)
    if how == "exp_mean":
        return [1.0] * n, False, "baseline"
    if min(*method, *baseline) > 0:
        return list(baseline), True, "baseline"
    mean = fsum(baseline) / n
    error = math.sqrt(fsum((b - mean) ** 2 for b in baseline) / max(1, n - 1) / n)
    if n > 1 and abs(mean) > 3 * error:
        return [math.copysign(1.0, mean) * b for b in baseline], False, "baseline"
    return [abs(v) for v in max(method, baseline, key=lambda arm: fsum(map(abs, arm)))], False, "larger arm"


def _error(squares: float, n: int, total: float) -> float:
    """Standard error of a ratio of sums from its squared residuals (delta method)."""
    return math.sqrt(max(0.0, squares) * n / (n - 1)) / abs(total) if total and n > 1 else 0.0


def _pivots(residual: Sequence[float], scale: Sequence[float], ratio: float, log: bool, resamples: int) -> list[float]:
    """Sorted studentised ratios of `resamples` resamples of the pairs.

    A resample's ratio is ratio + sum(residual) / sum(scale): working with residuals keeps full precision when the
    arms are nearly the same.
    """
    n = len(residual)
    plain = all(s == 1.0 for s in scale)
    columns = [list(residual), [r * r for r in residual]]
    if not plain:
        columns += [list(scale), [r * s for r, s in zip(residual, scale, strict=True)], [s * s for s in scale]]
    pivots = []
    for sums in _resampled_sums(columns, resamples):
        r, rr, s, rs, ss = (sums[0], sums[1], n, sums[0], n) if plain else sums
        step = r / s if s else 0.0
        error = _error(rr - 2 * step * rs + step * step * ss, n, s)
        if log:
            moved = math.log1p(step / (1 + ratio))
            error /= 1 + ratio + step
        else:
            moved = step
        pivots.append(moved / error if error else math.copysign(math.inf, moved) if moved else 0.0)
    return sorted(pivots)


WIDEST = 4096  # bits of a packed row; wider ones are added as floats


def _resampled_sums(columns: Sequence[Sequence[float]], resamples: int) -> Iterator[list[float]]:
    """For each resample of the rows the sum of every column, rounded once like `math.fsum`.

    Floats are whole numbers times a power of two, so a row is packed into one integer, a field for each column, and a
    resample costs one addition for each row drawn instead of one for each value: five times as fast, to the same bit.
    """
    n = len(columns[0])
    packed = _pack(columns)
    if packed is None:
        for picks in _picks(n, resamples):
            yield [fsum(map(column.__getitem__, picks)) for column in columns]
        return
    rows, fields = packed
    row = rows.__getitem__
    for picks in _picks(n, resamples):
        total = sum(map(row, picks))
        yield [((total >> at & mask) - offset) / unit for at, mask, offset, unit in fields]


def _pack(columns: Sequence[Sequence[float]]) -> tuple[list[int], list[tuple[int, int, int, int]]] | None:
    """The rows as integers, and for each column where its field lies: position, mask, what was added to n rows to keep
    them from being negative, and the unit. None where a value is not finite or the rows would be too wide."""
    n = len(columns[0])
    rows, fields, at = [0] * n, [], 0
    for column in columns:
        if not all(map(math.isfinite, column)):
            return None
        ratios = [x.as_integer_ratio() for x in column]
        unit = max(below for _, below in ratios)
        whole = [above * (unit // below) for above, below in ratios]
        offset = max(map(abs, whole))
        width = (2 * offset * n).bit_length()
        if at + width > WIDEST:
            return None
        rows = [row + (value + offset << at) for row, value in zip(rows, whole, strict=True)]
        fields.append((at, (1 << width) - 1, offset * n, unit))
        at += width
    return rows, fields


@lru_cache(maxsize=4)
def _picks(n: int, resamples: int) -> list[Sequence[int]]:
    """Which rows each resample draws, always the same for n: kept, for many records have as many items."""
    draw = random.Random(0).random
    kind: Callable[[list[int]], Any] = bytes if n <= 256 else lambda picks: array("H", picks)
    return [kind([int(draw() * n) for _ in range(n)]) for _ in range(resamples)]


def _order(ordered: Sequence[float], q: float) -> float:
    """The order statistic number q * (count + 1): exact coverage if the values were the true distribution's."""
    return ordered[min(len(ordered), max(1, round(q * (len(ordered) + 1)))) - 1]


def _paired_proportions(method: Sequence[float], baseline: Sequence[float], of: str) -> tuple[float, float]:
    """Centre and standard error of the relative change of a share, half an item added to each cell."""
    cells = {(m, b): 0.5 for m in (0, 1) for b in (0, 1)}
    for m, b in zip(method, baseline, strict=True):
        cells[int(m), int(b)] += 1
    n = fsum(cells.values())
    use = 0 if of == "larger arm" and fsum(method) > fsum(baseline) else 1
    total = fsum(weight * cell[use] for cell, weight in cells.items())
    ratio = fsum(weight * (cell[0] - cell[1]) for cell, weight in cells.items()) / total
    squares = fsum(weight * (cell[0] - cell[1] - ratio * cell[use]) ** 2 for cell, weight in cells.items())
    return ratio, _error(squares, round(n), total)


def _expm1(x: float) -> float:
    try:
        return math.expm1(x)
    except OverflowError:
        return math.inf


def is_right_wrong(values: Sequence[float]) -> bool:
    """Whether every value is 0 (wrong) or 1 (right)."""
    return all(v in (0, 1) for v in values)


def flips(method: Sequence[float], baseline: Sequence[float]) -> float:
    """Share of the items whose right/wrong changed: what an unchanged accuracy can hide."""
    _right_wrong(method, baseline)
    return sum(m != b for m, b in zip(method, baseline, strict=True)) / len(method)


def mcnemar(method: Sequence[float], baseline: Sequence[float]) -> float:
    """Exact two-sided McNemar test on right/wrong items: p of "a flip is as likely up as down"."""
    _right_wrong(method, baseline)
    gained = sum(m > b for m, b in zip(method, baseline, strict=True))
    lost = sum(m < b for m, b in zip(method, baseline, strict=True))
    count = gained + lost
    tail = sum(math.comb(count, k) for k in range(min(gained, lost) + 1))
    return float(min(1.0, 2 * tail / 2**count))  # whole numbers until the last division


def _right_wrong(method: Sequence[float], baseline: Sequence[float]) -> None:
    if len(method) != len(baseline) or not method:
        raise ValueError(f"pairs wanted, got {len(method)} and {len(baseline)} values")
    if not (is_right_wrong(method) and is_right_wrong(baseline)):
        raise ValueError("right/wrong wanted: every value 0 or 1")


def tost(method: Sequence[float], baseline: Sequence[float], low: float, high: float) -> float:
    """Two one-sided paired t tests: p of "the mean difference method - baseline is not within (low, high)".

    Raises ValueError for fewer than two pairs or low >= high.
    """
    n = len(method)
    if n != len(baseline) or n < 2 or low >= high:
        raise ValueError(f"two or more pairs and low < high wanted, got {n}, {len(baseline)}, ({low}, {high})")
    differences = [m - b for m, b in zip(method, baseline, strict=True)]
    mean = fsum(differences) / n
    error = math.sqrt(fsum((d - mean) ** 2 for d in differences) / (n - 1) / n)
    if error == 0:
        return 0.0 if low < mean < high else 1.0
    return max(t_cdf(-(mean - low) / error, n - 1), t_cdf((mean - high) / error, n - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given. Rejecting where they are <= 0.05 keeps the chance of one or
    more false rejections among all of them at 5 %, whatever their dependence."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def t_cdf(t: float, freedom: float) -> float:
    """P(T <= t) of Student's t with `freedom` > 0 degrees, to about 1e-14."""
    if math.isinf(t) or math.isnan(t):
        return t if math.isnan(t) else float(t > 0)
    tail = 0.5 * _incomplete_beta(freedom / (freedom + t * t), t * t / (freedom + t * t), freedom / 2, 0.5)
    return 1 - tail if t > 0 else tail


@lru_cache(maxsize=4096)
def t_quantile(q: float, freedom: float) -> float:
    """The t with P(T <= t) = q, 0 < q < 1, by bisection of the tail (so that small tails keep their digits)."""
    if not 0 < q < 1:
        raise ValueError(f"a probability between 0 and 1 wanted, got {q}")
    if q == 0.5:
        return 0.0
    if q > 0.5:
        return -t_quantile(1 - q, freedom)
    low, high = -1.0, 0.0
    while t_cdf(low, freedom) > q:
        low, high = 2 * low, low
    while True:
        middle = (low + high) / 2
        if not low < middle < high:
            return middle
        low, high = (middle, high) if t_cdf(middle, freedom) < q else (low, middle)


def _incomplete_beta(x: float, rest: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), rest = 1 - x given apart for its digits.

    Continued fraction, modified Lentz (Press et al., Numerical Recipes, section 6.4).
    """
    if x <= 0 or rest <= 0:
        return float(x > 0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(rest, x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)) / a
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d or tiny)
    fraction = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / ((1 + term * d) or tiny)
            c = (1 + term / c) or tiny
            fraction *= c * d
        if abs(c * d - 1) < 1e-16:
            break
    return front * fraction
