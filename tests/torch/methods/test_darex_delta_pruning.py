"""DAREx: with q = 1 - p it is DARE, the search against known peaks, labels and outputs, refusals."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

import paperlab
from paperlab.methods.merging.darex_delta_pruning import best


def states(count: int) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(count)
    return [{"a": torch.randn(300, generator=draw), "b": torch.randn(5, 4, generator=draw)} for _ in range(count)]


def test_with_q_of_dare_it_is_dare_of_the_same_seed() -> None:
    base, *models = states(3)
    ours = paperlab.load("darex-delta-pruning", sparsity=0.9, q=0.1)(base, models, seed=5)
    theirs = paperlab.load("dare-super-mario", sparsity=0.9)(base, models, seed=5)
    for name in base:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-5)


def test_by_hand() -> None:
    base, model = {"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])}
    assert paperlab.load("darex-delta-pruning", sparsity=0.0, q=4.0)(base, [model])["w"].tolist() == [1.5]


@pytest.mark.parametrize(("goal", "tolerance"), [(0.01, 0.006), (0.087, 0.005), (0.33, 0.005), (0.62, 0.005)])
def test_the_search_comes_near_a_single_peak(goal: float, tolerance: float) -> None:
    calls: list[float] = []

    def score(q: float) -> float:
        calls.append(q)
        return -abs(q - goal)

    assert abs(best(score, 0.01) - goal) <= tolerance
    assert calls[:3] == pytest.approx([0.01, 0.06, 0.11])
    assert min(calls) == 0.01


def test_the_search_stops_after_four_that_are_no_better() -> None:
    calls: list[float] = []
    found = best(lambda q: calls.append(q) or -q, 0.01)  # type: ignore[func-returns-value]
    assert found == 0.01
    assert calls[:5] == pytest.approx([0.01, 0.06, 0.11, 0.16, 0.21])
    assert calls[5] == pytest.approx(0.015)
    assert len(calls) == 10  # the finer ones: 0.015 is the best of them, and four more


def test_the_factor_that_judges_best_is_taken() -> None:
    base, model = states(2)

    def near(goal: float) -> object:
        """Higher the nearer the pruned changes are to those of q = goal."""
        wanted = paperlab.load("darex-delta-pruning", sparsity=0.5, q=goal)(base, [model], seed=3)

        def judge(state: Mapping[str, Tensor]) -> float:
            return -sum((state[name] - wanted[name]).abs().sum().item() for name in wanted)

        return judge

    merged = paperlab.load("darex-delta-pruning", sparsity=0.5)(base, [model], seed=3, validate=near(0.8))
    wanted = paperlab.load("darex-delta-pruning", sparsity=0.5, q=0.8)(base, [model], seed=3)
    for name in base:
        torch.testing.assert_close(merged[name], wanted[name], rtol=0.01, atol=0.01)


def test_by_outputs_a_smaller_distance_is_better() -> None:
    """Dropping 99 % of a change: the nearest point to the model, on average, is a small step from the base."""
    base, model = states(2)

    def distance(state: Mapping[str, Tensor]) -> float:
        return (state["a"] - model["a"]).square().sum().item()

    params = {"sparsity": 0.99, "search": "outputs"}
    merged = paperlab.load("darex-delta-pruning", **params)(base, [model], distance=distance)
    dare = paperlab.load("dare-super-mario", sparsity=0.99)(base, [model])
    assert distance(merged) < distance(dare) / 10


@pytest.mark.parametrize(
    ("params", "said"),
    [({}, "validate="), ({"search": "outputs"}, "distance="), ({"q": 0.0}, "more than 0"), ({"sparsity": 1.0}, "less")],
)
def test_refusals(params: dict[str, object], said: str) -> None:
    base, model = states(2)
    with pytest.raises(ValueError, match=said):
        paperlab.load("darex-delta-pruning", **params)(base, [model])
