"""Layers pruned to several sparsities: against SparseGPT over one block and an exact solve in float64."""

import numpy as np
import pytest
import torch

from paperlab.kit.sparse_levels import sparse_levels
from paperlab.methods.pruning import sparsegpt


def problem(rows: int = 24, columns: int = 150) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(600, 16, generator=draw) @ torch.randn(16, columns, generator=draw)
    x = (x + torch.randn(600, columns, generator=draw)) * torch.randn(columns, generator=draw).exp()
    return torch.randn(rows, columns, generator=draw), 2 / 600 * x.T @ x


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9])
def test_each_level_is_sparsegpt_over_the_whole_width(sparsity: float) -> None:
    weight, hessian = problem()
    made = sparse_levels(weight, hessian, [0.2, sparsity])[1]
    wanted = sparsegpt.keep(weight, hessian, sparsity=sparsity, block=150)
    assert torch.equal(made.mask, wanted.mask)
    torch.testing.assert_close(made.dense(), wanted.dense(), rtol=2e-3, atol=2e-3)


def test_removed_weights_are_answered_by_the_later_columns() -> None:
    weight, hessian = problem(rows=3, columns=40)
    made = sparse_levels(weight, hessian, [0.5], damping=0.01)[0]
    exact = hessian.double().numpy() + 0.01 * float(hessian.diagonal().mean()) * np.eye(40)
    work = weight.double().numpy()
    for i in range(40):
        inverse = np.linalg.inv(exact[i:, i:])
        gone = ~made.mask[:, i].numpy()
        work[:, i:] -= np.outer(np.where(gone, work[:, i], 0) / inverse[0, 0], inverse[0])
    np.testing.assert_allclose(made.dense().numpy(), work * made.mask.numpy(), rtol=2e-3, atol=2e-3)


def test_counts_are_exact_and_dead_inputs_go_first() -> None:
    weight, hessian = problem()
    hessian[7], hessian[:, 7] = 0, 0
    for sparsity, made in zip((0.1, 0.55, 0.7), sparse_levels(weight, hessian, (0.1, 0.55, 0.7)), strict=True):
        assert int((~made.mask).sum()) == round(24 * 150 * sparsity)
        assert not made.mask[:, 7].any()
    before = weight.clone()
    sparse_levels(weight, hessian, [0.5])
    assert torch.equal(weight, before)
    with pytest.raises(ValueError, match="does not fit 149"):
        sparse_levels(weight[:, :-1], hessian, [0.5])
