"""Separate widths: a network for each width, trained alone.

For a width that is asked for and was not trained the widest is cut, or, where it has no more units than that, works as
it is.

All of them see the same batches in the same steps, or each step trains one of them, drawn at random. Each begins as a
network of its width does: the layer that reads m units has weights of the size that is usual for m.
"""

import copy
from collections.abc import Callable
from typing import Any, Literal

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
        self.passes = len(self.sizes)
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
        """The network that was trained for a size; else the widest, cut to it if it has more units in all. Units that
        were not trained have no part in it."""
        place = self.sizes.index(size) if size in self.sizes else 0
        network, own = self.networks[place], self.sizes[place]
        assert isinstance(network, Nested)
        smaller = sum(size) < sum(own)
        return network.at(tuple(map(min, size, own)) if smaller else own)


class Objective(nn.Module):
    """model: a `kit.nested.Nested`. sizes: as `kit.nested.sizes_of` reads them; one that stands there twice is a second
    network, which is trained and never asked. per_step: "all" of them, or "one"."""

    def __init__(
        self,
        model: nn.Module,
        setting: Any,
        *,
        sizes: str = "1,0.5,0.25,0.125",
        per_step: Literal["all", "one"] = "all",
    ) -> None:
        super().__init__()
        if not isinstance(model, Nested):
            raise ValueError("separate-widths trains a decoder whose feed-forward layers can be cut, and this is none")
        self.family, self.per_step = Family(model, sizes_of(sizes, len(model.layers))), per_step
        if per_step == "one":
            self.family.passes = 1

    def forward(self, inputs: Batch, labels: Tensor, share: float) -> Tensor:
        """The sum of the cross-entropies, no weight being in two of them; or that of one network, which the step then
        trains alone."""
        networks = list(zip(self.family.networks, self.family.sizes, strict=True))
        if self.per_step == "one":
            networks = [networks[int(torch.randint(len(networks), ()))]]
        terms = [network.at(size)(inputs["ids"]) for network, size in networks]  # type: ignore[operator]
        return torch.stack([F.cross_entropy(logits.flatten(0, 1), labels.flatten()) for logits in terms]).sum()

    def result(self) -> nn.Module:
        """All of the networks."""
        return self.family
