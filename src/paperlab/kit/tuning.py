"""Fine-tuning a finished model: the loop that all arms share, and what an arm leaves."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = dict[str, Tensor]


class Setting(Protocol):
    """What the fine-tuning driver needs of a task's setting.

    model: where every arm starts. teacher: a model whose logits a loss may ask for, or None. steps: optimizer steps.
    rates: learning rates that every arm tries on the first seed.
    """

    model: nn.Module
    teacher: nn.Module | None
    steps: int
    rates: tuple[float, ...]

    def batches(self, seed: int) -> Iterator[tuple[Batch, Tensor]]:
        """Model inputs and labels, as many as are asked for, in an order drawn by the seed."""

    def validate(self, model: nn.Module) -> float:
        """How good a model is on validation data; higher is better."""


@dataclass
class Tuned:
    """An arm: the model in evaluation mode, the learning rate chosen for it, its validation figure by rate, steps
    taken, parameters that were trained."""

    model: nn.Module
    rate: float
    validation: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    trained: int = 0


Loss = Callable[[Tensor, Tensor | None, Tensor], Tensor]  # student's logits, teacher's logits, labels


def cross_entropy(student: Tensor, teacher: Tensor | None, labels: Tensor) -> Tensor:
    """Cross-entropy with the labels; the teacher is not looked at."""
    return F.cross_entropy(student, labels)


def logits_of(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """(n, classes) or (batch, time, classes): what the model says, whether it returns a tensor or a transformers
    output."""
    out: Any = model(**inputs)
    return out.logits if hasattr(out, "logits") else out


def fit(
    model: nn.Module, setting: Setting, loss: Loss, *, rate: float, seed: int, asks_teacher: bool
) -> tuple[int, int]:
    """Train in place with AdamW, the rate falling linearly to 0; returns steps taken and parameters trained.

    Logits are flattened to (n, classes), labels to (n,). Raises FloatingPointError once the loss is not finite.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    torch.manual_seed(seed)
    model.train()
    batches = setting.batches(seed)
    for step in range(setting.steps):
        inputs, labels = next(batches)
        teacher = None
        if asks_teacher and setting.teacher is not None:
            with torch.no_grad():
                teacher = logits_of(setting.teacher, inputs).flatten(0, -2)
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / setting.steps)
        value = loss(logits_of(model, inputs).flatten(0, -2), teacher, labels.flatten())
        if not torch.isfinite(value):
            raise FloatingPointError(f"the loss is {value.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
    model.eval()
    return setting.steps, sum(parameter.numel() for parameter in trained)
