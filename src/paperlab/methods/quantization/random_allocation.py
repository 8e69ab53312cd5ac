"""Random allocation: mixed precision without a reason, the baseline of every measure of sensitivity.

Units in a random order get their bits by the rule that rankings get theirs, then round to nearest. The seed draws the
order, so a check runs it as often as it runs anything that is drawn, and compares with the distribution of orders.
"""

from typing import Literal

import torch
from torch import nn

from paperlab.core.card import Card
from paperlab.kit.allocation import allocate, parse_choices, round_layers, units, weights_in
from paperlab.kit.compressed import Compressed, count_weights

CARD = Card(family="quantization")


def transform(
    model: nn.Module,
    seed: int,
    *,
    mean_bits: float = 4.0,
    choices: str = "2,4,8",
    unit: Literal["block", "layer"] = "block",
    group: int | None = 32,
) -> Compressed:
    """At most `mean_bits` code bits per weight from `choices`, one width per block or per linear layer."""
    pieces = units(model, unit)
    generator = torch.Generator().manual_seed(seed)
    scores = dict(zip(pieces, torch.rand(len(pieces), generator=generator).tolist(), strict=True))
    bits = allocate(scores, weights_in(model, pieces), choices=parse_choices(choices), mean_bits=mean_bits)
    total = count_weights(model)
    layers = round_layers(model, {name: bits[piece] for piece in pieces for name in pieces[piece]}, group=group)
    return Compressed(model, layers, total, notes={"bits": bits})
