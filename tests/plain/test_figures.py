"""The one estimator of an arm's figure: against scipy, by simulation, and by its symmetries."""

import importlib.util
import math
import random
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paperlab.core import figures
from paperlab.core.card import Arm
from paperlab.core.figures import arm_rows, arm_value, combined_error, interval, read_arm
from paperlab.core.record import ArmResult, read
from paperlab.core.task import Metric

_spec = importlib.util.spec_from_file_location("synthetic_records", Path(__file__).with_name("records.py"))
assert _spec is not None
assert _spec.loader is not None
synthetic = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic)
make = synthetic.record

METRICS = {"perplexity": Metric("lower", "nll", "exp_mean"), "kl": Metric("lower", "kl"),
           "accuracy": Metric("higher", "right"), "correlation": Metric("higher", "r")}  # fmt: skip


def record(table: dict[str, list[list[float]]], metric: str, paired_by: str = "items", **more: Any) -> Any:
    """A record whose arms have table[arm][draw][item] as their values."""
    key = METRICS[metric].of
    arms = [ArmResult(Arm(name), {str(i): {key: values} for i, values in enumerate(draws)}, {}, {}, 0)
            for name, draws in table.items()]  # fmt: skip
    return replace(make(), arms=arms, metrics=METRICS, metric=metric, paired_by=paired_by, **more)


def value(draws: list[list[float]], metric: str, paired_by: str = "items") -> figures.Value:
    one = record({"a": draws}, metric, paired_by)
    return arm_value(one, one.arms[0])


# ── against what is known ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("n", [2, 3, 16, 96, 1000])
def test_agrees_with_scipy_where_students_t_is_plain(n: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    values = [random.Random(n + i).gauss(0.3, 1) - 5 * (i == 0) for i in range(n)]
    low, high = stats.t.interval(0.95, n - 1, fmean(values), stdev(values) / math.sqrt(n))
    found = interval(values)
    assert (found.value, found.low, found.high) == pytest.approx((fmean(values), low, high), rel=1e-9)
    perplexity = interval(values, "exp_mean")
    assert (perplexity.low, perplexity.high) == pytest.approx((math.exp(low), math.exp(high)), rel=1e-9)


@pytest.mark.parametrize(("right", "n"), [(30, 30), (0, 8), (7, 20), (199, 200)])
def test_right_wrong_has_wilsons_interval(right: int, n: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    wilson = stats.binomtest(right, n).proportion_ci(method="wilson")
    found = value([[1.0] * right + [0.0] * (n - right)], "accuracy")
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high), abs=1e-9)


def test_the_originals_divergence_from_itself_is_zero_for_sure() -> None:
    one = record({"original": [[0.0] * 32], "rounded": [[0.1 * i for i in range(32)]]}, "kl")
    assert arm_value(one, one.arms[0]) == figures.Value(0.0, 0.0, 0.0, 32)
    alone = value([[0.0] * 32], "kl")
    assert (alone.low, alone.high) == (0, 0)
    real = next(r for r in read() if "kl" in r.metrics and any(a.arm.method == "original" for a in r.arms))
    arm = next(a for a in real.arms if a.arm.method == "original")
    assert (arm_value(real, arm, "kl").low, arm_value(real, arm, "kl").high) == (0, 0)


def test_one_value_or_a_diverged_one_has_no_interval() -> None:
    for values in ([3.0], [1.0, math.inf], [1.0, math.nan]):
        found = interval(values)
        assert math.isnan(found.low)
        assert math.isnan(found.high)
    assert interval([3.0]).value == 3
    assert interval([1.0, math.inf]).value == math.inf
    assert interval([800.0, 801.0], "exp_mean").high == math.inf
    assert arm_value(make(), replace(make().arms[0], samples={})) == figures.NOTHING
    with pytest.raises(ValueError, match="no values"):
        interval([])


def test_seeds_stand_for_themselves() -> None:
    figures_ = [4.0, 5.0, 7.0, -2.0, 3.0]
    found = value([[x] for x in figures_], "correlation", "seeds")
    plain = interval(figures_)
    assert (found.value, found.low, found.high, found.n) == (plain.value, plain.low, plain.high, 5)
    shares = value([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]], "accuracy", "seeds")
    assert 0 < shares.low < shares.value < shares.high < 1
    assert value([[1, 1, 1, 1]] * 3, "accuracy", "seeds").low < 1, "twelve right answers prove no perfection"


# ── draws and items ──────────────────────────────────────────────────────────────────────────────────────────────


def test_combined_error_is_the_sum_of_both_variances() -> None:
    table = [[1.0, 2.0, 4.0], [2.0, 2.0, 7.0]]
    draws, items = [7 / 3, 11 / 3], [1.5, 2.0, 5.5]
    wanted = math.sqrt(stdev(draws) ** 2 / 2 + stdev(items) ** 2 / 3)
    assert combined_error(table) == (pytest.approx(wanted), 1)
    assert combined_error(table[:1]) == (pytest.approx(stdev(table[0]) / math.sqrt(3)), 2)
    assert combined_error([[1.0], [2.0], [4.0]]) == (pytest.approx(stdev([1, 2, 4]) / math.sqrt(3)), 2)
    assert math.isnan(combined_error([[1.0]])[0])
    with pytest.raises(ValueError, match="equal length"):
        combined_error([[1.0], [1.0, 2.0]])


def test_what_draws_nothing_counts_once() -> None:
    once = value([[1.0, 2.0, 5.0]], "kl")
    thrice = value([[1.0, 2.0, 5.0]] * 3, "kl")
    assert (thrice.low, thrice.high) == (once.low, once.high)
    assert (thrice.n, thrice.draws) == (3, 3)


def _covers(make: Any, truth: float, metric: str, trials: int = 400) -> float:
    hits = 0
    for trial in range(trials):
        found = value(make(random.Random(trial)), metric)
        hits += found.low <= truth <= found.high
    return hits / trials


@pytest.mark.parametrize("n", [16, 40, 96])
@pytest.mark.parametrize(
    ("draw", "truth", "metric"),
    [
        (lambda rng: rng.gauss(1, 1), 1.0, "correlation"),
        (lambda rng: rng.lognormvariate(0, 0.7), math.exp(0.245), "kl"),
        (lambda rng: rng.expovariate(1), 1.0, "kl"),
        (lambda rng: rng.gauss(3, 0.6), math.exp(3), "perplexity"),
        (lambda rng: float(rng.random() < 0.8), 0.8, "accuracy"),
        (lambda rng: rng.choice((1.0, 0.5, 1 / 3, 0.25, 0.0)), 25 / 60, "correlation"),
    ],
)
def test_covers_over_items(draw: Any, truth: float, metric: str, n: int) -> None:
    coverage = _covers(lambda rng: [[draw(rng) for _ in range(n)]], truth, metric)
    assert 0.9 <= coverage <= 0.99


@pytest.mark.parametrize("draws", [3, 5])
@pytest.mark.parametrize("between", [0.0, 0.1, 0.5])
def test_covers_draws_and_items_together(draws: int, between: float) -> None:
    """Items are hard or easy for all draws, draws are lucky or not for all items, and both at once have noise."""

    def table(rng: random.Random) -> list[list[float]]:
        hard = [rng.gauss(3, 0.4) for _ in range(24)]
        return [[h + luck + rng.gauss(0, 0.1) for h in hard] for luck in (rng.gauss(0, between) for _ in range(draws))]

    def shares(rng: random.Random) -> list[list[float]]:
        hard = [rng.gauss(1, 0.4) for _ in range(60)]
        return [
            [float(rng.random() < 1 / (1 + math.exp(-h - luck))) for h in hard]
            for luck in (rng.gauss(0, between) for _ in range(draws))
        ]

    assert _covers(table, math.exp(3), "perplexity") >= 0.9
    many = random.Random(0)
    spread = math.sqrt(0.16 + between**2)
    truth = fmean(1 / (1 + math.exp(-many.gauss(1, spread))) for _ in range(100_000))
    assert _covers(shares, truth, "accuracy") >= 0.9


# ── symmetries ───────────────────────────────────────────────────────────────────────────────────────────────────

amounts = st.floats(0, 1e6).map(lambda x: round(x, 3))
anything = st.floats(-1e4, 1e4).map(lambda x: round(x, 3))


def ends(found: figures.Value) -> tuple[float, float, float]:
    return found.value, found.low, found.high


@settings(max_examples=150, deadline=None)
@given(st.lists(amounts, min_size=2, max_size=20), st.floats(0.01, 100), st.randoms())
def test_scale_order_and_sign(values: list[float], factor: float, rng: random.Random) -> None:
    found = interval(values)
    assert 0 <= found.low <= found.high
    assert found.low <= found.value * (1 + 1e-12)
    assert found.high >= found.value * (1 - 1e-12)
    scaled = interval([factor * x for x in values])
    if {0, 1} not in (set(values), {factor * x for x in values}):  # as answers they are no amounts
        assert ends(scaled) == pytest.approx([factor * x for x in ends(found)], rel=1e-9)
    mixed = list(values)
    rng.shuffle(mixed)
    assert ends(interval(mixed)) == pytest.approx(ends(found), rel=1e-12)


@settings(max_examples=150, deadline=None)
@given(st.lists(anything, min_size=2, max_size=20), st.floats(-100, 100), st.floats(0.1, 10))
def test_translation_of_values_of_both_signs(values: list[float], shift: float, factor: float) -> None:
    values = [-2e5, 1e5, *values]
    found, moved = interval(values), interval([factor * x + shift for x in values])
    assert ends(moved) == pytest.approx([factor * x + shift for x in ends(found)], rel=1e-9, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 20), min_size=2, max_size=20), st.floats(-5, 5))
def test_translation_of_logarithms_is_a_factor(values: list[float], shift: float) -> None:
    found, moved = interval(values, "exp_mean"), interval([x + shift for x in values], "exp_mean")
    assert ends(moved) == pytest.approx([math.exp(shift) * x for x in ends(found)], rel=1e-7)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(amounts, min_size=4, max_size=4), min_size=2, max_size=5), st.randoms())
def test_draws_and_items_have_no_order(table: list[list[float]], rng: random.Random) -> None:
    found = ends(value(table, "kl"))
    order = list(range(4))
    rng.shuffle(order)
    mixed = [[draw[i] for i in order] for draw in table]
    rng.shuffle(mixed)
    assert ends(value(mixed, "kl")) == pytest.approx(found, rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=5, max_size=5), min_size=1, max_size=4))
def test_shares_stay_shares(table: list[list[float]]) -> None:
    found = value(table, "accuracy")
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high, "a handful of answers proves nothing"


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rows_give_back_the_arms() -> None:
    import json

    one = make()
    kept = [read_arm(row) for row in json.loads(json.dumps(arm_rows(one)))]
    for ours, theirs in zip(figures.arm_figures(one), kept, strict=True):
        assert (ours.arm, ours.role, ours.error) == (theirs.arm, theirs.role, theirs.error)
        for name in ("bits", "bytes", "build", "peak"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name))
        assert ours.values.keys() == theirs.values.keys() == {"perplexity", "kl", "accuracy"}
        for name, found in ours.values.items():
            assert ends(found) == pytest.approx(ends(theirs.values[name]), rel=1e-11)
            assert (found.n, found.draws) == (theirs.values[name].n, theirs.values[name].draws)
    assert [arm.role for arm in kept] == ["method", "baseline", "other", "other"]
