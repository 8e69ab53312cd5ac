"""One arm's own figure with its interval, read from a record's samples: what tables and plots show beside a verdict.

A verdict rests on pairs (`core.verdict`); these intervals do not, so two that overlap may still differ surely.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from paperlab.core.panels import Value
from paperlab.core.record import ArmResult, Record
from paperlab.core.statistics import Aggregate, aggregate, is_right_wrong, t_quantile

RESAMPLES = 1999
FEW = 16  # with fewer items the resamples are too alike: Student's t instead


NOTHING = Value(math.nan, math.nan, math.nan, 0)


def arm_value(record: Record, arm: ArmResult, metric: str | None = None) -> Value:
    """The arm's figure by `metric` (the record's own unless named). Raises KeyError for an unknown metric.

    Paired by items: each item's mean over the seeds, then over items. Paired by seeds: each seed's figure, then
    their mean. An arm without samples, or with one that is not finite, has no interval.
    """
    how = record.metrics[metric or record.metric]
    seeds = [values for values in (by_key.get(how.of, []) for by_key in arm.samples.values()) if values]
    if not seeds:
        return NOTHING
    if record.paired_by == "seeds":
        return interval([aggregate(values, how.aggregate) for values in seeds], "mean", few=math.inf)
    shortest = min(len(values) for values in seeds)  # equal, unless the run was interrupted
    items = [math.fsum(values[i] for values in seeds) / len(seeds) for i in range(shortest)]
    return interval(items, how.aggregate)


def interval(values: Sequence[float], how: Aggregate = "mean", few: float = FEW) -> Value:
    """The figure of `values` and its 95 % interval.

    Bootstrap-t over the values (Efron & Tibshirani 1993, chapter 12; fixed seed); Student's t for fewer than `few`;
    Wilson's interval (1927) where every value is 0 or 1.
    """
    n, figure = len(values), aggregate(values, how)
    if n == 1 or not all(map(math.isfinite, values)):
        return Value(figure, math.nan, math.nan, n)
    if how == "mean" and is_right_wrong(values):
        return Value(figure, *_wilson(figure, n), n)
    x = np.asarray(values, dtype=np.float64)
    mean, error = x.mean(), x.std(ddof=1) / math.sqrt(n)
    if n < few or error == 0:
        reach = t_quantile(0.975, n - 1) * error
        low, high = mean - reach, mean + reach
    else:
        draws = x[np.random.default_rng(0).integers(0, n, (RESAMPLES, n))]
        errors = draws.std(axis=1, ddof=1) / math.sqrt(n)
        moved = draws.mean(axis=1) - mean
        pivots = np.sort(moved / np.maximum(errors, 1e-300))
        cut = round(0.025 * (RESAMPLES + 1))
        low, high = mean - pivots[-cut] * error, mean - pivots[cut - 1] * error
    ends = (_exp(low), _exp(high)) if how == "exp_mean" else (float(low), float(high))
    return Value(figure, *ends, n)


def _wilson(share: float, n: int) -> tuple[float, float]:
    z = NormalDist().inv_cdf(0.975)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - reach), min(1.0, centre + reach)


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
