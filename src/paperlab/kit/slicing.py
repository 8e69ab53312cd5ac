"""Narrower feed-forward networks: hidden units taken out of gate, up and down, and how much a spectrum changes."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paperlab.kit.walk import blocks


@dataclass
class FeedForward:
    """A gated feed-forward network: rows of `gate` and `up` (hidden, width) and columns of `down` are its units."""

    name: str
    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear

    @torch.no_grad()
    def keep(self, units: Tensor) -> None:
        """Only these units stay, in their order. units: indices (kept,)."""
        for layer in (self.gate, self.up):
            layer.weight = nn.Parameter(layer.weight[units].clone())
            layer.out_features = len(units)
            if layer.bias is not None:
                layer.bias = nn.Parameter(layer.bias[units].clone())
        self.down.weight = nn.Parameter(self.down.weight[:, units].clone())
        self.down.in_features = len(units)


def feed_forwards(model: nn.Module) -> list[FeedForward]:
    """One for each block, all of one size. Raises ValueError for a model whose blocks have none of this form."""
    stem, stack = blocks(model)
    found = []
    for index, block in enumerate(stack):
        mlp = getattr(block, "mlp", None)
        parts = [getattr(mlp, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
        if not all(isinstance(part, nn.Linear) for part in parts):
            raise ValueError(f"{type(block).__name__} has no mlp of gate_proj, up_proj and down_proj to slice")
        found.append(FeedForward(f"{stem}.{index}.mlp", *parts))  # type: ignore[arg-type]
    if len({network.gate.out_features for network in found}) != 1:
        raise ValueError("the feed-forward networks have different widths: one policy or count does not fit all")
    return found


def say_width(model: nn.Module, width: int) -> None:
    """Tell the model's config its new hidden width, and each feed-forward network that keeps a copy."""
    for holder in (getattr(model, "config", None), *(getattr(block, "mlp", None) for block in blocks(model)[1])):
        if hasattr(holder, "intermediate_size"):
            holder.intermediate_size = width  # type: ignore[union-attr]


def kolmogorov_smirnov(a: Tensor, b: Tensor) -> float:
    """The largest distance between the two samples' distribution functions, 0 to 1. a (n,), b (m,)."""
    a, b = a.sort().values, b.sort().values
    points = torch.cat([a, b])
    share_a = torch.searchsorted(a, points, right=True).double() / len(a)
    share_b = torch.searchsorted(b, points, right=True).double() / len(b)
    return float((share_a - share_b).abs().max())
