"""Low-rank layers: train a network whose weights are products of two thin matrices; what sparse parts are added to.

    y = x A B,   A (in, r), B (r, out)

They start from the SVD of an ordinary fresh weight, cut to rank r, or from random numbers whose product is about as
large as such a weight. The embedding and the output layer stay as they are.
"""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.blocks import block_of

CARD = Card(family="low-rank")


class LowRank(nn.Module):
    """(…, in) -> (…, out) through r numbers. No bias unless asked for."""

    def __init__(self, in_features: int, out_features: int, bias: bool, rank: int, start: str) -> None:
        super().__init__()
        weight = nn.Linear(in_features, out_features, bias=False).weight.detach()
        rank = min(rank, in_features, out_features)
        if start == "svd":
            u, s, vt = torch.linalg.svd(weight.T, full_matrices=False)
            down, up = u[:, :rank] * s[:rank].sqrt(), s[:rank, None].sqrt() * vt[:rank]
        else:
            size = (weight.square().mean() / rank) ** 0.25  # then an entry of the product varies as one of the weight
            down, up = torch.randn(in_features, rank) * size, torch.randn(rank, out_features) * size
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        y = x @ self.down @ self.up
        return y if self.bias is None else y + self.bias


def block(
    width: int, heads: int, inner: int, *, rank: int = 16, start: Literal["random", "svd"] = "random"
) -> nn.Module:
    """A transformer block, (batch, time, width) -> the same, with seven low-rank layers.

    rank: of each, at most its smaller side. start: what the two matrices begin as.
    """
    return block_of(partial(LowRank, rank=rank, start=start), width, heads, inner)
