"""GPTQ with low-rank compensation: what ZeroQuant-V2's LoRC adds to a quantizer that saw data.

Q = GPTQ(W);  W' = Q + U_r S_r V_r^T  of the error W - Q. Rank 0 is GPTQ alone.
Yao et al., arXiv 2303.08302; on rounded weights the same stands in `zeroquant_v2_lorc`, with the checks of both.
"""

from torch import Tensor

from paperlab.core.card import Card
from paperlab.kit.gptq import gptq
from paperlab.kit.low_rank import compensate
from paperlab.kit.matrix import Matrix

CARD = Card(
    family="quantization",
    sources=("abstract",),
    departs=(
        "as `zeroquant_v2_lorc` for the factors and `gptq` for the codes",
        "the options of the paper's GPTQ (order of the columns, calibration data) are not known here",
    ),
)


def quantize(
    weight: Tensor,
    hessian: Tensor,
    *,
    bits: int = 4,
    rank: int = 8,
    factor_bits: int = 8,
    group: int | None = None,
    symmetric: bool = False,
    act_order: bool = False,
    damping: float = 0.01,
) -> Matrix:
    """weight (out, in), hessian (in, in) -> GPTQ's codes and two factors of `factor_bits` (16: float16).

    rank: 0 gives plain GPTQ. act_order: round the columns that meet the strongest inputs first.
    """
    rounded = gptq(weight, hessian, bits=bits, group=group, symmetric=symmetric, act_order=act_order, damping=damping)
    return compensate(weight, rounded, rank=rank, bits=factor_bits)
