"""GPTQ with low-rank compensation: what ZeroQuant-V2's LoRC adds to a quantizer that saw data.

Q = GPTQ(W);  W' = Q + U_r S_r V_r^T  of the error W - Q. The baseline is GPTQ at the same total size.
Yao et al., arXiv 2303.08302, section 5; on rounded weights the same stands in `zeroquant_v2_lorc`.
"""

from torch import Tensor

from paperlab.core.card import Card
from paperlab.kit.gptq import gptq
from paperlab.kit.low_rank import compensate
from paperlab.kit.matrix import Matrix

CARD = Card(family="quantization")


def quantize(
    weight: Tensor,
    hessian: Tensor,
    *,
    bits: int = 4,
    rank: int = 8,
    factor_bits: int = 8,
    group: int | None = None,
    symmetric: bool = False,
    damping: float = 0.01,
) -> Matrix:
    """weight (out, in), hessian (in, in) -> GPTQ's codes and two factors of `factor_bits` (16: float16)."""
    rounded = gptq(weight, hessian, bits=bits, group=group, symmetric=symmetric, damping=damping)
    return compensate(weight, rounded, rank=rank, bits=factor_bits)
