"""GPTQ's solver: round one column at a time and let the columns not yet rounded answer for the error.

    minimise  tr((W - Q) H (W - Q)^T),   H^-1 = U^T U with U upper triangular
    e_i  = (w_i - q_i) / U_ii            error of column i
    w_j -= e_i U_ij   for all j > i      the best answer of the columns still free

Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers
(arXiv 2210.17323), equations 2-3 and algorithm 1: all rows at once, lazy updates in blocks, Cholesky factor.
U is the inverse of the triangular factor R of H = R R^T, so that H itself is never inverted.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from paperlab.kit.grid import levels, min_max
from paperlab.kit.quantized import Quantized, grouped

LEAF = 128  # order of a matrix that LAPACK factors whole

RoundColumn = Callable[[Tensor, int], Tensor]  # updated weights (out,) of column i, i -> rounded weights (out,)
StartGroup = Callable[[Tensor, int], None]  # updated weights (out, group) of a group, index of the group


def factor(hessian: Tensor, *, damping: float = 0.01) -> Tensor:
    """The upper triangular U with U^T U = (H + damping * mean(diag H) * I)^-1, float32, on H (in, in).

    Where float32 does not suffice, float64 is tried, then ten times the damping, at most five times.
    Raises ValueError for a matrix that is not finite, or that no damping makes positive definite.
    """
    if damping < 0:
        raise ValueError(f"damping={damping}: a share of the mean diagonal, 0 or more")
    if not torch.isfinite(hessian).all():
        raise ValueError("the Hessian has entries that are not finite: some calibration input overflowed")
    mean = hessian.diagonal().mean()
    for tries in range(6):
        for dtype in (torch.float32, torch.float64):
            # R is upper: the Cholesky factor of H with rows and columns in reverse order, reversed back
            reverse = hessian.to(dtype).flip(0, 1)
            reverse.diagonal().add_(mean.to(dtype) * (damping * 10**tries if damping else 0.0))
            inverse = _inverse_cholesky(reverse)
            if inverse is not None and torch.isfinite(inverse).all():
                return inverse.flip(0, 1).float()
    raise ValueError(f"the Hessian is not positive definite, even with damping={damping * 1e5:g}; raise `damping`")


def _inverse_cholesky(a: Tensor) -> Tensor | None:
    """L^-1 of a = L L^T, or None where a is not positive definite.

    By halves, so that nearly all of the work is matrix products: on a CPU five times as fast as LAPACK at 1536.
    """
    size = len(a)
    if size <= LEAF:
        lower, failed = torch.linalg.cholesky_ex(a)
        eye = torch.eye(size, dtype=a.dtype, device=a.device)
        return None if failed else torch.linalg.solve_triangular(lower, eye, upper=False)
    half = size // 2
    top = _inverse_cholesky(a[:half, :half])
    if top is None:
        return None
    side = a[half:, :half] @ top.T
    low = _inverse_cholesky(a[half:, half:] - side @ side.T)
    if low is None:
        return None
    inverse = torch.zeros_like(a)
    inverse[:half, :half], inverse[half:, half:], inverse[half:, :half] = top, low, -(low @ side) @ top
    return inverse


def solve(
    weight: Tensor,
    hessian: Tensor,
    round_column: RoundColumn,
    *,
    start_group: StartGroup | None = None,
    group: int | None = None,
    order: Tensor | None = None,
    damping: float = 0.01,
    block: int = 128,
    upper: Tensor | None = None,
) -> Tensor:
    """Round the columns of `weight` (out, in) one after another; returns what they became, (out, in) float32.

    hessian: (in, in), any positive multiple of sum_t x_t x_t^T. Inputs that were never active (zero diagonal)
    get zero weights before rounding. round_column(w, i) is called once for each column i with its updated
    weights (out,) and returns the rounded ones; it may not change w. start_group(w, g), if given, is called
    before the first column of group g with the group's updated weights (out, group): the place to fit a grid.
    order: permutation of the columns, the first is rounded first; not together with start_group, since
    a group's columns are then not neighbours in time. block: columns between two updates of all later
    columns; changes the speed, not the result. upper: `factor` of the Hessian, with 1 for a zero diagonal, in this
    order, where it is known.
    """
    rows, columns = weight.shape
    size = group or columns
    grouped(weight, group)  # refuses a group that does not divide the row
    _refuse_other_shape(hessian, columns)
    if block < 1:
        raise ValueError(f"block={block}: at least 1 column")
    if order is not None and start_group is not None:
        raise ValueError("an order of columns needs grids that are fitted beforehand, not start_group")

    hessian = hessian.float().clone()
    work = weight.float().T.clone(memory_format=torch.contiguous_format)  # a column of `weight` is contiguous here
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    work[dead] = 0
    if order is not None:
        hessian, work = hessian[order][:, order], work[order]
    names = range(columns) if order is None else order.tolist()
    upper = factor(hessian, damping=damping) if upper is None else upper
    pivots = upper.diagonal().reciprocal().tolist()
    lower = upper.T.contiguous()  # lower[i, :i]: how much column i answers for each column before it

    rounded = torch.empty_like(work)
    errors = torch.empty(min(block, size), rows, device=work.device)
    start = 0
    while start < columns:
        if start_group is not None and start % size == 0:
            start_group(work[start : start + size].T, start // size)
        stop = min(start + block, (start // size + 1) * size)  # a group begins with up-to-date weights
        coming = work[start:stop].unbind()
        for k, i in enumerate(range(start, stop)):
            column = coming[k]
            if k:
                column.addmv_(errors[:k].T, lower[i, start:i], alpha=-1)
            rounded[i] = round_column(column, names[i])
            torch.sub(column, rounded[i], out=errors[k])
            errors[k].mul_(pivots[i])
        if stop < columns:
            work[stop:].addmm_(lower[stop:, start:stop], errors[: stop - start], alpha=-1)
        start = stop
    if order is not None:
        rounded[order] = rounded.clone()
    return rounded.T


def _refuse_other_shape(hessian: Tensor, columns: int) -> None:
    if hessian.shape != (columns, columns):
        raise ValueError(f"a Hessian of {tuple(hessian.shape)} does not fit {columns} input columns")


def gptq(
    weight: Tensor,
    hessian: Tensor,
    *,
    bits: int = 4,
    group: int | None = None,
    symmetric: bool = False,
    act_order: bool = False,
    damping: float = 0.01,
    block: int = 128,
) -> Quantized:
    """GPTQ on min-max grids per row or group. weight (out, in), hessian (in, in) -> Quantized.

    A group's grid is fitted to its weights as they are when its turn comes. act_order rounds the columns of
    the largest diagonal of H first; the grids are then fitted to the original weights, before any update, so
    that the groups stay neighbours and no permutation is stored ("static groups" of the authors' code).
    """
    rows, columns = weight.shape
    _refuse_other_shape(hessian, columns)
    low, high = levels(bits, symmetric)
    size = group or columns
    codes = torch.empty(columns, rows, device=weight.device)
    at = codes.unbind()
    alive = weight.float() * (hessian.diagonal() != 0)  # dead inputs must not widen the grids
    scale, zero = min_max(alive, bits=bits, group=group, symmetric=symmetric)

    def grid(g: int) -> tuple[Tensor, Tensor, Tensor]:
        """Scale of group g, and its smallest and largest code less the zero point."""
        return scale[:, g].float(), low - zero[:, g].float(), high - zero[:, g].float()

    def start_group(updated: Tensor, g: int) -> None:
        fitted = min_max(updated, bits=bits, symmetric=symmetric)
        scale[:, g : g + 1], zero[:, g : g + 1] = fitted
        grids[g] = grid(g)

    def round_column(column: Tensor, i: int) -> Tensor:
        step, bottom, top = grids[i // size]
        code = torch.div(column, step, out=at[i]).round_()
        torch.clamp(code, bottom, top, out=code)
        return code * step

    grids = [grid(g) for g in range(columns // size)]
    order = hessian.diagonal().argsort(descending=True, stable=True) if act_order else None
    solve(
        weight,
        hessian,
        round_column,
        start_group=None if act_order else start_group,
        group=group,
        order=order,
        damping=damping,
        block=block,
    )
    shift = zero.float().T.repeat_interleave(size, dim=0)
    return Quantized(
        codes=(codes + shift).T.to(torch.int16).contiguous(),
        bits=bits,
        scale=scale,
        zero=None if symmetric else zero.to(torch.int16),
        zero_bits=bits,
    )
