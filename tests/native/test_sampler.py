"""Drawing a token, against the plain definition in NumPy: what may be drawn at all, and how often."""

import numpy as np
import pytest

from paperlab.engine.native import EngineError, Sampling, call, pointer

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
