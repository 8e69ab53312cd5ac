"""Plain distillation: the student's class probabilities are drawn to the teacher's by a divergence.

    L = hard CE(student, labels) + (1 - hard) T^2 D(teacher / T, student / T)

T^2 keeps the two gradients in proportion when T changes (Hinton, Vinyals and Dean, arXiv 1503.02531, section 2), who
take the forward KL. The other divergences have the same place in the papers that compare them.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from paperlab.core.card import Card
from paperlab.kit import divergences

CARD = Card(family="distillation")


def loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    divergence: Literal["forward-kl", "reverse-kl", "js", "tvd"] = "forward-kl",
    temperature: float = 2.0,
    hard: float = 0.1,
) -> Tensor:
    """student, teacher: logits (n, classes); labels (n,) int64 -> a scalar.

    divergence: between the two. temperature: divides both logits, above 0. hard: weight of the cross-entropy with the
    labels, 0 (the teacher alone) to 1 (the labels alone).
    """
    if not 0 <= hard <= 1:
        raise ValueError(f"hard={hard} is a share of the loss: give 0 to 1")
    soft = divergences.divergence(student, teacher, divergence, temperature=temperature)
    return hard * F.cross_entropy(student, labels) + (1 - hard) * temperature**2 * soft
