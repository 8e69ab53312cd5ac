"""SLTrain: train each weight as a low-rank product plus a sparse matrix whose places are drawn once.

    W = scale B A + S,   S non-zero at a random share of the places; B starts at zero, A and S as usual

Han et al., SLTrain: a sparse plus low-rank approach for parameter and memory efficient pretraining, arXiv 2406.02214;
github.com/andyjm3/SLTrain at 2335d62 (`splora/splora_linear.py`). The embedding and the output layer stay dense.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.blocks import block_of

CARD = Card(
    family="low-rank",
    sources=("abstract", "code"),
    configuration="scripts/llm_pretrain/sltrain60m.sh",
    departs=(
        "the scale, their alpha / r, is 1/4 as for their smallest model, whatever the rank",
        "5 % of the places are sparse, as many parameters as LOST's columns; theirs 3 %",
        "the weight is put together in PyTorch; theirs by a kernel that never holds it whole",
    ),
)


class LowRankPlusSparse(nn.Module):
    """(…, in) -> (…, out)."""

    places: Tensor

    def __init__(
        self, in_features: int, out_features: int, bias: bool, rank: int, density: float, scale: float
    ) -> None:
        super().__init__()
        rank = min(rank, in_features, out_features)
        self.shape, self.scale = (out_features, in_features), scale
        self.a, self.b = nn.Parameter(torch.empty(rank, in_features)), nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        count = int(density * in_features * out_features)
        self.register_buffer("places", torch.randperm(in_features * out_features)[:count].sort().values)
        self.values = nn.Parameter(torch.empty(count).uniform_(-1, 1) / math.sqrt(in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        weight = (self.scale * self.b @ self.a).flatten().index_add(0, self.places, self.values)
        return F.linear(x, weight.view(self.shape), self.bias)

    def stored_bits(self) -> int:
        """Parameters in 32 bits, and a place of 32 bits for each sparse value."""
        return 32 * (sum(one.numel() for one in self.parameters()) + self.places.numel())


def block(
    width: int, heads: int, inner: int, *, rank: int = 16, density: float = 0.05, scale: float = 0.25
) -> nn.Module:
    """A transformer block, (batch, time, width) -> the same, with seven such layers.

    rank: at most a layer's smaller side. density: share of a weight's places that the sparse part fills. scale: weight
    of the low-rank part.
    """
    return block_of(partial(LowRankPlusSparse, rank=rank, density=density, scale=scale), width, heads, inner)
