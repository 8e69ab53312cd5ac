"""BitNet b1.58 from the bottom up: train with ternary weights and 8-bit activations, not only in decoders.

    beta = mean |w|  or  median |w|                      over the whole matrix                    (section 2)
    w~   = beta * clamp(round(w / beta), -1, 1)
    x^   = LayerNorm(x)                                  without parameters
    x~   = m / 128 * clamp(round(128 x^ / m), -128, 127),   m = max |x^| per example
    y    = x~ w~^T + b

The optimiser updates the full-precision w; the backward pass takes both roundings for the identity
(straight-through), clamping included. Source: Nielsen, Galke and Schneider-Kamp, "When are 1.58 bits enough?",
arXiv 2411.05882; formulas as in the authors' package `bitlinear`.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="quantization",
    paper="bitnet-1-58-bottom-up",
    task="classify_small",
    metric="accuracy",
    expect="equal",
    margin=0.01,
    method=Arm("bitnet-1-58-bottom-up"),
    checks=(
        Check(
            claim="matches-full-precision",
            says="1.58-bit training is on par with, or better than, ordinary precision in MLPs (abstract; section 4)",
            baseline=Arm("full-precision"),
            beside=(Arm("full-precision", norm=True), Arm("bitnet-1-58-bottom-up", scale="median")),
            gap="The paper trains bag-of-words MLPs, graph networks and language models; here an MLP with two hidden "
            "layers of 256 on 8 x 8 digits, all linear layers ternary, five seeds. The paper's BitLinear also "
            "normalises its input, which the ordinary layer does not: the arm with norm=true shows that part. "
            "A pass says nothing of encoders, encoder-decoders or large vocabularies.",
        ),
        Check(
            claim="better-than-rounding-after-training",
            says="Ternary weights work when they are trained with; post-training quantization costs precision "
            "(section 1; no figure of the paper's own for rounding to three levels)",
            expect="higher",
            margin=0.05,
            baseline=Arm("bitnet-1-58-bottom-up", when="after-training", norm=False),
            beside=(Arm("bitnet-1-58-bottom-up", when="after-training"),),
            gap="Rounding here is plain: the trained matrix by its own absolute mean, no calibration. A better "
            "post-training method may lose less. Dropout of one half during training makes a network hard to harm.",
        ),
        Check(
            claim="median-matches-mean",
            says="Scaling by the median is on par with, or better than, scaling by the mean (section 4)",
            method=Arm("bitnet-1-58-bottom-up", scale="median"),
            baseline=Arm("bitnet-1-58-bottom-up", scale="mean"),
            beside=(Arm("full-precision"),),
            gap="One small MLP on digits; the paper compares the two scales on text and graphs, where it sees the "
            "median slightly ahead in most settings.",
        ),
    ),
    departs=(
        "the bias is added in full precision after rescaling; the authors' kernel adds it before, so that the layer's "
        "scales multiply it",
        "of the paper's settings only the MLP is at hand; the training schedule and the grid of three learning rates "
        "are the task's, the same for every arm",
    ),
)

EPSILON = 1e-5  # of both scales, as in the authors' package


def ternary(weight: Tensor, scale: Literal["mean", "median"]) -> tuple[Tensor, Tensor]:
    """Codes in {-1, 0, 1} of (out, in) weights, and beta, a scalar."""
    size = weight.abs()
    beta = (size.mean() if scale == "mean" else size.median()).clamp(min=EPSILON)
    return (weight / beta).round().clamp(-1, 1), beta


def round_activations(x: Tensor) -> Tensor:
    """(…, width) rounded to 8 bits, one scale per row."""
    step = x.abs().amax(-1, keepdim=True).clamp(min=EPSILON) / 128
    return (x / step).round().clamp(-128, 127) * step


class BitLinear(nn.Linear):
    """A linear layer with ternary weights; see the module's formulas."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        *,
        scale: Literal["mean", "median"],
        late: bool,
        norm: bool,
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.scale, self.late, self.norm = scale, late, norm

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out); gradients pass both roundings unchanged."""
        if self.norm:
            x = F.layer_norm(x, x.shape[-1:])
        if self.late and self.training:
            return F.linear(x, self.weight, self.bias)
        with torch.no_grad():
            codes, beta = ternary(self.weight, self.scale)
            shift_w = codes * beta - self.weight
            shift_x = round_activations(x) - x
        return F.linear(x + shift_x, self.weight + shift_w, self.bias)

    def stored_bits(self) -> int:
        """log2(3) bits for each weight, 32 for the scale and for each bias."""
        biases = self.out_features if self.bias is not None else 0
        return math.ceil(self.weight.numel() * math.log2(3)) + 32 * (1 + biases)


def linear(
    in_features: int,
    out_features: int,
    bias: bool = True,
    *,
    scale: Literal["mean", "median"] = "mean",
    when: Literal["training", "after-training"] = "training",
    norm: bool = True,
) -> nn.Module:
    """(…, in) -> (…, out) with ternary weights and 8-bit activations.

    scale: beta is the mean or the median of |w|. when: round in training, or only once it is over (the usual
    rounding of a finished network). norm: normalise the input first.
    """
    return BitLinear(in_features, out_features, bias, scale=scale, late=when == "after-training", norm=norm)
