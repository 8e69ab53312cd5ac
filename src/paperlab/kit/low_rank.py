"""The best low-rank approximation of a matrix, and a quantization error repaired by one."""

import torch
from torch import Tensor

from paperlab.kit.grid import store
from paperlab.kit.matrix import Factors, Matrix, Sum


def leading(matrix: Tensor, rank: int, *, extra: int = 8, depth: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Leading singular triplets of matrix (m, n): U (m, r), S (r,) descending, V (n, r), float32.

    Block Krylov iteration (Musco and Musco, 2015, arXiv 1504.05477, algorithm 2) from `rank + extra` fixed random
    directions, `depth` products with M^T M: within 0.1 % of the energy that the exact SVD captures even for
    noise, whose singular values lie close together. Small matrices are decomposed exactly.
    """
    rows, columns = matrix.shape
    if not 1 <= rank <= min(rows, columns):
        raise ValueError(f"rank={rank}: between 1 and {min(rows, columns)} for a matrix of {rows} by {columns}")
    if (rank + extra) * depth >= min(rows, columns):
        u, s, vt = torch.linalg.svd(matrix.float(), full_matrices=False)
        return u[:, :rank], s[:rank], vt[:rank].T
    if rows < columns:
        v, s, u = leading(matrix.T, rank, extra=extra, depth=depth)
        return u, s, v
    matrix = matrix.float()
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(columns, rank + extra, generator=generator).to(matrix)
    basis = torch.linalg.qr(block).Q
    for _ in range(depth - 1):
        block = matrix.T @ (matrix @ block)
        for _ in range(2):  # twice: once leaves rounding errors along the basis
            block = torch.linalg.qr(block - basis @ (basis.T @ block)).Q
        basis = torch.cat([basis, block], dim=1)
    u, s, wt = torch.linalg.svd(matrix @ basis, full_matrices=False)
    return u[:, :rank], s[:rank], basis @ wt[:rank].T


def compensate(weight: Tensor, stored: Matrix, *, rank: int, bits: int = 8) -> Matrix:
    """`stored`, and the rank-`rank` approximation of its error W - Q added to it. weight: (out, in).

    The factors U sqrt(S) and sqrt(S) V^T have one magnitude per component; below 16 bits each component is
    rounded symmetrically with its own float16 scale. rank 0 changes nothing. Raises ValueError.
    """
    if rank == 0:
        return stored
    if not 2 <= bits <= 16:
        raise ValueError(f"factor_bits={bits}: between 2 and 16 (16: float16)")
    u, s, v = leading(weight.float() - stored.dense(), rank)
    left, right = u * s.sqrt(), (v * s.sqrt()).T
    if bits == 16:
        return Sum((stored, Factors(left.half(), right.half(), 16)))
    left, right = _round(left.T, bits).T, _round(right, bits)
    return Sum((stored, Factors(left, right, bits, overhead=2 * rank * 16)))


def _round(components: Tensor, bits: int) -> Tensor:
    """Symmetric rounding of each row to `bits` bits with a float16 scale."""
    top = 2 ** (bits - 1) - 1
    scale = store(components.abs().amax(dim=1, keepdim=True) / top).float()
    return (components / scale).round().clamp(-top, top) * scale
