"""A small dense network: the reference decoder with fewer units, what a pruned large one is compared with."""

from torch import nn

from paperlab.core.card import Card
from paperlab.kit.networks import decoder

CARD = Card(family="pruning")


def network(vocabulary: int, heads: int, layers: int, length: int, *, width: int = 32, inner: int = 80) -> nn.Module:
    """(batch, time) token ids -> (batch, time, vocabulary) logits, causal. width: of the residual stream, a multiple of
    twice the heads. inner: units of a feed-forward layer."""
    return decoder({}, vocabulary=vocabulary, width=width, heads=heads, layers=layers, inner=inner, length=length)
