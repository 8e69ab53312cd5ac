"""How often the interval of a relative gain holds the true gain: simulated, nominal 95 %.

    python benchmarks/coverage.py        about 3 minutes on one core; writes benchmarks/coverage.md beside this file

Each row draws many data sets whose true gain is known, asks `paperlab.core.statistics.relative_gain` for the
interval of each, and counts. `below` and `above` say on which side the misses lie (2.5 % each would be perfect).
The percentile bootstrap of the same data stands beside, to show why it was not chosen.
"""

import math
import random
import sys
import textwrap
import time
from collections.abc import Callable
from math import fsum
from pathlib import Path

from paperlab.core.statistics import RESAMPLES, Aggregate, relative_gain, relative_gain_over_draws, t_quantile

Pairs = tuple[list[float], list[float]]
FEWER = 399  # resamples in the simulation; quantiles at (FEWER + 1) * 0.025 are exact too, only noisier


def windows(n: int, draw: random.Random) -> Pairs:
    """Nats per token of text windows: baseline 3 ± 0.5, the damage is skewed (gamma, shape 2) with mean 0.02."""
    baseline = [draw.gauss(3, 0.5) for _ in range(n)]
    return [b + draw.gammavariate(2, 0.01) for b in baseline], baseline


def windows_hard(n: int, draw: random.Random) -> Pairs:
    """As before, the damage exponential and dearer on hard windows: correlated with the baseline."""
    baseline = [draw.gauss(3, 0.5) for _ in range(n)]
    return [b + draw.expovariate(1 / 0.02) * (b / 3) for b in baseline], baseline


def errors(n: int, draw: random.Random) -> Pairs:
    """Positive, skewed values (KL, squared errors): log-normal, sd 0.8 in the log; method 20 % lower, noisy."""
    baseline = [draw.lognormvariate(0, 0.8) for _ in range(n)]
    return [0.8 * b * draw.lognormvariate(-0.02, 0.2) for b in baseline], baseline


def scores(n: int, draw: random.Random) -> Pairs:
    """Values in [0, 1] (nDCG, similarity): a beta(4, 2) baseline; the method loses a random share, mean 5 %."""
    baseline = [draw.betavariate(4, 2) for _ in range(n)]
    return [b * (1 - draw.betavariate(1, 19)) for b in baseline], baseline


def answers(n: int, draw: random.Random) -> Pairs:
    """Right or wrong: baseline right on 70 %; the method flips 10 % of the right ones and 15 % of the wrong ones."""
    baseline = [float(draw.random() < 0.7) for _ in range(n)]
    return [float(draw.random() < (0.9 if b else 0.15)) for b in baseline], baseline


def seeds(n: int, draw: random.Random) -> Pairs:
    """A loss per seed: 5 % common to both arms of a seed, 2 % of each; method 10 % lower."""
    common = [draw.gauss(2, 0.1) for _ in range(n)]
    return [0.9 * c * (1 + draw.gauss(0, 0.02)) for c in common], [c * (1 + draw.gauss(0, 0.02)) for c in common]


def seeds_wide(n: int, draw: random.Random) -> Pairs:
    """A loss per seed that varies by 15 % (log-normal), half of the variance common; method 10 % lower."""
    common = [draw.lognormvariate(0, 0.1) for _ in range(n)]
    return [0.9 * c * draw.lognormvariate(0, 0.1) for c in common], [c * draw.lognormvariate(0, 0.1) for c in common]


# population, aggregate, pairing, true method/baseline, sizes
ROWS: list[tuple[Callable[[int, random.Random], Pairs], Aggregate, str, float, tuple[int, ...]]] = [
    (windows, "exp_mean", "items", math.exp(0.02), (24, 64, 128)),
    (windows_hard, "exp_mean", "items", math.exp(0.02), (24, 64, 128)),
    (errors, "mean", "items", 0.8, (24, 64, 128)),
    (scores, "mean", "items", 0.95, (24, 64, 128)),
    (answers, "mean", "items", (0.7 * 0.9 + 0.3 * 0.15) / 0.7, (24, 64, 128)),
    (seeds, "mean", "seeds", 0.9, (3, 4, 5)),
    (seeds_wide, "mean", "seeds", 0.9, (3, 4, 5)),
    (seeds, "exp_mean", "seeds", math.exp(-0.2), (3, 4, 5)),
]


def percentile(method: list[float], baseline: list[float], how: str, draw: random.Random) -> tuple[float, float]:
    """The plain percentile interval of 1 - M / B, for comparison."""
    n, gains = len(method), []
    for _ in range(FEWER):
        picked = [int(draw.random() * n) for _ in range(n)]
        above, below = fsum(method[i] for i in picked), fsum(baseline[i] for i in picked)
        gains.append(-math.expm1((above - below) / n) if how == "exp_mean" else 1 - above / below if below else 0.0)
    gains.sort()
    return gains[round(0.025 * (FEWER + 1)) - 1], gains[round(0.975 * (FEWER + 1)) - 1]


def coverage(
    population: Callable[[int, random.Random], Pairs],
    how: Aggregate,
    by: str,
    ratio: float,
    n: int,
    times: int,
    resamples: int = FEWER,
    compare: bool = False,
) -> tuple[float, float, float, float]:
    """Shares of `times` data sets: held, true gain below the interval, above it; held by the percentile interval."""
    draw = random.Random(n)
    truth = 1 - ratio
    held = below = above = plain = 0
    for _ in range(times):
        method, baseline = population(n, draw)
        gain = relative_gain(method, baseline, expect="lower", how=how, by=by, resamples=resamples)  # type: ignore[arg-type]
        below += truth < gain.low
        above += truth > gain.high
        held += gain.low <= truth <= gain.high
        if compare:
            low, high = percentile(method, baseline, how, draw)
            plain += low <= truth <= high
    return held / times, below / times, above / times, plain / times


OWN = 0.05  # spread of an item's damage in nats
DRAWS = [(k, n, share) for k in (3, 5) for n in (32, 96) for share in (0.0, 0.5, 1.0, 2.0, 8.0)]


def drawn(draws: int, items: int, spread: float, own: float, draw: random.Random) -> tuple[list[list[float]], ...]:
    """Values [draw][item] of method and baseline in nats. The method is 0.05 lower; each draw moves all its items by a
    normal deviate (`spread`), each item has damage of its own (exponential, `own`, mean 0) in all draws, and a quarter
    of that in each. The baseline draws nothing."""
    baseline = [draw.gauss(3, 0.4) for _ in range(items)]
    damage = [draw.expovariate(1 / own) - own for _ in range(items)]
    moved = [draw.gauss(0, spread) for _ in range(draws)]
    method = [[b - 0.05 + m + d + draw.gauss(0, own / 4) for b, d in zip(baseline, damage, strict=True)] for m in moved]
    return method, [baseline]


def coverage_over_draws(
    draws: int, items: int, share: float, times: int, resamples: int = FEWER
) -> tuple[float, float, float]:
    """Shares of `times` data sets whose true gain the interval holds: ours; one Student's t on the sum of both squares
    with Satterthwaite's degrees; and with draws - 1. share: standard error of the draws, that of the items being 1."""
    draw, truth = random.Random(7), 1 - math.exp(-0.05)
    spread = share * OWN / math.sqrt(items) * math.sqrt(draws)
    held = [0, 0, 0]
    for _ in range(times):
        method, baseline = drawn(draws, items, spread, OWN, draw)
        gain = relative_gain_over_draws(method, baseline, expect="lower", how="exp_mean", resamples=resamples)
        held[0] += gain.low <= truth <= gain.high
        moved = [[m - b for m, b in zip(row, baseline[0], strict=True)] for row in method]
        means = [fsum(row) / items for row in moved]
        of_items = [fsum(column) / draws for column in zip(*moved, strict=True)]
        centre = fsum(means) / draws
        a = fsum((x - centre) ** 2 for x in means) / (draws - 1) / draws
        b = fsum((x - centre) ** 2 for x in of_items) / (items - 1) / items
        freedom = (a + b) ** 2 / (a * a / (draws - 1) + b * b / (items - 1))
        for i, degrees in enumerate((round(2 * freedom) / 2, draws - 1), 1):  # rounded: a quantile is slow
            held[i] += abs(centre + 0.05) <= t_quantile(0.975, degrees) * math.sqrt(a + b)
    return held[0] / times, held[1] / times, held[2] / times


def table_over_draws(times: int) -> str:
    """The second table."""
    lines = []
    for draws, items, share in DRAWS:
        ours, one_t, fewer = coverage_over_draws(draws, items, share, times)
        noise = 196 * math.sqrt(ours * (1 - ours) / times)
        lines.append(
            f"| {draws} | {items} | {share:g} | **{100 * ours:.1f}** ± {noise:.1f} | {100 * one_t:.1f} |"
            f" {100 * fewer:.1f} |"
        )
        print(lines[-1], flush=True)
    text = f"""{" ".join((drawn.__doc__ or "").split())} An item-only and a draw-only interval are combined by their
squares; next to it one Student's t on the sum of both squared errors, with Satterthwaite's degrees of freedom and with
draws - 1. draws/items: their standard errors."""
    return f"""## Draws and items

{textwrap.fill(" ".join(text.split()), 120)}

| draws | items | draws/items | held the true gain | t, Satterthwaite | t, draws - 1 |
|---|---|---|---|---|---|
{chr(10).join(lines)}
"""


def main(times: int = 1000) -> None:
    """Run all rows and write the table."""
    start = time.perf_counter()
    lines = []
    for population, how, by, ratio, sizes in ROWS:
        for n in sizes:
            repeat = times if by == "items" else 2 * times
            held, below, above, plain = coverage(population, how, by, ratio, n, repeat, compare=by == "seeds" or n < 64)
            beside = f"{100 * plain:.1f}" if by == "seeds" or n < 64 else ""
            noise = 196 * math.sqrt(held * (1 - held) / repeat)
            name = population.__name__
            lines.append(
                f"| {name} | {how} | {by} | {n} | **{100 * held:.1f}** ± {noise:.1f} | {100 * below:.1f} |"
                f" {100 * above:.1f} | {beside} |"
            )
            print(lines[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
    what = "\n".join(
        f"- `{p.__name__}`: {' '.join((p.__doc__ or '').split())}" for p in dict.fromkeys(r[0] for r in ROWS)
    )
    table = f"""# Coverage of the interval of a relative gain

Nominal 95 %. Written by `python benchmarks/coverage.py {times}` (Python {sys.version.split()[0]}), {times} data sets
per row of items and {2 * times} per row of seeds; ± is the simulation's own 95 % noise. The simulation takes {FEWER}
resamples, a verdict {RESAMPLES}. All numbers in %.

| data | aggregate | paired by | n | held the true gain | true gain below | above | percentile bootstrap held |
|---|---|---|---|---|---|---|---|
{chr(10).join(lines)}

{what}

{table_over_draws(times)}"""
    Path(__file__).with_suffix(".md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
