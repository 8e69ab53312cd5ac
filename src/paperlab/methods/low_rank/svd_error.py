"""SVD of the error: two thin matrices beside a compressed weight that give back the most of what it lost.

    E = W - W_c = U S V^T,   W' = W_c + (U_r sqrt(S_r)) (sqrt(S_r) V_r^T)

Comes after any compressing method: rounding, pruning, both. Over rounding, with the factors in 8 bits, that is LoRC
(ZeroQuant-V2, arXiv 2303.08302). Here they are float16, as in EoRA's comparison (github.com/NVlabs/EoRA at 11ff6c0,
`llama_sequential_svd`).
"""

from torch import Tensor

from paperlab.core.card import Card
from paperlab.kit.factoring import project
from paperlab.kit.matrix import Factors

CARD = Card(family="low-rank", sources=("code",))


def factor(error: Tensor, *, rank: int = 16) -> Factors:
    """error (out, in), what the original weight has over the stored one -> float16 factors of rank r, to be added."""
    return project(error, error, rank)
