"""Cross-entropy: the plain loss of a classifier or language model, which every other loss is compared with.

loss = -log p_y,   p = softmax(logits),      averaged over the examples
"""

from torch import Tensor

from paperlab.core.card import Card

CARD = Card(family="loss")


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """logits (n, classes), labels (n,) int64 -> a scalar, in nats."""
    return -logits.log_softmax(-1).gather(-1, labels[:, None]).mean()
