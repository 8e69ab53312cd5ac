"""Networks whose layers share a decoder, so that an input can be left after any of them, and plain rules that say when
from what the decoder has said so far."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


class Exits(nn.Module):
    """Around a network with `embed(images)`, which gives what enters the first layer and what the decoder sees besides,
    `layers`, and `decode(hidden, pixels)`. depths: those that it was trained for, from 1."""

    def __init__(self, model: Any, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.model, self.depths = model, depths

    @property
    def layers(self) -> Any:
        """The network's layers, the first first."""
        return self.model.layers

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As the network's."""
        return self.model.embed(images)

    def decode(self, hidden: Tensor, pixels: Tensor) -> Tensor:
        """As the network's."""
        return self.model.decode(hidden, pixels)


@torch.no_grad()
def at_each_depth(model: Any, images: Tensor) -> list[Tensor]:
    """What the decoder says after 1, 2 ... layers, each (n, classes, height, width)."""
    hidden, pixels = model.embed(images)
    found = []
    for layer in model.layers:
        hidden = layer(hidden)
        found.append(model.decode(hidden, pixels))
    return found


def layered(model: nn.Module) -> Any:
    """The network itself. Raises ValueError for one whose layers share no decoder."""
    if not (hasattr(model, "decode") and hasattr(model, "layers")):
        raise ValueError("a depth can be chosen of a network whose layers share a decoder, and this one has none")
    return model


def confidence(logits: list[Tensor]) -> Tensor:
    """Logits (n, classes, side, side) of each depth -> (n, depths), 0 to 1: the largest probability of a class but the
    background's, the first, where the background is not; the mean over pixels by how likely it is not."""
    shares = [one.softmax(1) for one in logits]
    return torch.stack([s[:, 1:].amax(1).sum((1, 2)) / (1 - s[:, 0]).sum((1, 2)).clamp(min=1e-9) for s in shares], 1)


def agreement(logits: list[Tensor]) -> Tensor:
    """Logits (n, classes, side, side) of each depth -> (n, depths), 0 to 1: of the pixels that this depth or the one
    before takes for something, the first class being nothing, the share that both take for the same; 1 without any. The
    first depth has none before it: 0."""
    found = [one.argmax(1) for one in logits]
    rows = [torch.zeros(len(found[0]))]
    for before, after in pairwise(found):
        either, same = ((before > 0) | (after > 0)).sum((1, 2)), ((before == after) & (after > 0)).sum((1, 2))
        rows.append(torch.where(either > 0, same / either.clamp(min=1), 1.0))
    return torch.stack(rows, 1)


SURE = {"confidence": confidence, "agreement": agreement}


def first_sure(sure: Tensor, mean: float) -> Tensor:
    """How sure (n, depths), 0 to 1 -> (n,): index of the first depth that reaches a threshold, else of the last; the
    highest threshold whose mean index is at most `mean`."""
    last = sure.shape[1] - 1
    thresholds = sure[:, :last].flatten().unique()
    low, high = 0, len(thresholds) - 1  # of the lowest threshold all stop at once: 0 on average
    while low < high:
        middle = (low + high + 1) // 2
        within = stops(sure, thresholds[middle]).double().mean() <= mean
        low, high = (middle, high) if within else (low, middle - 1)
    return stops(sure, thresholds[low])


def stops(sure: Tensor, threshold: Tensor) -> Tensor:
    """(n,): index of the first depth that reaches the threshold, of the last where none does."""
    enough = sure >= threshold
    enough[:, -1] = True
    return enough.int().argmax(1)
