"""A transformer block whose linear layers a method makes, for methods that leave a network's output layer dense."""

from collections.abc import Callable

from torch import nn

from paperlab.kit.networks import Attention, Block, FeedForward


def block_of(linear: Callable[..., nn.Module], width: int, heads: int, inner: int) -> nn.Module:
    """The reference block with `linear(in_features, out_features, bias)` for each of its seven linear layers."""
    return Block(
        width,
        heads,
        inner,
        {
            "norm": nn.RMSNorm,
            "attention": lambda width, heads: Attention(width, heads, linear),
            "feed_forward": lambda width, inner: FeedForward(width, inner, linear),
        },
    )
