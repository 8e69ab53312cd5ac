"""SVD-LLM: factor the weights after whitening their inputs, which leaves the least error in the layer's output.

    S S^T = X X^T (Cholesky),   W S = U Sigma V^T,   W_r = U_r Sigma_r V_r^T S^-1
    ||(W - W_r) X||_F is then the root of the sum of the squared singular values left out

Wang et al., SVD-LLM: Truncation-aware Singular Value Decomposition for Large Language Model Compression,
arXiv 2403.07378; github.com/AIoT-MLSys-Lab/SVD-LLM at 1c1009a.
"""

import torch
from torch import Tensor

from paperlab.core.card import Card
from paperlab.kit.factoring import project, rank_for
from paperlab.kit.matrix import Factors

CARD = Card(
    family="low-rank",
    sources=("abstract", "code"),
    configuration="SVDLLM.py --step 1",
    departs=(
        "the whitening alone; their second step tunes the factors with LoRA",
        "inputs are those behind the factored blocks before; theirs those of the original model",
        "where Cholesky fails, a millionth of the mean diagonal is added, then ten times more until it does not; "
        "theirs shifts by the lowest eigenvalue",
        "S is not inverted: U_r U_r^T W is the same matrix",
    ),
)


def factor(weight: Tensor, hessian: Tensor, *, ratio: float = 0.5, rank: int | None = None) -> Factors:
    """weight (out, in), hessian (in, in), twice the inputs' second moments -> factors of rank r in float16.

    ratio: share of a layer's numbers that its factors hold, which sets its rank. rank: the same for all layers instead.
    """
    return project(weight, weight @ _root(hessian).float(), rank_for(weight, ratio, rank))


def _root(hessian: Tensor) -> Tensor:
    """The Cholesky factor in float64, of the matrix with as little added to its diagonal as makes it exist."""
    hessian = hessian.double()
    added, size = 0.0, float(hessian.diagonal().mean()) or 1.0
    while True:
        moved = hessian + added * size * torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
        root, failed = torch.linalg.cholesky_ex(moved)
        if not int(failed):
            return root
        added = added * 10 or 1e-6
