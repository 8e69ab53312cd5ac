"""Full fine-tuning: every weight that the task leaves free learns from the labels alone.

L = CE(student, labels)
"""

from torch import Tensor

from paperlab.core.card import Card
from paperlab.kit.tuning import cross_entropy

CARD = Card(family="distillation")


def loss(student: Tensor, labels: Tensor) -> Tensor:
    """student: logits (n, classes); labels (n,) int64 -> a scalar, in nats."""
    return cross_entropy(student, labels)
