"""EasyQuant: keep the few outlying weights exact, then shrink each channel's range by gradient steps; no data.

Tang et al., "EasyQuant: An Efficient Data-free Quantization Algorithm for LLMs", arXiv 2403.02775.

    outliers:  |W_ij - mean(W)| >= n * std(W)     stay in floating point, under 1 % of them       eq. 3
    others:    Q[w] = s * clamp(round(w / s))     symmetric, one s per output channel             eq. 1
    dE/ds    = 2 * sum_i (Q[w_i] - w_i) * round(w_i / s)      of E = ||Q[w] - w||^2, fed to Adam  eq. 2, section 4

The paper's settings (section 5): n = 3, Adam, 100 steps at 1e-3 (BLOOM) or 500 at 1e-4 (LLaMA), from s = max|w|.

The gradient needs only how many weights lie below each threshold between two codes, and what they sum to. So each
channel becomes a histogram of 1024 cells with prefix sums, and a step costs 2^b - 1 look-ups a channel instead of
a pass over its weights.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.grid import EPSILON, encode, levels, min_max, store
from paperlab.kit.quantized import Outliers, Quantized

CARD = Card(
    paper="easyquant",
    family="quantization",
    task="lm_compress",
    metric="perplexity",
    expect="lower",
    margin=0.02,
    beside=(Arm("round-to-nearest", bits=4, symmetric=True), Arm("original")),
    method=Arm("easyquant", bits=4),
    checks=(
        Check(
            claim="better-than-rtn",
            says="At 4 bits perplexity is below that of round-to-nearest: 6.01 against 6.29 (LLaMA-7B, WikiText2).",
            also={"encoder_compress": "embedding_error"},
            baseline=Arm("round-to-nearest", bits=4, group=64, symmetric=True),
            equal={"layer_bits": 0.03},
            gap="The paper gives round-to-nearest one range per channel and does not count the outliers' bits (up to "
            "0.3 a weight). Here they are counted, and the baseline spends as many on ranges per group of 64; the "
            "paper's own baseline stands beside. Small models, other text. SmolLM2's weights at hand already lie on "
            "a 4-bit grid in groups of 32, which favours groups; the other models were never rounded. A pass says "
            "nothing of models beyond 1B.",
        ),
        Check(
            claim="better-than-rtn-at-3-bits",
            says="Keeping outliers and choosing the range wins over plain rounding in low bits; asked here at 3 bits.",
            also={"encoder_compress": "embedding_error"},
            method=Arm("easyquant", bits=3),
            baseline=Arm("round-to-nearest", bits=3, group=64, symmetric=True),
            beside=(Arm("original"),),
            equal={"layer_bits": 0.04},
            gap="The paper reports 4 bits alone; its argument is about low bits in general. Sizes are equal as in "
            "better-than-rtn. A fail would not contradict a table of the paper.",
        ),
        Check(
            claim="range-adds-to-outliers",
            says="Outliers alone do not suffice: choosing the range too takes 12.52 down to 11.66 (BLOOM-7B, 4 bits).",
            also={"encoder_compress": "embedding_error"},
            baseline=Arm("easyquant", bits=4, steps=0),
            equal={"layer_bits": 0.0},
            gap="Same outliers, same size, only the gradient steps differ. The paper's figure is for BLOOM-7B.",
        ),
        Check(
            claim="nearly-lossless",
            says="At 4 bits the model performs like the original: 11.66 against 11.37 (BLOOM-7B, WikiText2, +2.6 %).",
            expect="equal",
            margin=0.03,
            baseline=Arm("original"),
            beside=(Arm("round-to-nearest", bits=4, symmetric=True),),
            gap="The margin is the paper's own loss on BLOOM-7B; its LLaMA models lose 4 to 13 %. Models of 6M and "
            "135M parameters have less to spare than 7B.",
        ),
        Check(
            claim="better-than-gptq",
            says="Without data it beats GPTQ in most cases: 6.01 against 6.09 (LLaMA-7B, WikiText2; GPTQ saw C4).",
            margin=0.01,
            baseline=Arm("gptq", bits=4, group=64, symmetric=True, calibration="encyclopedia"),
            beside=(Arm("round-to-nearest", bits=4, group=64, symmetric=True), Arm("original")),
            equal={"layer_bits": 0.03},
            gap="The paper calibrated GPTQ on C4, judged on other corpora, with one range per channel. Here it is "
            "calibrated on 32 windows of an encyclopaedia and judged on the task's text; it gets groups of 64, which "
            "cost what EasyQuant's outliers cost. A pass would not show that matched calibration loses too.",
        ),
        Check(
            claim="ten-times-faster",
            says="The algorithm runs over 10 times faster than those that need data (175B in 10 minutes on 8 A100).",
            task="compress_time",
            metric="seconds",
            margin=0.9,
            baseline=Arm("gptq", bits=4),
            beside=(Arm("round-to-nearest", bits=4, symmetric=True),),
            gap="The paper runs each weight in parallel on 8 GPUs and compares with GPTQ's hours on far larger "
            "models, calibrated on 128 long samples. Here: two CPU cores, a model of 135M, a short calibration text, "
            "which makes GPTQ cheap.",
        ),
    ),
    departs=(
        "Adam's learning rate is relative to each channel's first range (0.01) instead of absolute (1e-3), so that "
        "one value serves all models; table 9's start range of 0.078 makes the paper's rate 0.013 of it",
        "eq. 3 is written with the variance; the text calls it n sigma, so the standard deviation is used",
        "gradients are taken from a histogram of 1024 cells per channel; the codes themselves are exact",
        "codes run from -2^(b-1) to 2^(b-1) - 1, the mirror image of the paper's bounds",
        "outliers are stored in float16 whatever the model's type",
    ),
)


CELLS = 1024  # of a channel's histogram: an edge is at most 1/1024 of the largest weight off a threshold


def quantize(
    weight: Tensor, *, bits: int = 4, n_std: float = 3.0, steps: int = 100, learning_rate: float = 0.01
) -> Quantized:
    """weight (out, in) -> symmetric codes, one float16 scale per output channel, exact outliers.

    n_std: how many standard deviations from the mean make an outlier (100 keeps none apart).
    steps: of Adam on the scales; 0 leaves them at max|w| / (2^(b-1) - 1). learning_rate: per step, relative
    to the first scale. Raises ValueError for a value out of range.
    """
    if n_std <= 0 or steps < 0 or learning_rate <= 0:
        raise ValueError(f"n_std={n_std}, learning_rate={learning_rate} must be above 0 and steps={steps} at least 0")
    weight = weight.float()
    outlying = (weight - weight.mean()).abs() >= n_std * weight.std()
    row, column = outlying.nonzero(as_tuple=True)
    value = weight[row, column].to(torch.float16)
    normal = weight.masked_fill(outlying, 0)  # a zero takes code 0 at any scale: no part in the gradient
    start, zero = min_max(normal, bits=bits, symmetric=True)
    scale = store(_shrink(normal, start.float(), bits=bits, steps=steps, rate=learning_rate))
    codes = encode(normal, scale, zero, bits=bits, symmetric=True)
    return Quantized(codes.to(torch.int16), bits, scale, outliers=Outliers(row, column, value))


def _shrink(weight: Tensor, start: Tensor, *, bits: int, steps: int, rate: float) -> Tensor:
    """Adam (Kingma and Ba, with its usual constants) on u = s / start. start: (out, 1) -> scale (out, 1)."""
    u, mean, square = torch.ones_like(start), torch.zeros_like(start), torch.zeros_like(start)
    reach = weight.abs().amax(dim=1, keepdim=True).clamp(min=EPSILON)
    below = _prefix_sums(weight, reach) if steps else None
    for step in range(1, steps + 1):
        assert below is not None
        slope = start * _gradient(*below, u * start, reach, bits=bits)
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope.square()
        size = (square / (1 - 0.999**step)).sqrt().clamp(min=1e-30)  # a row of zeros has no slope
        u = (u - rate * mean / (1 - 0.9**step) / size).clamp(min=rate)
    return u * start


def _prefix_sums(weight: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """For each row and each of CELLS + 1 edges over [-reach, reach]: weights below the edge, and their sum."""
    rows = weight.shape[0]
    cell = ((weight / reach + 1) * (CELLS / 2)).long().clamp_(0, CELLS - 1)
    flat = (cell + CELLS * torch.arange(rows)[:, None]).flatten()
    count = torch.bincount(flat, minlength=rows * CELLS).view(rows, CELLS).double()
    total = torch.bincount(flat, weights=weight.flatten().double(), minlength=rows * CELLS).view(rows, CELLS)
    return F.pad(count.cumsum(1), (1, 0)).float(), F.pad(total.cumsum(1), (1, 0)).float()


def _gradient(count: Tensor, total: Tensor, scale: Tensor, reach: Tensor, *, bits: int) -> Tensor:
    """Equation 2 for each row, (out, 1); thresholds (q + 1/2) s are moved to the nearest edge of a cell.

    sum_i (s q_i - w_i) q_i = s sum q^2 - sum q w, and summed by parts over the thresholds between q and q + 1:
    sum q^2 = top^2 n - sum_q (2q + 1) count_q,    sum q w = top total - sum_q total_q.
    """
    low, high = levels(bits, symmetric=True)
    codes = torch.arange(low, high, dtype=scale.dtype)
    cut = (((codes + 0.5) * (scale / reach) + 1) * (CELLS / 2)).round_().long().clamp_(0, CELLS)
    squares = high**2 * count[:, -1:] - ((2 * codes + 1) * count.gather(1, cut)).sum(1, keepdim=True)
    products = high * total[:, -1:] - total.gather(1, cut).sum(1, keepdim=True)
    return 2 * (scale * squares - products)
