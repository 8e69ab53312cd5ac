"""SmoothQuant: move the outliers of the activations into the weights, then round both to 8 bits.

    s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)          (eq. 4)
    X' = X / s, folded into the norm before;  W' = s W    for the layers that read a norm

Xiao et al., SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models,
arXiv 2211.10438; github.com/mit-han-lab/smoothquant at c61476d. Levels (table 2): O1 one dynamic range per token, O2
one dynamic range per tensor, O3 one range per tensor, fixed by the calibration.
"""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit import objective
from paperlab.kit.activations import round_input
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.fold import Group, fold, norm_groups, watched
from paperlab.kit.grid import EPSILON, levels
from paperlab.kit.quantized import Quantized
from paperlab.kit.stats import gather
from paperlab.kit.walk import Batch, block_linears, linears, walk
from paperlab.kit.weight_activation import Rounding, round_model

CARD = Card(
    family="quantization",
    sources=("abstract", "code"),
    configuration="examples/smoothquant_opt_demo.ipynb and examples/export_int8_model.py (OPT: alpha 0.5, a range per "
    "matrix, static input ranges); level='O1', weights='channel' and alpha 0.8 to 0.9 are examples/ppl_eval.sh (Llama)",
    departs=(
        "the products inside attention (query by key, weights by value) stay in floating point",
        "in encoders that norm after the residual, the residual multiplies back by s: one stored vector per norm",
        "static ranges (O3) are met behind the blocks rounded before; the authors' are those of the smoothed model",
        "with alpha=None one strength for the model is searched on the calibration loss; the authors searched by hand: "
        "0.5 for OPT and BLOOM, 0.8 to 0.9 for Llama and Mistral. The search sees 512 tokens, 2,048 of an encoder",
        "other bits than 8, zero points and the mean of the batches' extremes (average) are ours",
    ),
)

ALPHAS = tuple(i / 10 for i in range(1, 10))
SEARCH_TOKENS, ENCODER_TOKENS = 512, 2048  # an encoder's loss is one number a text, not one a token


@torch.no_grad()
def transform(
    model: nn.Module,
    calibration: list[Batch],
    *,
    alpha: float | None = 0.5,
    weight_bits: int = 8,
    act_bits: int = 8,
    level: Literal["O1", "O2", "O3"] = "O3",
    weights: Literal["tensor", "channel"] = "tensor",
    symmetric: bool = True,
    average: bool = False,
    smooth: bool = True,
) -> Compressed:
    """Smooth, then round weights and inputs of the blocks' linear layers.

    alpha: how much of the difficulty moves to the weights, 0 to 1; None: the one of ALPHAS with the least loss on the
    first calibration batches. act_bits=16 leaves activations alone. weights: one range per tensor, or per output
    channel. symmetric=False: ranges with zero points. average: at level O3 the mean of the batches' extremes.
    smooth=False is plain rounding.
    """
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: between 0 (all in the activations) and 1 (all in the weights), or none")
    if level not in ("O1", "O2", "O3") or weights not in ("tensor", "channel"):
        raise ValueError(f"level={level!r} is O1, O2 or O3; weights={weights!r} is tensor or channel")
    if level == "O2" and not symmetric:
        raise ValueError("level='O2' is symmetric")
    count = count_weights(model)
    bits = 16 if level == "O2" else act_bits
    rounding = Rounding(weight_bits, bits, weights == "channel", level == "O1", symmetric, average=average)
    dynamic_bits = act_bits if level == "O2" else 16
    notes: dict[str, object] = {}
    new = 0
    if smooth:
        loud = _loudness(model, calibration)
        if alpha is None:
            alpha = _strength(model, calibration, loud, rounding, dynamic_bits)
        new = _smooth(model, loud, alpha)
        notes = {"alpha": alpha}
    layers, ranges = _round(model, calibration, rounding, dynamic_bits)
    return Compressed(model, layers, count, {"residual_scale": 16 * new, **ranges}, notes)


def smoothing(group: Group, absmax: Tensor, alpha: float) -> Tensor:
    """s (in,) of equation 4. absmax: (in,) largest magnitude of each input channel."""
    weight = torch.stack([reader.weight.detach().abs().amax(0) for reader in group.readers]).amax(0)
    scale = absmax.clamp(min=1e-5).pow(alpha) / weight.clamp(min=1e-5).pow(1 - alpha)
    return scale.clamp(1e-5, 6e4).half().float()  # as a residual's scale is stored


def _loudness(model: nn.Module, calibration: list[Batch]) -> list[list[Tensor]]:
    """Per block and group the largest magnitude of each input channel (in,), in floating point."""
    groups, found = norm_groups(model), []  # the inputs of attention and of the MLP (section 4.2)
    for index, (_, block, calls) in enumerate(walk(model, calibration)):
        inside = {n: layer for n, layer in linears(block).items() if any(layer is g.seen for g in groups[index])}
        readers = watched(inside, groups[index])
        statistics = gather(block, readers, calls, {"input_absmax"})
        names = {layer: name for name, layer in readers.items()}
        found.append([statistics[names[group.seen]]("input_absmax") for group in groups[index]])
    return found


def _smooth(model: nn.Module, loud: list[list[Tensor]], alpha: float) -> int:
    """Fold the scales of all groups; returns how many numbers are new."""
    pairs = [pair for row in zip(norm_groups(model), loud, strict=True) for pair in zip(*row, strict=True)]
    return sum(fold(group, smoothing(group, absmax, alpha)) for group, absmax in pairs)


def _round(
    model: nn.Module, calibration: list[Batch], rounding: Rounding, dynamic_bits: int
) -> tuple[dict[str, Quantized], dict[str, int]]:
    layers, ranges = round_model(model, calibration, rounding)
    for layer in block_linears(model).values() if dynamic_bits < 16 else ():
        round_input(layer, lambda x: _per_tensor(x, dynamic_bits))
    return layers, ranges


def _per_tensor(x: Tensor, bits: int) -> Tensor:
    low, high = levels(bits, True)
    scale = (x.abs().amax() / high).clamp(min=EPSILON)
    return (x / scale).round().clamp(low, high) * scale


def _strength(
    model: nn.Module, calibration: list[Batch], loud: list[list[Tensor]], rounding: Rounding, dynamic_bits: int
) -> float:
    """The alpha with the least loss after rounding: of predicted tokens, or against the original's embeddings."""
    batches = objective.sample(calibration, SEARCH_TOKENS if objective.predicts_tokens(model) else ENCODER_TOKENS)
    wanted = objective.targets(model, batches)
    losses = {}
    for alpha in ALPHAS:
        trial = copy.deepcopy(model)
        _smooth(trial, loud, alpha)
        _round(trial, batches, rounding, dynamic_bits)
        losses[alpha] = objective.mean_loss(trial, batches, wanted)
    return min(losses, key=lambda a: losses[a])
