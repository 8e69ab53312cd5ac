"""Mixed precision: from a ranking of layers to bits per layer under a budget.

The budget is the mean number of code bits per weight, weights counted, not layers. All rankings, a random one
too, go through the same rule, so that two allocations differ in who gets the bits and not in how many there are.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from paperlab.kit.grid import min_max, round_to_grid
from paperlab.kit.quantized import Quantized
from paperlab.kit.walk import block_linears, blocks

SLACK = 0.02  # how far below the budget the first cut may lie, relative; filling up then closes most of it


def parse_choices(choices: str) -> tuple[int, ...]:
    """ "2,4,8" -> (8, 4, 2). Raises ValueError."""
    try:
        found = sorted({int(part) for part in choices.split(",")}, reverse=True)
    except ValueError:
        found = []
    if not found or found[-1] < 1 or found[0] > 16:
        raise ValueError(f"choices={choices!r}: whole bits from 1 to 16 with commas, such as '2,4,8'")
    return tuple(found)


def allocate(
    scores: Mapping[str, float], sizes: Mapping[str, int], *, choices: Sequence[int], mean_bits: float
) -> dict[str, int]:
    """Bits per unit: the higher the score (sensitivity), the more bits. At most `mean_bits` on average.

    Ranked units are cut into one class per choice. Among the cuts that use the budget (to SLACK below it) the
    most mixed one is taken, that is, the largest entropy of the classes' shares of the weights: the same
    classes for every ranking of equal units. What is left of the budget goes, from the top, to units that it
    lifts by one choice. Raises ValueError for a budget outside the choices.
    """
    levels = sorted(choices, reverse=True)
    if not levels[-1] <= mean_bits <= levels[0]:
        raise ValueError(f"mean_bits={mean_bits}: between {levels[-1]} and {levels[0]}, the choices")
    order = sorted(scores, key=lambda name: -scores[name])  # stable: equal scores keep the model's order
    total = sum(sizes[name] for name in order)
    reach = [0, *itertools.accumulate(sizes[name] for name in order)]

    best: tuple[float, float] | None = None
    cuts: tuple[int, ...] = ()
    for candidate in itertools.combinations_with_replacement(range(len(order) + 1), len(levels) - 1):
        edges = (0, *candidate, len(order))
        shares = [(reach[stop] - reach[start]) / total for start, stop in itertools.pairwise(edges)]
        mean = sum(share * bits for share, bits in zip(shares, levels, strict=True))
        if mean > mean_bits + 1e-9:
            continue
        entropy = -sum(share * math.log(share) for share in shares if share)
        rank = (0.0, entropy) if mean >= mean_bits * (1 - SLACK) - 1e-9 else (mean - mean_bits, 0.0)
        if best is None or rank > best:
            best, cuts = rank, candidate
    edges = (0, *cuts, len(order))
    bits = {
        name: level
        for (start, stop), level in zip(itertools.pairwise(edges), levels, strict=True)
        for name in order[start:stop]
    }
    remaining = mean_bits * total - sum(bits[name] * sizes[name] for name in order)
    for name in order:
        higher = [level for level in levels if level > bits[name]]
        if higher and (higher[-1] - bits[name]) * sizes[name] <= remaining + 1e-6:
            remaining -= (higher[-1] - bits[name]) * sizes[name]
            bits[name] = higher[-1]
    return bits


def units(model: nn.Module, unit: str) -> dict[str, list[str]]:
    """The pieces that get one width each: {unit: names of its linear layers}. unit: "block" or "layer"."""
    names = list(block_linears(model))
    if unit == "layer":
        return {name: [name] for name in names}
    if unit != "block":
        raise ValueError(f"unit={unit!r}: 'block' or 'layer'")
    stem, stack = blocks(model)
    return {f"{stem}.{i}": [name for name in names if name.startswith(f"{stem}.{i}.")] for i in range(len(stack))}


def weights_in(model: nn.Module, pieces: Mapping[str, list[str]]) -> dict[str, int]:
    """Number of weights in each unit."""
    layers = block_linears(model)
    return {unit: sum(layers[name].weight.numel() for name in names) for unit, names in pieces.items()}


@torch.no_grad()
def round_layers(model: nn.Module, bits: Mapping[str, int], *, group: int | None) -> dict[str, Quantized]:
    """Round to nearest, asymmetric, each layer to its own width, in place. bits: {layer: bits}."""
    done: dict[str, Quantized] = {}
    for name, layer in block_linears(model).items():
        if name not in bits:
            continue
        weight = layer.weight.detach().float()
        scale, zero = min_max(weight, bits=bits[name], group=group)
        done[name] = round_to_grid(weight, scale, zero, bits=bits[name])
        layer.weight.copy_(done[name].dense())
    return done
