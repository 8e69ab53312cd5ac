"""Allocation by depth: the bits of a block follow from its place alone, no data are looked at.

"ends" favours the first and last blocks, "middle" the others; both sizes are the same. The plainest rival of every
measured sensitivity: a measure that only finds that the ends matter is no better than this.
"""

from typing import Literal

from torch import nn

from paperlab.core.card import Card
from paperlab.kit.allocation import allocate, parse_choices, round_layers, units, weights_in
from paperlab.kit.compressed import Compressed, count_weights

CARD = Card(family="quantization")


def transform(
    model: nn.Module,
    *,
    favour: Literal["ends", "middle"] = "ends",
    mean_bits: float = 4.0,
    choices: str = "2,4,8",
    group: int | None = 32,
) -> Compressed:
    """At most `mean_bits` code bits per weight from `choices`, one width per block: the farther from the middle of the
    stack (or, favour="middle", the nearer), the more. Of two blocks equally far the earlier comes first.
    """
    if favour not in ("ends", "middle"):
        raise ValueError(f"favour={favour!r}: 'ends' or 'middle'")
    pieces = units(model, "block")
    sign = 1 if favour == "ends" else -1
    scores = {piece: sign * abs(2 * i - (len(pieces) - 1)) for i, piece in enumerate(pieces)}
    bits = allocate(scores, weights_in(model, pieces), choices=parse_choices(choices), mean_bits=mean_bits)
    total = count_weights(model)
    layers = round_layers(model, {name: bits[piece] for piece in pieces for name in pieces[piece]}, group=group)
    return Compressed(model, layers, total, notes={"bits": bits})
