"""A causal decoder whose feed-forward layers may be cut to their first units, one by one: many networks in one.

    feed_forward(x) = down[:, :m] (silu(gate[:m] x) * up[:m] x)         the first m of the inner units; no biases

A size is the share of inner units that each layer keeps, as a tuple of one number a layer, each above 0 and at most 1.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.kit.networks import FeedForward, decoder

Size = tuple[float, ...]


class Sized(Protocol):
    """What has networks of several sizes. sizes: those that it was trained for. passes: of a training step, each of one
    size with the step's batch; each size has an equal part of them."""

    sizes: tuple[Size, ...]
    passes: int

    def at(self, size: Size) -> Callable[[Tensor], Tensor]:
        """The network of a size: (batch, time) token ids -> (batch, time, vocabulary) logits."""


class NestedFeedForward(FeedForward):
    """SwiGLU of which only the first `units` inner units take part."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__(width, inner)
        self.inner = self.units = inner

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        gate, up, down = (layer.get_parameter("weight") for layer in (self.gate, self.up, self.down))
        m = self.units
        return F.linear(self.activation(F.linear(x, gate[:m])) * F.linear(x, up[:m]), down[:, :m])


class Nested(nn.Module):
    """The reference decoder with such layers: (batch, time) token ids -> (batch, time, vocabulary) logits."""

    def __init__(self, vocabulary: int, width: int, heads: int, layers: int, inner: int, length: int) -> None:
        super().__init__()
        self.decoder = decoder(
            {"feed_forward": NestedFeedForward},
            vocabulary=vocabulary, width=width, heads=heads, layers=layers, inner=inner, length=length,
        )  # fmt: skip
        self.sizes: tuple[Size, ...] = ((1.0,) * layers,)
        self.passes = 1

    @property
    def layers(self) -> list[NestedFeedForward]:
        """The feed-forward layers, first to last."""
        return [module for module in self.modules() if isinstance(module, NestedFeedForward)]

    def forward(self, ids: Tensor) -> Tensor:
        """Of the whole network."""
        return self.decoder(ids)

    def units(self, size: Size) -> list[int]:
        """Inner units that each layer keeps. Raises ValueError for what is no size of this network."""
        layers = self.layers
        if len(size) != len(layers) or not all(0 < share <= 1 for share in size):
            raise ValueError(f"size {size}: give {len(layers)} shares above 0, at most 1, one a layer")
        return [max(round(share * layer.inner), 1) for share, layer in zip(size, layers, strict=True)]

    def at(self, size: Size) -> Callable[[Tensor], Tensor]:
        """The network of a size; it has the weights of this one."""
        units = self.units(size)

        def run(ids: Tensor) -> Tensor:
            with self._cut(units):
                return self.decoder(ids)

        return run

    @contextmanager
    def _cut(self, units: list[int]) -> Iterator[None]:
        layers = self.layers
        try:
            for layer, count in zip(layers, units, strict=True):
                layer.units = count
            yield
        finally:
            for layer in layers:
                layer.units = layer.inner

    def extract(self, size: Size) -> nn.Module:
        """The network of a size by itself, with as few weights as it needs: the decoder of `kit.networks`."""
        small = copy.deepcopy(self.decoder)
        for block, count in zip(small.get_submodule("blocks").children(), self.units(size), strict=True):
            whole = block.get_submodule("feed_forward")
            gate = whole.get_parameter("gate.weight")
            cut = FeedForward(gate.shape[1], count).to(gate)
            with torch.no_grad():
                for name in ("gate", "up"):
                    cut.get_parameter(f"{name}.weight").copy_(whole.get_parameter(f"{name}.weight")[:count])
                cut.get_parameter("down.weight").copy_(whole.get_parameter("down.weight")[:, :count])
            block.feed_forward = cut
        return small


def sizes_of(text: str, layers: int) -> tuple[Size, ...]:
    """ "1,0.5,0.25:0.5:0.5:1" -> sizes: a share for all layers, or one for each with colons between. Raises
    ValueError."""
    try:
        found = [tuple(float(share) for share in part.split(":")) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"sizes {text!r}: write shares with commas between, e.g. 1,0.5,0.25") from None
    sizes = tuple(size * layers if len(size) == 1 else size for size in found)
    if any(len(size) != layers or not all(0 < share <= 1 for share in size) for size in sizes):
        raise ValueError(f"sizes {text!r}: shares above 0, at most 1, one for all layers or {layers} with colons")
    return sizes
