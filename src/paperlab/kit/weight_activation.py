"""Rounding the weights and the inputs of every linear layer of the blocks: the W8A8, W6A6, W4A4 of the papers."""

from functools import partial

import torch
from torch import Tensor, nn

from paperlab.kit.activations import per_range, per_token, round_input
from paperlab.kit.grid import levels, min_max, round_to_grid, store
from paperlab.kit.quantized import Quantized
from paperlab.kit.stats import gather
from paperlab.kit.walk import Batch, linears, walk

RANGE_BITS = 32  # a static activation range: scale and zero point, 16 bits each
SHRINKS = torch.linspace(1.0, 0.1, 25).tolist()  # of the full range, tried by a search for the best clipping
SEARCH_TOKENS = 256


@torch.no_grad()
def round_model(
    model: nn.Module,
    calibration: list[Batch],
    *,
    weight_bits: int,
    activation_bits: int,
    per_channel: bool = True,
    dynamic: bool = False,
    symmetric: bool = False,
    clip: bool = False,
) -> tuple[dict[str, Quantized], dict[str, int]]:
    """Round in place, block by block; 16 bits leave weights or inputs as they are.

    per_channel: a weight range per output channel, else one per matrix. dynamic: an activation range per token,
    taken at run time, else one per layer, the extremes met in calibration behind the blocks rounded before.
    clip: shrink weight ranges and static activation ranges to the least squared error, among SHRINKS.
    Returns the matrices by name, and the bits of the static ranges.
    """
    static = activation_bits < 16 and not dynamic
    needs = ({"inputs"} if clip else {"input_min", "input_max"}) if static else set()
    layers: dict[str, Quantized] = {}
    added: dict[str, int] = {}
    for stem, block, calls in walk(model, calibration if static else []):
        inside = linears(block)
        statistics = gather(block, inside, calls, needs) if static else {}
        for name, layer in inside.items():
            full = f"{stem}.{name}"
            if static:
                get = statistics[name]
                if clip:
                    bottom, top = best_range(get("inputs"), bits=activation_bits, symmetric=symmetric)
                else:
                    bottom, top = span(get("input_min"), get("input_max"), bits=activation_bits, symmetric=symmetric)
                round_input(layer, partial(per_range, bottom=bottom, top=top, bits=activation_bits))
                added[f"{full}.input_range"] = RANGE_BITS
            elif activation_bits < 16:
                round_input(layer, partial(per_token, bits=activation_bits, symmetric=symmetric))
            if weight_bits < 16:
                weight = layer.weight.detach().float()
                layers[full] = round_weight(
                    weight, bits=weight_bits, per_channel=per_channel, symmetric=symmetric, clip=clip
                )
                layer.weight.copy_(layers[full].dense())
    return layers, added


def round_weight(
    weight: Tensor, *, bits: int, per_channel: bool = True, symmetric: bool = False, clip: bool = False
) -> Quantized:
    """weight (out, in) rounded with one range per output channel, or one for the matrix."""
    flat = weight if per_channel else weight.reshape(1, -1)
    scale, zero = min_max(flat, bits=bits, symmetric=symmetric)
    if clip:
        scale, zero = _shrink(flat, scale, zero, bits=bits, symmetric=symmetric)
    return round_to_grid(weight, scale, zero, bits=bits, symmetric=symmetric)


def _shrink(weight: Tensor, scale: Tensor, zero: Tensor, *, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """For each row the shrunken scale of least squared error; the zero point stays, so both ends shrink alike."""
    low, high = levels(bits, symmetric)
    best = torch.full_like(scale, torch.inf, dtype=torch.float32)
    chosen = scale.clone()
    shift = zero.float()
    for shrink in SHRINKS:
        tried = store(scale.float() * shrink)
        step = tried.float()
        error = (((weight / step).round() + shift).clamp(low, high) - shift).mul_(step).sub_(weight)
        loss = error.square_().sum(1, keepdim=True)
        better = loss < best
        best, chosen = torch.where(better, loss, best), torch.where(better, tried, chosen)
    return chosen, zero


def span(lowest: Tensor, highest: Tensor, *, bits: int, symmetric: bool) -> tuple[float, float]:
    """The range, for `per_range`, that holds all channels' extremes and 0.

    symmetric: the largest magnitude meets code 2^(b-1) - 1 and 0 is a code; the lower end has one code more.
    """
    bottom, top = min(float(lowest.min()), 0.0), max(float(highest.max()), 0.0)
    if symmetric:
        top = max(-bottom, top)
        bottom = -top * 2 ** (bits - 1) / max(2 ** (bits - 1) - 1, 1)
    return bottom, top


def best_range(x: Tensor, *, bits: int, symmetric: bool = False) -> tuple[float, float]:
    """The range of one layer's inputs (n, in) with the least squared error, both ends shrunk alike."""
    bottom, top = span(x.amin(), x.amax(), bits=bits, symmetric=symmetric)
    sample = x[:: max(1, len(x) // SEARCH_TOKENS)]
    losses = [
        float((per_range(sample, bottom * shrink, top * shrink, bits=bits) - sample).square().sum())
        for shrink in SHRINKS
    ]
    best = SHRINKS[losses.index(min(losses))]
    return bottom * best, top * best
