"""The reference network of training tasks: a small causal decoder, any part of which a method may replace.

    x <- x + attention(norm(x)),   x <- x + feed_forward(norm(x))         in every block
    attention: heads with rotary positions (Su et al., 2104.09864); feed_forward: SwiGLU (Shazeer, 2002.05202)
    logits = output(norm(x))                                              after the last block

Parts bear the names of the training driver's verbs: linear, norm, activation, attention, feed_forward, block, network.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Parts = Mapping[str, Callable[..., nn.Module]]

BASE = 10_000.0  # of the rotary wavelengths


def rotate(x: Tensor) -> Tensor:
    """Rotary positions: (batch, heads, time, width) turned pair by pair, by an angle that grows with the position.

    Coordinate j is paired with j + width / 2 and turns by BASE^(-2j / width) a position.
    """
    time, width = x.shape[-2:]
    speed = BASE ** (-torch.arange(0, width, 2, dtype=x.dtype, device=x.device) / width)
    angle = torch.arange(time, dtype=x.dtype, device=x.device)[:, None] * speed
    first, second = x.chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class Attention(nn.Module):
    """Causal self-attention with rotary positions: (batch, time, width) -> the same. No biases."""

    def __init__(self, width: int, heads: int, linear: Callable[..., nn.Module] = nn.Linear) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"{heads} heads of an even width do not fit into {width}")
        self.heads = heads
        self.query, self.key, self.value, self.output = separately(*[lambda: linear(width, width, False)] * 4)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) -> (batch, time, width)."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )  # (batch, heads, time, width / heads)
        mixed = F.scaled_dot_product_attention(rotate(query), rotate(key), value, is_causal=True)
        return self.output(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """down(activation(gate(x)) * up(x)); with the default SiLU that is SwiGLU. No biases."""

    def __init__(
        self,
        width: int,
        inner: int,
        linear: Callable[..., nn.Module] = nn.Linear,
        activation: Callable[[], nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        self.gate, self.up, self.down = separately(
            lambda: linear(width, inner, False),
            lambda: linear(width, inner, False),
            lambda: linear(inner, width, False),
        )
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) -> (…, width)."""
        return self.down(self.activation(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Attention, then a feed-forward layer, each added to what it read through a norm."""

    def __init__(self, width: int, heads: int, inner: int, parts: Parts) -> None:
        super().__init__()
        self.norm_1, self.attention, self.norm_2, self.feed_forward = separately(
            lambda: parts["norm"](width),
            lambda: parts["attention"](width, heads),
            lambda: parts["norm"](width),
            lambda: parts["feed_forward"](width, inner),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) -> (batch, time, width)."""
        x = x + self.attention(self.norm_1(x))
        return x + self.feed_forward(self.norm_2(x))


class Decoder(nn.Module):
    """Token embedding, blocks, norm and output layer."""

    def __init__(self, vocabulary: int, width: int, heads: int, layers: int, inner: int, parts: Parts) -> None:
        super().__init__()
        self.embedding, self.norm, self.output, *blocks = separately(
            lambda: nn.Embedding(vocabulary, width),
            lambda: parts["norm"](width),
            lambda: parts["linear"](width, vocabulary, False),
            *[lambda: parts["block"](width, heads, inner)] * layers,
        )
        self.blocks = nn.Sequential(*blocks)

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, time) token ids -> (batch, time, vocabulary) logits; those at t know the tokens up to t."""
        return self.output(self.norm(self.blocks(self.embedding(ids))))


def decoder(
    parts: Parts, *, vocabulary: int, width: int, heads: int, layers: int, inner: int, length: int
) -> nn.Module:
    """A fresh causal decoder, (batch, time) token ids -> (batch, time, vocabulary) logits.

    parts: what a method brings, by verb; the reference stands everywhere else. length: the most tokens that it will
    read, for a `network` that needs to know.
    """
    if "network" in parts:
        return parts["network"](vocabulary, width, heads, layers, length)
    own: dict[str, Callable[..., nn.Module]] = {
        "linear": nn.Linear,
        "norm": nn.RMSNorm,
        "activation": nn.SiLU,
        "attention": lambda width, heads: Attention(width, heads, own["linear"]),
        "feed_forward": lambda width, inner: FeedForward(width, inner, own["linear"], own["activation"]),
        "block": lambda width, heads, inner: Block(width, heads, inner, own),
    }
    own |= parts
    return Decoder(vocabulary, width, heads, layers, inner, own)


def separately(*makes: Callable[[], nn.Module]) -> list[nn.Module]:
    """Build several parts so that no part's initial weights depend on how much another one draws: two networks that
    differ in one part begin alike in all others."""
    seeds = torch.randint(2**31, (len(makes),)).tolist()
    made = []
    with torch.random.fork_rng(devices=[]):
        for seed, make in zip(seeds, makes, strict=True):
            torch.manual_seed(seed)
            made.append(make())
    return made
