"""Focal loss: examples that are already predicted well count less.

    FL = -(1 - p_t)^gamma log(p_t),   p_t = probability of the right class              (eq. 4)

Lin, Goyal, Girshick, He and Dollár, "Focal loss for dense object detection", arXiv 1708.02002; their gamma is 2.
Compared with torchvision's `sigmoid_focal_loss`, which is the authors'.
"""

import torch
from torch import Tensor

from paperlab.core.card import Card

CARD = Card(
    family="loss",
    sources=("code",),
    departs=(
        "p_t is a softmax over many classes; the paper's detector has a sigmoid for each class",
        "the class weights alpha of eq. 5 are left out, and so is the division by the number of anchors assigned to a "
        "box: the mean over examples is taken",
    ),
)


def loss(logits: Tensor, labels: Tensor, *, gamma: float = 2.0) -> Tensor:
    """logits (n, classes), labels (n,) int64 -> a scalar.

    gamma: how fast a well predicted example loses its weight, at least 0; 0 is cross-entropy.
    """
    if gamma < 0:
        raise ValueError(f"gamma={gamma} would count easy examples more: give 0 or more")
    log_p = logits.log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
    wrong = -torch.expm1(log_p)  # 1 - p_t without cancellation
    # At wrong = 0 the power has no finite slope if gamma < 1; there the example has no loss to pass on anyway.
    weight = wrong.clamp(min=torch.finfo(wrong.dtype).tiny) ** gamma
    return -(weight * log_p).mean()
