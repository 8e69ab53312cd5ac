"""Fine-tuning with cross-entropy alone: the plain way to train a model further, without a teacher.

loss = -log q_y,   q = softmax(student),      averaged over the examples
"""

import torch.nn.functional as F
from torch import Tensor

from paperlab.core.card import Card

CARD = Card(family="distillation")


def loss(student: Tensor, labels: Tensor) -> Tensor:
    """student (n, classes) logits, labels (n,) int64 -> a scalar, in nats."""
    return F.cross_entropy(student, labels)
