"""Feature distillation: the student's hidden states are pulled to its teacher's by their mean squared distance.

    loss = w CE(student, labels) + sum_l mean (s_l - t_l)^2     l: what each block leaves, the last after the final norm

The plain form, without any scale: layers with large states count most. FitNets (Romero et al., arXiv 1412.6550) did it
for one layer, through a learned map, as student and teacher differ in width there; here both must be equally wide.
"""

import torch.nn.functional as F
from torch import Tensor

from paperlab.core.card import Card

CARD = Card(family="distillation", sources=("abstract",))


def loss(
    student: Tensor,
    labels: Tensor,
    student_hidden: tuple[Tensor, ...],
    teacher_hidden: tuple[Tensor, ...],
    mask: Tensor,
    *,
    label_weight: float = 0.0,
) -> Tensor:
    """student (n, classes) logits, labels (n,); hidden states of both (batch, time, width), first those that enter the
    blocks, which are left out; mask (batch, time) -> a scalar.

    label_weight: of cross-entropy with the labels. Raises ValueError for another number of layers or width.
    """
    if [state.shape for state in student_hidden] != [state.shape for state in teacher_hidden]:
        raise ValueError("feature distillation needs a teacher with as many blocks as the student, equally wide")
    kept = mask.bool()
    pairs = zip(student_hidden[1:], teacher_hidden[1:], strict=True)
    apart = sum((F.mse_loss(own[kept], other[kept]) for own, other in pairs), student.new_zeros(()))
    return apart + label_weight * F.cross_entropy(student, labels) if label_weight else apart
