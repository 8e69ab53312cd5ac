"""What distillation objectives share: a student that is trained beside a teacher that is not."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.kit.tuning import Batch


class Taught(nn.Module):
    """A student with a teacher at its side. The teacher is no part of the module: it is neither trained nor put into
    training mode with it. Raises ValueError for a setting without a teacher, or networks without features."""

    def __init__(self, student: nn.Module, setting: Any) -> None:
        super().__init__()
        if getattr(setting, "teacher", None) is None:
            raise ValueError("this objective distils, and the setting has no teacher to learn from")
        self.student = student
        self._teacher: tuple[nn.Module] = (setting.teacher,)

    @torch.no_grad()
    def ask(self, inputs: Batch) -> Any:
        """The teacher's output on a batch: `.logits` and `.hidden_states`."""
        return self._teacher[0](**inputs, output_hidden_states=True)


def feature(out: Any) -> Tensor:
    """(n, width): the penultimate features of an output with hidden states, averaged over positions."""
    return out.hidden_states[-1].mean(1)


@torch.no_grad()
def widths(student: nn.Module, teacher: nn.Module, inputs: Batch) -> tuple[int, int]:
    """How wide the penultimate features of both are; their modes and the student's statistics stay as they were."""
    found = []
    for network in (student, teacher):
        mode = network.training
        found.append(feature(network.eval()(**inputs, output_hidden_states=True)).shape[-1])
        network.train(mode)
    return found[0], found[1]


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher / T || student / T) of logits (n, classes), averaged over n (Hinton, Vinyals and Dean, arXiv
    1503.02531)."""
    target = (teacher / temperature).log_softmax(-1)
    loss = F.kl_div((student / temperature).log_softmax(-1), target, log_target=True, reduction="batchmean")
    return loss * temperature**2
