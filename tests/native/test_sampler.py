"""Drawing a token, against the plain definition in NumPy: what may be drawn at all, and how often."""

import numpy as np
import pytest

from paperlab.engine.native import EngineError, Sampling, call, pointer, sampling

DRAWS = 400


def draw(logits, how, step):
    row = logits.astype(np.float32)  # a copy: it is changed
    return call("sample", pointer(row), row.size, how, step, None, 0)


def distribution(logits, temperature, top_k, top_p, min_p):
    """Probabilities, (vocabulary,) float64: top-k, then top-p of the rest, then min-p."""
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    order = np.lexsort((np.arange(logits.size), -weights))
    if top_k:
        order = order[:top_k]
    if top_p < 1:
        sums = np.cumsum(weights[order])
        order = order[: np.searchsorted(sums, top_p * sums[-1]) + 1]
    order = order[(weights[order] >= min_p) | (np.arange(order.size) == 0)]
    out = np.zeros(logits.size)
    out[order] = weights[order] / weights[order].sum()
    return out


@pytest.mark.parametrize("seed", range(60))
def test_draws_follow_the_distribution(seed):
    random = np.random.default_rng(seed)
    logits = (random.standard_normal(random.choice([1, 5, 40, 517, 3000])) * random.choice([0.5, 3, 20])).astype("f")
    how = (
        float(random.choice([0.3, 1, 2])),
        int(random.choice([0, 0, 1, 7, 100])),
        float(random.choice([1, 0.99, 0.9, 0.3])),
        float(random.choice([0, 0, 0.05, 0.5])),
    )
    wanted = distribution(logits, *how)
    counts = np.bincount([draw(logits, Sampling(*how, 1, seed), step) for step in range(DRAWS)], minlength=logits.size)
    assert counts[wanted < 1e-9].sum() == 0
    often = wanted * DRAWS >= 5
    squares = ((counts - wanted * DRAWS) ** 2)[often] / (wanted * DRAWS)[often]
    assert squares.sum() < often.sum() + 6 * np.sqrt(2 * often.sum()) + 10  # six sigma, seeds being fixed
    assert draw(logits, Sampling(0, *how[1:], 1, seed), 0) == logits.argmax()


@pytest.mark.parametrize(
    "how", [(0, 0, 1, 0), (1, 0, 1, 0), (1, 3, 1, 0), (1, 0, 0, 0), (1, 0, 0.5, 1), (2, 0, 1, 0.1)]
)
def test_extreme_logits(how):
    infinite = np.float32(np.inf)
    sampling = Sampling(*how, 1, 3)
    assert draw(np.array([-infinite, 2, -infinite]), sampling, 0) == 1
    assert draw(np.array([1, infinite, 0]), sampling, 0) == 1
    assert draw(np.full(5, -infinite), sampling, 0) == 0
    assert draw(np.array([-3e38, 3e38, 0]), sampling, 0) == 1
    assert draw(np.zeros(1), sampling, 0) == 0
    with pytest.raises(EngineError, match="NaN"):
        draw(np.array([1, np.nan, 0]), sampling, 0)


# Both ends of every range, what lies next to them, and what float32 makes of small numbers: its smallest normal one,
# the smallest whose inverse it holds (2.94e-39), its smallest subnormal one, and one that it rounds to 0.
TEMPERATURES = (0.0, -0.0, 1e-46, 1.4e-45, 1e-40, 1e-39, 2.9e-39, 2.95e-39, 1e-38, 1.18e-38, 1e-20, 0.5, 99.9, 100.0)
NARROWED = (
    {},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 2**31 - 1},
    {"top_p": 0.0},
    {"top_p": 1e-46},
    {"top_p": 0.9},
    {"top_p": 1 - 1e-9},
    {"min_p": 1.0},
    {"min_p": 0.1},
    {"min_p": 1e-45},
    {"repetition_penalty": 0.01},
    {"repetition_penalty": 100.0},
    {"seed": -1},
    {"seed": 2**64},
    {"top_k": 3, "top_p": 1e-39, "min_p": 1.0, "repetition_penalty": 0.01},
)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_every_number_of_its_range_draws_a_token(temperature):
    random = np.random.default_rng(1)
    seen = np.array([0, 3, 7], np.int32)
    for size in (1, 2, 64, 517):
        logits = (random.standard_normal(size) * 5).astype("f")
        for more in NARROWED:
            how = sampling(temperature, **more)
            row = logits.copy()
            token = call("sample", pointer(row), size, how, 2, pointer(seen), 3)
            assert 0 <= token < size
            if temperature < 1e-20 and "repetition_penalty" not in more:
                assert token == logits.argmax(), more  # so little heat is none


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1e-9},
        {"temperature": 100.1},
        {"temperature": float("nan")},
        {"temperature": "hot"},
        {"temperature": True},
        {"top_p": 1.0001},
        {"top_p": None},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": 101},
        {"top_k": -1},
        {"top_k": 2**31},
        {"top_k": 2**32 + 1},
        {"top_k": 1.5},
        {"seed": 1.5},
        {"seed": "x"},
    ],
    ids=str,
)
def test_numbers_outside_their_range_are_refused_by_name(bad):
    name = next(iter(bad))
    with pytest.raises(EngineError, match=rf"^{name} is .*possible$"):
        sampling(**bad)
