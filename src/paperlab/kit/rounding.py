"""Rounding all weights of a model's blocks to one kind of grid, block by block: to nearest, or by GPTQ."""

from torch import nn

from paperlab.kit.gptq import gptq
from paperlab.kit.grid import min_max, round_to_grid
from paperlab.kit.quantized import Quantized
from paperlab.kit.stats import gather
from paperlab.kit.walk import Batch, linears, walk

ROUNDINGS = ("gptq", "nearest")


def round_blocks(
    model: nn.Module, calibration: list[Batch], rounding: str, *, bits: int, group: int | None, symmetric: bool
) -> dict[str, Quantized]:
    """Round the blocks' linear layers in place; returns what is stored, by full name.

    GPTQ's inputs are those of a model whose earlier blocks are rounded already. Raises ValueError for another rounding,
    or GPTQ without calibration.
    """
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding={rounding!r} is not one of {', '.join(ROUNDINGS)}")
    if rounding == "gptq" and not calibration:
        raise ValueError("GPTQ needs calibration text; rounding=nearest does without")
    layers: dict[str, Quantized] = {}
    needs = {"hessian"} if rounding == "gptq" else set()
    for stem, block, calls in walk(model, calibration if needs else []):
        inside = linears(block)
        statistics = gather(block, inside, calls, needs) if needs else {}
        for name, layer in inside.items():
            weight = layer.weight.detach()
            if needs:
                packed = gptq(weight, statistics[name]("hessian"), bits=bits, group=group, symmetric=symmetric)
            else:
                grid = min_max(weight, bits=bits, group=group, symmetric=symmetric)
                packed = round_to_grid(weight, *grid, bits=bits, symmetric=symmetric)
            layers[f"{stem}.{name}"] = packed
            layer.weight.data.copy_(packed.dense())
    return layers
