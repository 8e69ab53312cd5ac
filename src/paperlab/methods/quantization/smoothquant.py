"""SmoothQuant: move the outliers of the activations into the weights, then round both to 8 bits.

    s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)          (eq. 4)
    X' = X / s, folded into the norm before;  W' = s W    for the layers that read a norm

Xiao et al., SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models,
arXiv 2211.10438. Levels (table 2): O1 one dynamic range per token, O2 one dynamic range per tensor,
O3 one range per tensor, fixed by the calibration.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.activations import per_token, round_input
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.fold import Group, fold, scaling_groups
from paperlab.kit.grid import EPSILON, levels, min_max, round_to_grid, store
from paperlab.kit.quantized import Quantized
from paperlab.kit.stats import gather
from paperlab.kit.walk import Batch, block_linears, linears, walk

CARD = Card(
    family="quantization",
    departs=(
        "the products inside attention (query by key, weights by value) stay in floating point",
        "in encoders that norm after the residual, the residual multiplies back by s: one stored vector per norm",
    ),
)


def transform(
    model: nn.Module,
    calibration: list[Batch],
    *,
    alpha: float = 0.5,
    weight_bits: int = 8,
    act_bits: int = 8,
    level: Literal["O1", "O2", "O3"] = "O3",
    weights: Literal["tensor", "channel"] = "tensor",
    smooth: bool = True,
) -> Compressed:
    """Smooth, then round weights and inputs of the blocks' linear layers, all symmetric.

    alpha: how much of the difficulty moves to the weights, 0 to 1. act_bits=16 leaves activations alone.
    weights: one range per tensor, or per output channel. smooth=False is plain W8A8.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: between 0 (all in the activations) and 1 (all in the weights)")
    if level not in ("O1", "O2", "O3") or weights not in ("tensor", "channel"):
        raise ValueError(f"level={level!r} is O1, O2 or O3; weights={weights!r} is tensor or channel")
    count = count_weights(model)
    groups = scaling_groups(model) if smooth else []
    added = 0
    tops: dict[str, float] = {}
    for index, (stem, block, calls) in enumerate(walk(model, calibration)):
        inside = linears(block)
        statistics = gather(block, inside, calls, {"input_absmax"})
        absmax = {layer: statistics[name]("input_absmax") for name, layer in inside.items()}
        for group in groups[index] if smooth else ():
            if not isinstance(group.source, nn.Linear):  # section 4.2: the inputs of attention and of the MLP
                s = smoothing(group, absmax[group.readers[0]], alpha)
                added += fold(group, s, calls=calls)
                for reader in group.readers:
                    absmax[reader] = absmax[reader] / s
        tops |= {f"{stem}.{name}": float(absmax[layer].max()) for name, layer in inside.items()}

    layers: dict[str, Quantized] = {}
    for name, layer in block_linears(model).items():
        layers[name] = round_weight(layer.weight.detach(), weight_bits, weights)
        with torch.no_grad():
            layer.weight.copy_(layers[name].dense())
        if act_bits < 16:
            _round_inputs(layer, act_bits, level, tops[name])
    ranges = len(layers) if act_bits < 16 and level == "O3" else 0
    return Compressed(model, layers, count, added={"residual_scale": 16 * added, "input_scale": 16 * ranges})


def smoothing(group: Group, absmax: Tensor, alpha: float) -> Tensor:
    """s (in,) of equation 4. absmax: (in,) largest magnitude of each input channel."""
    weight = torch.stack([reader.weight.detach().abs().amax(0) for reader in group.readers]).amax(0)
    scale = absmax.clamp(min=1e-5).pow(alpha) / weight.clamp(min=1e-5).pow(1 - alpha)
    return scale.clamp(1e-5, 6e4).half().float()  # as a residual's scale is stored


def round_weight(weight: Tensor, bits: int, ranges: Literal["tensor", "channel"]) -> Quantized:
    """Symmetric codes of (out, in) weights with one float16 scale, or one per output channel."""
    if ranges == "channel":
        return round_to_grid(weight, *min_max(weight, bits=bits, symmetric=True), bits=bits, symmetric=True)
    scale = store((weight.float().abs().amax() / max(levels(bits, True)[1], 1)).view(1, 1))
    return round_to_grid(weight, scale, torch.zeros_like(scale), bits=bits, symmetric=True)


def _round_inputs(layer: nn.Linear, bits: int, level: str, top: float) -> None:
    """Round the layer's input at run time; `top` is the largest magnitude met in calibration."""
    low, high = levels(bits, True)

    def per_tensor(x: Tensor) -> Tensor:
        reach = torch.tensor(top, dtype=x.dtype, device=x.device) if level == "O3" else x.abs().amax()
        scale = (reach / high).half().to(x.dtype).clamp(min=EPSILON)
        return (x / scale).round().clamp(low, high) * scale

    round_input(layer, (lambda x: per_token(x, bits=bits)) if level == "O1" else per_tensor)
