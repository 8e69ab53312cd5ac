"""A fixed depth: a network whose layers share a decoder is trained, and used, at one number of layers for all images.

With all its layers it is the plain network. It is what methods that choose a depth for each image are compared with.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.exits import Exits, layered
from paperlab.kit.tuning import Batch

CARD = Card(family="elastic")


class Objective(nn.Module):
    """model: a network with `embed(images)`, `layers` and `decode(hidden, pixels)`; setting: loss(logits, labels), a
    figure for each image. depth: layers, 1 or more; 0 for all."""

    def __init__(self, model: nn.Module, setting: Any, *, depth: int = 0) -> None:
        super().__init__()
        layers = len(layered(model).layers)
        if not 0 <= depth <= layers:
            raise ValueError(f"depth={depth}: the network has {layers} layers; 0 means all")
        self.setting, self.network = setting, Stopped(model, depth or layers)

    def forward(self, inputs: Batch, labels: Tensor, share: float) -> Tensor:
        """Images and the class of each pixel (n, side, side) -> the task's loss, the mean over images."""
        return self.setting.loss(self.network(**inputs), labels).mean()

    def result(self) -> nn.Module:
        """The network that stops there."""
        return self.network


class Stopped(Exits):
    """A network that is left after `depth` of its layers, whatever the image."""

    def __init__(self, model: Any, depth: int) -> None:
        super().__init__(model, (depth,))

    def forward(self, images: Tensor) -> Tensor:
        """(n, 1, side, side) -> logits (n, classes, side, side)."""
        hidden, pixels = self.embed(images)
        for layer in self.layers[: self.depths[0]]:
            hidden = layer(hidden)
        return self.decode(hidden, pixels)

    def policy(self, images: Tensor) -> Tensor:
        """(n, depths): the share that each depth gets of each image; all at this one."""
        return F.one_hot(torch.full((len(images),), self.depths[0] - 1), len(self.layers)).double()
