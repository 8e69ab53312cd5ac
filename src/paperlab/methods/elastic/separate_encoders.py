"""Separate encoders: for each width of the shared encoder a network of its own, trained at that width alone.

Each has the heads of all its labels, at all their widths, and begins as the network that is given, of which the
channels beyond its width are never used. All see the same batches in the same steps.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.tuning import Batch

CARD = Card(family="elastic")


class Apart(nn.Module):
    """Networks, one for each width of the encoder, that are run as one network that can be narrowed is."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.classes, self.configurations, self.multiplications = (
            model.classes, model.configurations, model.multiplications
        )  # fmt: skip
        self.widths = sorted({encoder for encoder, _ in model.configurations})
        self.channels: int = model.encoder[-1]["norm"].num_channels
        self.networks = nn.ModuleList(copy.deepcopy(model) for _ in self.widths)

    def encode(self, images: Tensor, width: float = 1.0) -> Tensor:
        """(n, 1, height, width) -> the feature (n, channels, ...) of the network of this width."""
        network: Any = self.networks[self.widths.index(width)]
        return network.encode(images, width)

    def read(self, feature: Tensor, task: int, width: float = 1.0) -> Tensor:
        """A network's feature -> its own logits (n, classes) of a label, by a head of this width."""
        share = feature.shape[1] / self.channels  # tells whose feature it is
        network: Any = self.networks[min(range(len(self.widths)), key=lambda i: abs(self.widths[i] - share))]
        return network.read(feature, task, width)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 1, height, width) -> logits of all labels, one after the other (n, classes), of the widest network."""
        feature = self.encode(images)
        return torch.cat([self.read(feature, task) for task in range(len(self.classes))], -1)


class Objective(nn.Module):
    """model: a network with `encode(images, width)`, `read(feature, task, width)`, `classes` and `configurations`."""

    def __init__(self, model: nn.Module, setting: Any) -> None:
        super().__init__()
        if not hasattr(model, "configurations"):
            raise ValueError("narrowing needs a network that can be run at several widths, and this one cannot")
        self.networks = Apart(model)
        self.heads = sorted({width for _, heads in self.networks.configurations for width in heads})

    def forward(self, inputs: Batch, labels: Tensor, share: float) -> Tensor:
        """Images and labels (n, tasks) -> cross-entropy, the sum over networks, head widths and labels; no weight of
        one network is in another's term."""
        terms = []
        for width in self.networks.widths:
            feature = self.networks.encode(inputs["images"], width)
            for task in range(len(self.networks.classes)):
                terms += [
                    F.cross_entropy(self.networks.read(feature, task, head), labels[:, task]) for head in self.heads
                ]
        return torch.stack(terms).sum()

    def result(self) -> nn.Module:
        """All of the networks."""
        return self.networks
