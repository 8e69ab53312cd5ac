"""BAQ: give each column of a matrix the bits that its sensitivity earns, then round with GPTQ.

Zhang et al., "BAQ: Efficient Bit Allocation Quantization for Large Language Models", arXiv 2506.05664. The rounding
error of column j with R_j bits, spread evenly over its step, costs under GPTQ's Hessian proxy

    L_j = c_j 2^(-2 R_j),     c_j = sum_i range_i^2 / (24 U_jj^2),     U^T U = H^-1

(ranges are per row, so that within a matrix only U_jj tells columns apart). Least total loss at mean bits R, closed
form, every column with the same loss:

    R_j = R + 1/2 log2(c_j / geometric mean of c)

Whole bits: the (r + 1)-th bit of column j is worth c_j 4^(-r), so the budget buys the bits with the largest
1/2 log2(c_j) - r. That is the best whole allocation, and the closed form rounded with one common threshold.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.gptq import factor, solve
from paperlab.kit.grid import store
from paperlab.kit.quantized import Quantized

CARD = Card(
    paper="baq",
    family="quantization",
    task="lm_compress",
    metric="perplexity",
    expect="lower",
    equal={"layer_bits": 0.005},
    also={"encoder_compress": "embedding_error"},
    checks=(
        Check(
            claim="better-than-gptq-at-2-bits",
            says="Perplexity far below GPTQ's at the same bit width, up to 56 times (OPT and Llama, 125M to 30B).",
            margin=0.05,
            method=Arm("baq", mean_bits=2.0),
            baseline=Arm("gptq", bits=2),
            beside=(Arm("round-to-nearest", bits=2), Arm("original")),
            gap="The paper counts code bits only; here the map of bits and the wider ranges are paid from the same "
            "budget. At 2 bits per row small models are broken either way: a pass is a smaller ruin, read the "
            "figures. SmolLM2's weights at hand were rounded to 4 bits before.",
        ),
        Check(
            claim="better-than-gptq-at-3-bits",
            says="At 3 bits perplexity is below GPTQ's as well, by less.",
            margin=0.02,
            method=Arm("baq", mean_bits=3.0),
            baseline=Arm("gptq", bits=3),
            beside=(Arm("round-to-nearest", bits=3), Arm("original")),
            gap="As at 2 bits. Columns with bits of their own need kernels that nobody ships: a pass says nothing "
            "about speed.",
        ),
    ),
    departs=(
        "c_j comes from the loss formula; the authors' code measures each column's loss in a first GPTQ pass",
        "whole bits, chosen together so that the budget is met exactly; the authors' code rounds each column's number "
        "of levels, which needs fractions of bits and meets the budget only about",
        "the budget pays for the map of bits and for each row's range too: total size equals uniform GPTQ's",
        "the exponent is 2, as in the paper's model of the loss; the authors' code has 1.95",
    ),
)


@dataclass
class ColumnBits(Quantized):
    """Columns of different widths over one range per row: step = scale / (2^bits - 1), bits (1, in).

    scale: (out, 1) width of the row's range; zero: (out, 1) float16 lower end of the range, in weight units.
    """

    def dense(self) -> Tensor:
        """(out, in) float32; a column of 0 bits is 0."""
        assert isinstance(self.bits, Tensor)
        assert self.zero is not None
        step, zero = _grid(self.scale, self.zero, self.bits)
        return (self.codes.float() - zero) * step


def quantize(
    weight: Tensor, hessian: Tensor, *, mean_bits: float = 2.0, highest: int = 8, damping: float = 0.01
) -> Quantized:
    """weight (out, in), hessian (in, in) -> codes of 0 to `highest` bits, one width per column.

    The whole matrix takes as many bits as GPTQ with `mean_bits` per code, a float16 scale and a zero point per
    row, rounded down to whole columns. damping: share of the Hessian's mean diagonal added to it.
    Raises ValueError for a budget that does not fit.
    """
    rows, columns = weight.shape
    if highest < 1 or highest > 15 or not 0 < mean_bits <= highest:
        raise ValueError(f"mean_bits={mean_bits}: above 0, at most highest={highest}, which is 1 to 15")
    bit_map = columns * math.ceil(math.log2(highest + 1))
    uniform = rows * columns * mean_bits + rows * (16 + mean_bits)
    budget = math.floor((uniform - 32 * rows - bit_map) / rows)
    if budget < 1:
        raise ValueError(f"mean_bits={mean_bits}: nothing is left of the budget after ranges and the map of bits")

    live = hessian.diagonal() != 0
    patched = hessian.float() + torch.diag((~live).float())
    sensitivity = torch.where(live, factor(patched, damping=damping).diagonal().square().reciprocal(), 0)
    bits = allocate(sensitivity, budget=budget, highest=highest)

    alive = weight.float() * live
    bottom = alive.amin(dim=1, keepdim=True).clamp(max=0).to(torch.float16)
    scale = store(alive.amax(dim=1, keepdim=True).clamp(min=0) - bottom.float())
    steps, zeros = (part.T.contiguous() for part in _grid(scale, bottom, bits[None]))  # a column is contiguous
    codes = torch.zeros(columns, rows, dtype=torch.int16)
    top = (2**bits - 1).tolist()

    def round_column(column: Tensor, i: int) -> Tensor:
        code = (column / steps[i]).round_().add_(zeros[i]).clamp_(0, top[i])
        codes[i] = code
        return code.sub_(zeros[i]).mul_(steps[i])

    solve(weight, hessian, round_column, damping=damping)
    extra = {"bit_map": bit_map}
    return ColumnBits(codes.T.contiguous(), bits[None], scale, zero=bottom, zero_bits=16, extra=extra)


def allocate(sensitivity: Tensor, *, budget: int, highest: int = 8) -> Tensor:
    """Whole bits (n,) int64 in 0..highest that sum to `budget` and minimise sum_j sensitivity_j 4^(-bits_j).

    sensitivity: (n,), 0 or more. Raises ValueError for a budget above n * highest.
    """
    if not 0 <= budget <= len(sensitivity) * highest:
        raise ValueError(f"budget={budget}: {len(sensitivity)} columns take 0 to {len(sensitivity) * highest} bits")
    worth = 0.5 * sensitivity.double().clamp(min=1e-300).log2()[:, None] - torch.arange(highest)
    bought = torch.zeros_like(worth, dtype=torch.int64)
    bought.view(-1)[worth.flatten().topk(budget).indices] = 1
    return bought.sum(dim=1)


def _grid(scale: Tensor, bottom: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
    """Step and zero point of each weight, (out, in) each, from what is stored."""
    top = (2**bits - 1).float()
    step = scale.float() / top.clamp(min=1)
    return step, (-bottom.float() / step).round().clamp(min=0).minimum(top)
