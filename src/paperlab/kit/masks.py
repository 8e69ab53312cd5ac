"""Masks from scores: which weights stay when the lowest scores go.

    unstructured   each row of scores loses its floor(n * sparsity) lowest
    N:M            of every M neighbouring columns of a row the N highest stay; "2:4" keeps half

Where scores are equal the first columns go first, so that the count is exact however many weights share a value.
"""

import math

import torch
from torch import Tensor


def keep_highest(score: Tensor, *, sparsity: float = 0.5, pattern: str | None = None) -> Tensor:
    """Each row without its lowest scores. score (rows, n) -> bool mask (rows, n) of what stays.

    pattern: "N:M", compared among M neighbours; its share must be that of `sparsity`. Raises ValueError for one that
    is not, that does not divide the rows, and for a sparsity outside [0, 1).
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity={sparsity}: the share of weights to remove, at least 0 and below 1")
    if pattern is None:
        return _without_lowest(score, math.floor(score.shape[1] * sparsity + 1e-9))
    stay, width = read_pattern(pattern, sparsity)
    if score.shape[1] % width:
        raise ValueError(f"pattern={pattern} does not divide the {score.shape[1]} input columns")
    return _without_lowest(score.reshape(-1, width), width - stay).reshape(score.shape)


def read_pattern(pattern: str, sparsity: float) -> tuple[int, int]:
    """(N, M) of "N:M", N weights kept of M. Raises ValueError where it is none, or removes another share."""
    first, colon, second = pattern.partition(":")
    if not colon or not (first.isdecimal() and second.isdecimal()) or not 0 < int(first) < int(second):
        raise ValueError(f"pattern={pattern!r}: write N:M, N weights kept of M neighbours, e.g. 2:4")
    stay, width = int(first), int(second)
    if not math.isclose(sparsity, 1 - stay / width, abs_tol=1e-6):
        raise ValueError(f"pattern={pattern} removes {1 - stay / width:g} of the weights: set sparsity to that")
    return stay, width


def _without_lowest(score: Tensor, count: int) -> Tensor:
    """(rows, n) -> bool mask without the `count` lowest of each row, the first of equal ones."""
    if count == 0:
        return torch.ones_like(score, dtype=torch.bool)
    edge = score.kthvalue(count, dim=1, keepdim=True).values
    lower, equal = score < edge, score == edge
    room = count - lower.sum(1, keepdim=True)
    return ~(lower | equal & (equal.cumsum(1, dtype=torch.int32) <= room))
