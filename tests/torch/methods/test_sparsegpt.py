"""SparseGPT: against one exact removal after another in float64, its patterns, and the error that it leaves."""

from typing import Any

import numpy as np
import pytest
import torch

from paperlab.methods.pruning import sparsegpt, wanda


def problem(rows: int = 24, columns: int = 96) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """weight, inputs (tokens, in) that are correlated and of very different sizes, hessian."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(600, 16, generator=draw) @ torch.randn(16, columns, generator=draw)
    x = (x + torch.randn(600, columns, generator=draw)) * torch.randn(columns, generator=draw).exp()
    return torch.randn(rows, columns, generator=draw), x, 2 / 600 * x.T @ x


def numpy_sparsegpt(
    weight: np.ndarray, hessian: np.ndarray, sparsity: float, block: int, fours: bool, damping: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """The paper's algorithm without its tricks: the inverse over the columns from i on is computed for each i.

    The score of a removal is w_i^2 / [H^-1]_ii and the others answer by -w_i [H^-1]_ij / [H^-1]_ii.
    """
    work, columns = weight.astype(np.float64), weight.shape[1]
    hessian = hessian + damping * hessian.diagonal().mean() * np.eye(columns)
    inverse = [np.linalg.inv(hessian[i:, i:]) for i in range(columns)]
    mask = np.ones(work.shape, bool)
    for i in range(columns):
        if fours and i % 4 == 0:
            score = np.stack([work[:, j] ** 2 / inverse[j][0, 0] for j in range(i, i + 4)], 1)
            np.put_along_axis(mask[:, i : i + 4], np.argsort(score, axis=1)[:, :2], False, axis=1)
        if not fours and i % block == 0:
            end = min(i + block, columns)
            score = np.stack([work[:, j] ** 2 / inverse[j][0, 0] for j in range(i, end)], 1)
            gone = np.argsort(score, axis=None)[: int(score.size * sparsity)]
            mask[:, i:end][np.unravel_index(gone, score.shape)] = False
        error = np.where(mask[:, i], 0, work[:, i]) / inverse[i][0, 0]
        work[:, i:] -= error[:, None] * inverse[i][0]
    return mask, np.where(mask, work, 0)


@pytest.mark.parametrize(("sparsity", "block", "pattern"), [(0.5, 32, None), (0.7, 40, None), (0.5, 128, "2:4")])
def test_one_exact_removal_after_another(sparsity: float, block: int, pattern: str | None) -> None:
    weight, _, hessian = problem()
    made = sparsegpt.keep(weight, hessian, sparsity=sparsity, block=block, pattern=pattern)
    mask, values = numpy_sparsegpt(weight.numpy(), hessian.double().numpy(), sparsity, block, bool(pattern))
    assert (made.mask.numpy() == mask).all()
    np.testing.assert_allclose(made.dense().numpy(), values, rtol=2e-3, atol=2e-3)  # stored as float16


def test_an_exact_share_of_each_block_goes_and_two_of_each_four_stay() -> None:
    weight, _, hessian = problem()
    made = sparsegpt.keep(weight, hessian, sparsity=0.6, block=32)
    for start in (0, 32, 64):
        assert (~made.mask[:, start : start + 32]).sum() == int(24 * 32 * 0.6)
    fours = sparsegpt.keep(weight, hessian, pattern="2:4").mask.view(24, -1, 4)
    assert (fours.sum(2) == 2).all()
    assert sum(made.stored_bits().values()) == int(made.mask.sum()) * 16 + 24 * 96


@pytest.mark.parametrize("pattern", [None, "2:4"])
def test_it_leaves_less_error_than_wanda_and_wanda_less_than_magnitude(pattern: str | None) -> None:
    weight, x, hessian = problem()

    def error(pruned: torch.Tensor) -> float:
        return float(((pruned - weight) @ x.T).square().sum())

    norm = x.square().sum(0).sqrt()
    by_size = error(weight * wanda.keep(weight, norm, pattern=pattern, norms="equal"))
    by_score = error(weight * wanda.keep(weight, norm, pattern=pattern))
    refitted = error(sparsegpt.keep(weight, hessian, pattern=pattern).dense())
    assert refitted < 0.8 * by_score
    assert by_score < 0.8 * by_size
    nothing_known = sparsegpt.keep(weight, hessian, pattern=pattern, damping=1e6).dense()
    torch.testing.assert_close(nothing_known, weight * (nothing_known != 0), rtol=2e-3, atol=1e-3)  # no update


def test_what_was_zero_stays_zero_and_dead_inputs_go_first() -> None:
    weight, _, hessian = problem()
    weight[:, ::3] = 0
    hessian[5], hessian[:, 5] = 0, 0
    made = sparsegpt.keep(weight, hessian, sparsity=0.5)
    assert not made.mask[:, ::3].any()
    assert not made.mask[:, 5].any()
    assert (~made.mask).sum() == 24 * 96 // 2
    assert made.dense().isfinite().all()
    row = torch.randn(1, 96, generator=torch.Generator().manual_seed(1))
    before = row.clone()
    sparsegpt.keep(row, hessian)
    assert torch.equal(row, before)


def test_what_cannot_be_done_is_refused() -> None:
    weight, _, hessian = problem()
    with pytest.raises(ValueError, match="no multiple of the 4 columns that pattern=2:4 spans"):
        sparsegpt.keep(weight, hessian, pattern="2:4", block=30)
    with pytest.raises(ValueError, match="does not fit"):
        sparsegpt.keep(weight[:, :-1], hessian)


def fixed(rows: int, columns: int, a: int, b: int, modulus: int) -> torch.Tensor:
    """Whole numbers, the same on every machine."""
    values = [[(a * i * i + b * j * j + 3 * i * j + 5 * i + 11 * j) % modulus - modulus // 2 for j in range(columns)]
              for i in range(rows)]  # fmt: skip
    return torch.tensor(values, dtype=torch.float32)


WEIGHT = fixed(6, 16, 7, 3, 101) / 32
INPUTS = fixed(64, 16, 13, 5, 127) / 64 * torch.tensor([2.0 ** (j % 5 - 2) for j in range(16)])


def as_mask(rows: str) -> torch.Tensor:
    return torch.tensor([[mark == "1" for mark in row] for row in rows.split()])


@pytest.mark.parametrize(
    ("params", "first_row", "theirs"),
    [
        ({"sparsity": 0.5}, [0, -0.98469, 0, 0.34340, 1.31801, 0, 0, -0.79138, 0.86520, -0.33266, 0, 0, 0, 0],
         ".1.11..111....1. ...11.1.11..111. ..11...111.1111. .1111.1.11...11. ..111...11..111. ...1...111...11."),
        ({"sparsity": 0.5, "block": 8}, [-1.5625, -1.125, -0.5, 0.3125, 1.3125, 0, 0, -0.79221, 0.86018, -0.34761],
         "11111..111....1. ...11.1.11..111. ..11...111....1. .1111.1.11...11. ..111...11...11. ...1.1.111...11."),
        ({"pattern": "2:4"}, [0, -0.98469, 0, 0.34340, 1.31801, 0, 0, -0.79138, 0.86520, -0.33266, 0, 0, 0.38244, 0],
         ".1.11..111..1.1. 1..11.1.11...11. ..11.1.111...11. .1.11.1.11...11. ..111..111...11. 1..1.1.111...11."),
    ],
)  # fmt: skip
def test_masks_and_values_of_the_authors_code(params: dict[str, Any], first_row: list[float], theirs: str) -> None:
    """What sparsegpt.py of github.com/IST-DASLab/sparsegpt at 147d215 made of this layer, run once on a CPU."""
    made = sparsegpt.keep(WEIGHT, 2 * INPUTS.T @ INPUTS, **params)
    mask = as_mask(theirs)
    more = made.mask & ~mask  # their threshold takes one more weight of each block of columns
    assert not (mask & ~made.mask).any()
    assert int(more.sum()) == (0 if "pattern" in params else 16 // params.get("block", 16))
    wanted = torch.tensor(first_row)
    alike = ~more[0, : len(wanted)]
    torch.testing.assert_close(made.dense()[0, : len(wanted)][alike], wanted[alike], rtol=1e-3, atol=1e-4)
