"""One layer pruned to several sparsities at once: SparseGPT's solver with the mask chosen before any update.

    U^T U = (H + damping * mean(diag H) I)^-1
    removed: the round(n * sparsity) smallest of  W[o, i]^2 / U_ii^2  in the whole layer
    W[o, j] -= (W[o, i] / U_ii) U_ij        for j > i, where W[o, i] is removed

As src/fast_obc.py of github.com/IST-DASLab/EvoPress at 50888a0, whose block is the whole width; the sparsities run
together here, as rows of one matrix.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from paperlab.kit.gptq import factor
from paperlab.kit.masks import keep_highest
from paperlab.kit.matrix import Dense, Sparse

CHUNK = 64  # columns between two updates of all columns behind them


def sparse_levels(
    weight: Tensor, hessian: Tensor, sparsities: Sequence[float], *, damping: float = 0.01
) -> list[Sparse]:
    """weight (out, in), hessian (in, in) -> for each sparsity in [0, 1) the kept weights, refitted, as float16.

    Raises ValueError for a sparsity outside, or a Hessian of another width.
    """
    rows, columns = weight.shape
    if hessian.shape != (columns, columns):
        raise ValueError(f"a Hessian of {tuple(hessian.shape)} does not fit {columns} input columns")
    hessian = hessian.float().clone()
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    alive = weight.float() * ~dead
    upper = factor(hessian, damping=damping)
    score = (alive / upper.diagonal()).square().reshape(1, -1)
    total = rows * columns
    masks = [keep_highest(score, sparsity=round(total * s) / total).reshape(rows, columns) for s in sparsities]
    gone = ~torch.cat(masks).T.contiguous()  # (in, sparsities * out)
    work = alive.repeat(len(masks), 1).T.contiguous()
    for start in range(0, columns, CHUNK):
        part = work[start : start + CHUNK]
        inner = upper[start : start + len(part), start : start + len(part)]
        errors = torch.zeros_like(part)
        for i in range(len(part)):
            errors[i] = part[i] * gone[start + i] / inner[i, i]
            part[i + 1 :].addr_(inner[i, i + 1 :], errors[i], alpha=-1)
        work[start + len(part) :].addmm_(upper[start : start + len(part), start + len(part) :].T, errors, alpha=-1)
    values = (work * ~gone).T.half().split(rows)
    return [Sparse(mask, Dense(value.clone())) for mask, value in zip(masks, values, strict=True)]
