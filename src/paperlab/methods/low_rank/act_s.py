"""Act-S: the error of a compressed weight, given back most exactly where inputs are loud.

    s_j = mean |x_j|,   E diag(s) = U S V^T,   W' = W_c + U_r S_r V_r^T diag(s)^-1

ASVD's scaling (arXiv 2312.05821, alpha = 1) of the error instead of the weight: the second baseline of EoRA
(github.com/NVlabs/EoRA at 11ff6c0, `llama_sequential_activation`).
"""

from torch import Tensor

from paperlab.core.card import Card
from paperlab.kit.factoring import project
from paperlab.kit.matrix import Factors

CARD = Card(
    family="low-rank",
    sources=("code",),
    departs=("within a block, inputs are those of its compressed layers; theirs those of its original ones",),
)


def factor(error: Tensor, input_absmean: Tensor, *, rank: int = 16) -> Factors:
    """error (out, in), what the original weight has over the stored one, and input_absmean (in,) -> factors of rank r
    in float16, to be added."""
    return project(error, error * input_absmean.float(), rank)
