"""Separate widths: a network for each width, trained alone; of other widths, the widest is cut as it is.

All of them see the same batches in the same steps. Each begins as a network of its width does: the layer that reads
m units has weights of the size that is usual for m.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.nested import Nested, Size, sizes_of
from paperlab.kit.tuning import Batch

CARD = Card(family="elastic")


class Family(nn.Module):
    """Networks of several sizes, the widest first; called like one, the widest answers."""

    def __init__(self, model: Nested, sizes: tuple[Size, ...]) -> None:
        super().__init__()
        self.sizes = tuple(sorted(sizes, key=sum, reverse=True))
        self.networks = nn.ModuleList(copy.deepcopy(model) for _ in self.sizes)
        for network, size in zip(self.networks, self.sizes, strict=True):
            assert isinstance(network, Nested)
            for layer, units in zip(network.layers, network.units(size), strict=True):
                with torch.no_grad():
                    layer.get_parameter("down.weight").mul_((layer.inner / units) ** 0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, time) token ids -> (batch, time, vocabulary) logits."""
        return self.at(self.sizes[0])(ids)

    def at(self, size: Size) -> Callable[[Tensor], Tensor]:
        """The network that was trained for a size, else the widest, cut to it."""
        network = self.networks[self.sizes.index(size) if size in self.sizes else 0]
        assert isinstance(network, Nested)
        return network.at(size)


class Objective(nn.Module):
    """model: a `kit.nested.Nested`. sizes: as `kit.nested.sizes_of` reads them."""

    def __init__(self, model: nn.Module, setting: Any, *, sizes: str = "1,0.5,0.25,0.125") -> None:
        super().__init__()
        if not isinstance(model, Nested):
            raise ValueError("separate-widths trains a decoder whose feed-forward layers can be cut, and this is none")
        self.family = Family(model, sizes_of(sizes, len(model.layers)))

    def forward(self, inputs: Batch, labels: Tensor, share: float) -> Tensor:
        """The sum of the cross-entropies; no weight is in two of them."""
        terms = [self.family.at(size)(inputs["ids"]) for size in self.family.sizes]
        return torch.stack([F.cross_entropy(logits.flatten(0, 1), labels.flatten()) for logits in terms]).sum()

    def result(self) -> nn.Module:
        """All of the networks."""
        return self.family
