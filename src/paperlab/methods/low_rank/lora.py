"""LoRA: fine-tune two thin matrices beside each frozen weight; the baseline of parameter-efficient fine-tuning.

    y = W x + scale B A dropout(x),   scale = alpha / r
    A (r, in) drawn as a fresh linear layer's, B (out, r) zero: training starts from the model as it is

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685; written against the reference
implementation in the package peft (0.21.2), whose outputs and gradients it gives.
"""

import math

import torch
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.matrix import Factors

CARD = Card(
    family="low-rank",
    sources=("abstract", "code"),
    departs=(
        "every linear layer of the blocks is adapted, as later papers advise; the paper adapts query and value only",
        "the scale alpha / r is 2 unless set, a usual choice; the paper sets alpha to the first rank that it tries",
    ),
)


class Adapted(nn.Module):
    """A frozen linear layer and its thin matrices: (…, in) -> (…, out)."""

    def __init__(self, linear: nn.Linear, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.scale = scale
        self.a = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        return self.linear(x) + self.dropout(x) @ self.a.T @ self.b.T * self.scale

    def merged(self) -> nn.Linear:
        """An ordinary layer that computes the same: W + scale B A in the weight's place."""
        weight = self.linear.weight
        made = nn.Linear(weight.shape[1], weight.shape[0], self.linear.bias is not None, weight.device, weight.dtype)
        with torch.no_grad():
            made.weight.copy_(weight + Factors(self.scale * self.b, self.a).dense())
            if self.linear.bias is not None:
                made.bias.copy_(self.linear.bias)
        return made


def adapter(linear: nn.Linear, *, rank: int = 8, scale: float = 2.0, dropout: float = 0.0) -> nn.Module:
    """The layer, frozen, with two trainable thin matrices beside it that add nothing yet.

    rank: of the update, at least 1. scale: its weight, alpha / rank elsewhere. dropout: share of the inputs of the thin
    matrices that is left out in training. Raises ValueError.
    """
    if rank < 1:
        raise ValueError(f"rank={rank}: at least 1")
    return Adapted(linear, rank, scale, dropout)
