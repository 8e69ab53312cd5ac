"""Random weights: what a network learnt before is thrown away, so that what is trained after it starts from nothing.

Matrices are drawn from N(0, 0.02^2), norms become 1 and biases 0, as BERT starts. Only what the task trains.
"""

from typing import Any, Literal

import torch
from torch import nn

from paperlab.core.card import Card
from paperlab.kit.tuning import Tuned

CARD = Card(family="distillation")

HEADS = ("head", "classifier", "lm_head")  # names of output layers
SPREAD = 0.02  # BERT's initializer_range


def recipe(model: nn.Module, setting: Any, seed: int, *, parts: Literal["all", "head"] = "all") -> Tuned:
    """The copy that it is given, its trainable weights drawn anew by the seed; nothing is trained.

    parts: "head" draws the output layer alone.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad or (parts == "head" and name.split(".")[0] not in HEADS):
                continue
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * SPREAD)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return Tuned(
        model, 0.0, {}, 0, sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    )
