"""BitNet b1.58 from the bottom up: train with ternary weights and 8-bit activations, not only in decoders.

    beta = mean |w|  or  median |w|                      over the whole matrix
    x^   = LayerNorm(x)                                  without parameters
    codes of w: clamp(round(w / beta), -1, 1);   codes of x: clamp(round(128 x^ / m), -128, 127),  m = max |x^| per row
    y    = (codes of x . codes of w + b) beta m / 128

The optimiser updates the full-precision w; the backward pass takes both roundings for the identity
(straight-through), clamping included. Nielsen, Galke and Schneider-Kamp, "When are 1.58 bits enough?",
arXiv 2411.05882; the authors' package github.com/schneiderkamplab/bitlinear at 7b66f06.
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
    sources=("abstract", "code"),
    configuration="examples/text_classification/run.bash",
    task="classify_small",
    data="movie-reviews",
    metric="accuracy",
    expect="no worse",
    margin=0.05,
    method=Arm("bitnet-1-58-bottom-up"),
    checks=(
        Check(
            claim="matches-full-precision",
            says="A bag-of-words perceptron trained with ternary weights is on par with an ordinary one: over five "
            "text sets from 5.0 % worse (60.75 against 63.95, ohsumed) to 0.5 % better (the authors' table)",
            data="questions",
            baseline=Arm("full-precision", norm=True),
            beside=(Arm("full-precision"),),
            trivial=Arm("bitnet-1-58-bottom-up", when="after-training"),
            gap="Theirs: only the output layer, width 1,024, word pieces, 100 epochs in batches of 16, one rate, one "
            "split. Here: a hidden layer too (an option of their script), so that rounding afterwards costs something; "
            "one small set that is none of theirs, width 256, 5,000 words, batches of 64, 6 epochs at quick and 30 at "
            "full, the best of three rates. Both arms normalise inputs. The margin is the largest loss in their table.",
        ),
        Check(
            claim="matches-full-precision-output-layer",
            says="With the output layer alone ternary: 77.10 % against 76.72 % on film reviews (the authors' table)",
            baseline=Arm("full-precision"),
            beside=(Arm("full-precision", norm=True),),
            trivial=Arm("bitnet-1-58-bottom-up", when="after-training"),
            gap="Their own comparison, but for the sizes above and other marks for nearly the same sentences. It "
            "hardly tells ternary training from rounding: rounding one output layer afterwards costs less than the "
            "margin, so this will mostly end without a verdict.",
        ),
        Check(
            claim="median-matches-mean",
            says="Scaling by the median of |w| is on par with, or better than, scaling by the mean: on average 82.01 % "
            "against 81.74 %, from 1.2 % worse to 2.5 % better on single sets",
            data="questions",
            margin=0.02,
            method=Arm("bitnet-1-58-bottom-up", scale="median"),
            baseline=Arm("bitnet-1-58-bottom-up", scale="mean"),
            beside=(Arm("full-precision"),),
            trivial=Arm("bitnet-1-58-bottom-up", scale="max"),
            gap="Theirs: five text sets, also graphs and language models. Here: one small set that is none of theirs, "
            "in 42 classes, with a hidden layer, ternary like the output layer. The trivial arm takes the largest |w|, "
            "a third scale of the authors' package, which leaves most weights zero.",
        ),
        Check(
            claim="matches-full-precision-in-a-decoder",
            says="Is ternary training on par with ordinary precision where rounding hurts, in a transformer?",
            task="lm_train",
            data="encyclopedia",
            metric="bits_per_byte",
            baseline=Arm("full-precision"),
            trivial=Arm("bitnet-1-58-bottom-up", when="after-training"),
            role="question",
            gap="A decoder of 222,000 parameters, every linear layer ternary. The paper trains encoders and "
            "encoder-decoders; its later version (SciTePress 2025) also decoders, and finds encoder-decoders worse "
            "than 16 bits throughout, and encoders on par only at twice the width; neither is tested here.",
        ),
        Check(
            claim="better-than-rounding-in-a-decoder",
            says="Is it the training with ternary weights that keeps quality, or would rounding afterwards do?",
            task="lm_train",
            data="encyclopedia",
            metric="bits_per_byte",
            expect="lower",
            baseline=Arm("bitnet-1-58-bottom-up", when="after-training"),
            role="question",
            gap="As above; both arms have the same normalisation.",
        ),
    ),
    departs=(
        "of the paper's settings only the perceptron; graph networks, encoders and encoder-decoders are not tested",
        "after training, where only then is rounded, the bias is added in full precision, as it was trained",
        "schedule and choice of the learning rate are the task's, the same for every arm",
    ),
)

EPSILON = 1e-5  # of both scales, as in the authors' package
Scale = Literal["mean", "median", "max"]


def ternary(weight: Tensor, scale: Scale) -> tuple[Tensor, Tensor]:
    """Codes in {-1, 0, 1} of (out, in) weights, and beta, a scalar."""
    size = weight.abs()
    beta = size.mean() if scale == "mean" else size.median() if scale == "median" else size.max()
    beta = beta.clamp(min=EPSILON)
    return (weight / beta).round().clamp(-1, 1), beta


def round_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """(…, width) rounded to 8 bits, and the step (…, 1) of each row."""
    step = x.abs().amax(-1, keepdim=True).clamp(min=EPSILON) / 128
    return (x / step).round().clamp(-128, 127) * step, step


class BitLinear(nn.Linear):
    """A linear layer with ternary weights; see the module's formulas."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool, *, scale: Scale, late: bool, norm: bool
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
            rounded, step = round_activations(x)
            shift_w, shift_x = codes * beta - self.weight, rounded - x
        out = F.linear(x + shift_x, self.weight + shift_w)
        if self.bias is None:
            return out
        return out + (self.bias if self.late else self.bias * beta * step)

    def stored_bits(self) -> int:
        """log2(3) bits for each weight, 32 for the scale and for each bias."""
        biases = self.out_features if self.bias is not None else 0
        return math.ceil(self.weight.numel() * math.log2(3)) + 32 * (1 + biases)


def linear(
    in_features: int,
    out_features: int,
    bias: bool = True,
    *,
    scale: Scale = "mean",
    when: Literal["training", "after-training"] = "training",
    norm: bool = True,
) -> nn.Module:
    """(…, in) -> (…, out) with ternary weights and 8-bit activations.

    scale: beta is the mean, the median or the largest of |w|. when: round in training, or only once it is over (the
    usual rounding of a finished network). norm: normalise the input first.
    """
    return BitLinear(in_features, out_features, bias, scale=scale, late=when == "after-training", norm=norm)
