"""Rounding the weights and the inputs of every linear layer of the blocks: the W8A8, W6A6, W4A4 of the papers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from paperlab.kit.activations import per_range, per_token, round_input
from paperlab.kit.grid import levels, min_max, round_to_grid, store
from paperlab.kit.quantized import Quantized
from paperlab.kit.stats import gather
from paperlab.kit.walk import Batch, Call, linears, walk

RANGE_BITS = 32  # a static activation range: scale and zero point, 16 bits each
SHRINKS = torch.linspace(1.0, 0.1, 25).tolist()  # of the full range, tried by a search for the best clipping
SEARCH_TOKENS = 256


@dataclass(frozen=True)
class Rounding:
    """How weights and inputs of linear layers are rounded; 16 bits leave them as they are.

    per_channel: a weight range per output channel, else one per matrix. dynamic: an activation range per token,
    taken at run time, else one per layer, the extremes met in calibration behind the blocks rounded before.
    average: the extremes' mean over calibration batches instead. clip: shrink weight ranges and static activation
    ranges to the least squared error, among SHRINKS.
    """

    weight_bits: int
    activation_bits: int
    per_channel: bool = True
    dynamic: bool = False
    symmetric: bool = False
    clip: bool = False
    average: bool = False

    def __post_init__(self) -> None:
        if self.average and (self.dynamic or self.clip):
            raise ValueError("average=True is about static ranges that are not searched: not with dynamic or clip")

    @property
    def static(self) -> bool:
        """Whether ranges of inputs are fixed by calibration."""
        return self.activation_bits < 16 and not self.dynamic

    def weight(self, weight: Tensor) -> Quantized:
        """weight (out, in) rounded."""
        return round_weight(
            weight, bits=self.weight_bits, per_channel=self.per_channel, symmetric=self.symmetric, clip=self.clip
        )

    def inputs(self, bottom: float, top: float) -> Callable[[Tensor], Tensor]:
        """How inputs (…, width) are rounded: over [bottom, top] where ranges are static, else over each token's."""
        if self.static:
            return partial(per_range, bottom=bottom, top=top, bits=self.activation_bits)
        return partial(per_token, bits=self.activation_bits, symmetric=self.symmetric)


@torch.no_grad()
def round_model(
    model: nn.Module, calibration: list[Batch], rounding: Rounding
) -> tuple[dict[str, Quantized], dict[str, int]]:
    """Round in place, block by block. Returns the matrices by name, and the bits of the static ranges."""
    layers: dict[str, Quantized] = {}
    added: dict[str, int] = {}
    for stem, block, calls in walk(model, calibration if rounding.static else []):
        own = round_layers(linears(block), block, calls, rounding, stem)
        layers |= own[0]
        added |= own[1]
    return layers, added


@torch.no_grad()
def round_layers(
    inside: dict[str, nn.Linear], block: nn.Module, calls: list[Call], rounding: Rounding, stem: str
) -> tuple[dict[str, Quantized], dict[str, int]]:
    """Round some of a block's linear layers in place; static ranges are those of their inputs before any of them is.

    Returns the matrices by their name below `stem`, and the bits of the static ranges.
    """
    spans = _spans(inside, block, calls, rounding) if rounding.static else {}
    layers: dict[str, Quantized] = {}
    added: dict[str, int] = {}
    for name, layer in inside.items():
        full = f"{stem}.{name}"
        if rounding.activation_bits < 16:
            round_input(layer, rounding.inputs(*spans.get(name, (0.0, 0.0))))
        if rounding.static:
            added[f"{full}.input_range"] = RANGE_BITS
        if rounding.weight_bits < 16:
            layers[full] = rounding.weight(layer.weight.detach().float())
            layer.weight.copy_(layers[full].dense())
    return layers, added


def _spans(
    inside: dict[str, nn.Linear], block: nn.Module, calls: list[Call], rounding: Rounding
) -> dict[str, tuple[float, float]]:
    """The static range of each layer's inputs."""
    bits, symmetric = rounding.activation_bits, rounding.symmetric
    if rounding.clip:
        seen = gather(block, inside, calls, {"inputs"})
        return {name: best_range(seen[name]("inputs"), bits=bits, symmetric=symmetric) for name in inside}
    parts = [[call] for call in calls] if rounding.average else [calls]
    found = [gather(block, inside, part, {"input_min", "input_max"}) for part in parts]
    spans = {}
    for name in inside:
        ends = [span(get[name]("input_min"), get[name]("input_max"), bits=bits, symmetric=symmetric) for get in found]
        spans[name] = (sum(low for low, _ in ends) / len(ends), sum(high for _, high in ends) / len(ends))
    return spans


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
