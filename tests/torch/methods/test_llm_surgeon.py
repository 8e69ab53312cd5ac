"""LLM Surgeon: costs and updates against the exact constrained minimum under the Kronecker product, and the budget."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from paperlab.kit.kfac import Kronecker
from paperlab.methods.pruning import llm_surgeon
from paperlab.methods.pruning.llm_surgeon import Layer, threshold

BATCHES = [{"input_ids": torch.randint(0, 40, (8, 24), generator=torch.Generator().manual_seed(0))}]


def problem(rows: int = 5, columns: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """weight, G, A."""
    draw = torch.Generator().manual_seed(0)
    g, a = (torch.randn(40, n, generator=draw) @ torch.randn(n, n, generator=draw) for n in (rows, columns))
    return torch.randn(rows, columns, generator=draw), g.T @ g / 40, a.T @ a / 40


def damped(matrix: torch.Tensor, damping: float = 0.01) -> np.ndarray:
    return matrix.double().numpy() + damping * float(matrix.diagonal().mean()) * np.eye(len(matrix))


def exact(weight: torch.Tensor, curvature: np.ndarray, gone: np.ndarray) -> tuple[np.ndarray, float]:
    """The weights that minimise 1/2 d^T F d where those of `gone` become 0, and the minimum."""
    w = weight.double().numpy().ravel()
    q = gone.ravel().nonzero()[0]
    inverse = np.linalg.inv(curvature)
    multipliers = np.linalg.solve(inverse[np.ix_(q, q)], w[q])
    change = -inverse[:, q] @ multipliers
    return (w + change).reshape(weight.shape), float(0.5 * change @ curvature @ change)


@pytest.mark.parametrize("kind", ["row", "column", "element"])
def test_the_cost_is_the_least_loss_of_a_single_removal(kind: str) -> None:
    weight, g, a = problem()
    part = Layer(weight.clone(), Kronecker(a, g), 0.0, 0.0)
    costs = part.costs("element" if kind == "element" else "row-column", "kfac", updates=True)
    curvature = np.kron(damped(g, 0.0), damped(a, 0.0))
    for index in range(5):
        gone = np.zeros((5, 6), bool)
        if kind == "row":
            gone[index] = True
            found = costs[0][index]
        elif kind == "column":
            gone[:, index] = True
            found = costs[1][index]
        else:
            gone[index, (2 * index) % 6] = True
            found = costs[index, (2 * index) % 6]  # type: ignore[call-overload]
        assert float(found) == pytest.approx(exact(weight, curvature, gone)[1], rel=1e-4)


@pytest.mark.parametrize("kind", ["rows", "columns", "elements"])
def test_the_others_answer_as_the_exact_minimum_says(kind: str) -> None:
    weight, g, a = problem()
    gone = np.zeros((5, 6), bool)
    if kind == "rows":
        gone[[0, 3]] = True
    elif kind == "columns":
        gone[:, [1, 4, 5]] = True
    else:
        gone = np.random.default_rng(0).random((5, 6)) < 0.5
    part = Layer(weight.clone(), Kronecker(a, g), 0.01, 0.01)
    structure = "element" if kind == "elements" else "row-column"
    part.costs(structure, "kfac", updates=True)
    planted: Any = torch.where(torch.from_numpy(gone), 0.0, 2.0)
    if kind == "rows":
        planted = (torch.from_numpy(np.where(gone.all(1), 0.0, 2.0)), torch.full((6,), 2.0))
    elif kind == "columns":
        planted = (torch.full((5,), 2.0), torch.from_numpy(np.where(gone.all(0), 0.0, 2.0)))
    part.remove(planted, 1.0, structure, True, 0)
    wanted, _ = exact(weight, np.kron(damped(g), damped(a)), gone)
    np.testing.assert_allclose(part.weight.numpy(), np.where(gone, 0, wanted), rtol=1e-3, atol=1e-4)


def test_alone_without_correlation_or_without_updates() -> None:
    weight, g, a = problem()
    rows = (torch.tensor([0.0, 2.0, 2.0, 0.0, 2.0]), torch.full((6,), 2.0))
    for updates, correlate in ((True, 1), (False, 0)):
        part = Layer(weight.clone(), Kronecker(a, g), 0.01, 0.01)
        part.costs("row-column", "kfac", updates=updates)
        part.remove(rows, 1.0, "row-column", updates, correlate)
        wanted = weight.double().numpy()
        if updates:
            for row in (0, 3):
                gone = np.zeros((5, 6), bool)
                gone[row] = True
                wanted = wanted + exact(weight, np.kron(damped(g), damped(a)), gone)[0] - weight.double().numpy()
        wanted[[0, 3]] = 0
        np.testing.assert_allclose(part.weight.numpy(), wanted, rtol=1e-3, atol=1e-4)


def test_costs_of_the_baselines_by_hand() -> None:
    weight = torch.tensor([[3.0, 4.0], [1.0, 0.5]])
    known = Kronecker(torch.tensor([[2.0, 0.5], [0.5, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    rows, columns = Layer(weight.clone(), known, 0, 0).costs("row-column", "identity", False)
    assert rows.tolist() == pytest.approx([5, 1.25**0.5])
    assert columns.tolist() == pytest.approx([10**0.5, 16.25**0.5])
    rows, _ = Layer(weight.clone(), Kronecker(known.inputs, None), 0, 0).costs("row-column", "activations", False)
    assert rows.tolist() == pytest.approx([0.5 * (9 * 2 + 16), 0.5 * (2 + 0.25)])
    rows, columns = Layer(weight.clone(), known, 0, 0).costs("row-column", "kfac", False)
    assert rows.tolist() == pytest.approx([0.5 * (18 + 12 + 16), 1.5 * (2 + 0.5 + 0.25)])
    assert columns.tolist() == pytest.approx([0.5 * (9 + 3) * 2, 0.5 * (16 + 0.75)])
    each = Layer(weight.clone(), known, 0, 0).costs("element", "kfac", False)
    assert torch.as_tensor(each).flatten().tolist() == pytest.approx([9, 8, 3, 0.375])


def test_the_budget_counts_what_rows_and_columns_share_once() -> None:
    draw = torch.Generator().manual_seed(0)
    costs: Any = {
        "a": (torch.rand(7, generator=draw), torch.rand(5, generator=draw)),
        "b": (torch.rand(4, generator=draw), torch.rand(9, generator=draw)),
    }
    for share in (0.0, 0.2, 0.5, 0.8):
        edge = threshold(costs, share, "row-column")

        def gone(edge: float) -> int:
            return sum(int(((r <= edge)[:, None] | (c <= edge)).sum()) for r, c in costs.values())

        assert gone(edge) <= share * (35 + 36)
        above = min(float(v) for pair in costs.values() for part in pair for v in part if float(v) > edge)
        assert gone(above) > share * (35 + 36)
    assert threshold({"a": torch.arange(10.0)}, 0.3, "element") == 2


@pytest.mark.parametrize("structure", ["row-column", "element", "2:4"])
@pytest.mark.parametrize("updates", [True, False])
def test_on_a_model(six_blocks: LlamaForCausalLM, structure: Any, updates: bool) -> None:
    model = copy.deepcopy(six_blocks)
    made = llm_surgeon.transform(model, BATCHES, sparsity=0.5, structure=structure, updates=updates, shots=2)
    density = made.totals()["density"]
    assert density == pytest.approx(0.5, abs=0.03 if structure == "row-column" else 0.003)
    if structure == "2:4":
        assert all((layer.mask.view(-1, 4).sum(1) <= 2).all() for layer in made.layers.values())  # type: ignore[attr-defined]
    if structure == "row-column":  # where they are costs a bit a row and a column
        assert made.totals()["layer_bits"] == pytest.approx(16 * density + 2 / 32, abs=0.02)


def test_what_does_not_go_together_is_refused(six_blocks: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match="curvature=identity has no updates"):
        llm_surgeon.transform(six_blocks, BATCHES, curvature="identity")
    with pytest.raises(ValueError, match="2:4: at most"):
        llm_surgeon.transform(six_blocks, BATCHES, sparsity=0.6, structure="2:4")
