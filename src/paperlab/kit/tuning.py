"""Fine-tuning a finished model: one training loop for all arms and for a user's own model, and what it leaves.

A step is a pure function of the state before it, and the state can be written down (`Training.state`) and taken up
again: a run that was cut anywhere ends with the same bits as an unbroken one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.kit.compressed import Compressed

Batch = dict[str, Tensor]

WARM_UP = 0.05  # share of the training in which the rate rises to its peak; it then falls linearly to 0


class Setting(Protocol):
    """What the fine-tuning driver needs of a task's setting.

    model: where every arm starts. teacher: a model that a loss may ask things of, or None. steps: optimizer steps.
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
    taken, parameters that were trained. compressed: the model again, with what is stored of it, where it was
    compressed before it was trained."""

    model: nn.Module
    rate: float
    validation: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    trained: int = 0
    compressed: Compressed | None = None


# What a loss may ask for, by name: student and teacher logits (n, classes); labels (n,); the hidden states of both, a
# tuple of (batch, time, width), first those that enter the blocks and then what each block leaves, the last after the
# final norm; mask (batch, time), 1 for a token and 0 for padding; share, how much of the training is done, 0 to 1.
LOSS_TAKES = ("student", "teacher", "labels", "student_hidden", "teacher_hidden", "mask", "share")

Loss = Callable[..., Tensor]  # called by keyword with those of LOSS_TAKES that it asks for


def cross_entropy(student: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the labels."""
    return F.cross_entropy(student, labels)


def logits_of(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """(n, classes) or (batch, time, classes): what the model says, whether it returns a tensor or a transformers
    output."""
    return _logits(model(**inputs))


def _logits(out: Any) -> Tensor:
    return out.logits if hasattr(out, "logits") else out


def rate_at(share: float) -> float:
    """The learning rate, of its peak, once `share` (0 to 1) of the training is done."""
    return share / WARM_UP if share < WARM_UP else (1 - share) / (1 - WARM_UP)


class Training:
    """One training run, a step at a time, with AdamW (no weight decay).

    asks: those of LOSS_TAKES that the loss asks for. accumulate: batches in a step. halves: matrix products in bf16;
    worth it only where the processor has instructions for them. batches: examples in place of the setting's; a run
    that is to be taken up again needs the same ones anew.
    """

    def __init__(
        self, model: nn.Module, setting: Setting, loss: Loss, *, rate: float, seed: int, asks: Sequence[str],
        accumulate: int = 1, halves: bool = False, batches: Iterator[tuple[Batch, Tensor]] | None = None,
    ) -> None:  # fmt: skip
        if unknown := set(asks) - set(LOSS_TAKES):
            raise ValueError(f"the loss asks for {', '.join(sorted(unknown))}; there is {', '.join(LOSS_TAKES)}")
        if any(name.startswith("teacher") for name in asks) and setting.teacher is None:
            raise ValueError("the loss asks for a teacher, and this task has none")
        self.model, self.setting, self.loss, self.rate, self.asks = model, setting, loss, rate, tuple(asks)
        self.accumulate, self.halves = accumulate, halves
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=0.0)
        self.done = 0
        torch.manual_seed(seed)
        self._batches = setting.batches(seed) if batches is None else batches
        model.train()

    def step(self, share: float) -> float:
        """One optimizer step at `share` of the training; the loss before it.

        Raises FloatingPointError once the loss is not finite; the model is then as it was before the step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * rate_at(share)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for _ in range(self.accumulate):
            value = self._loss(*next(self._batches), share) / self.accumulate
            total += value.item()
            if not torch.isfinite(value):
                raise FloatingPointError(f"the loss is {total} at step {self.done}; try a lower learning rate")
            value.backward()
        self.optimizer.step()
        self.done += 1
        return total

    def _loss(self, inputs: Batch, labels: Tensor, share: float) -> Tensor:
        with self._precision():
            hidden = "student_hidden" in self.asks
            out = self.model(**inputs, **({"output_hidden_states": True} if hidden else {}))
            told: dict[str, Any] = {"student": _logits(out).float().flatten(0, -2), "labels": labels.flatten()}
            if hidden:
                told["student_hidden"] = out.hidden_states
            told["mask"] = inputs.get("attention_mask", torch.ones(_first(inputs).shape[:2]))
            told["share"] = share
            told |= self._teacher(inputs)
        return self.loss(**{name: told[name] for name in self.asks})

    @torch.no_grad()
    def _teacher(self, inputs: Batch) -> dict[str, Any]:
        teacher = self.setting.teacher
        if teacher is None or not any(name.startswith("teacher") for name in self.asks):
            return {}
        hidden = "teacher_hidden" in self.asks
        out = teacher(**inputs, **({"output_hidden_states": True} if hidden else {}))
        told = {"teacher": _logits(out).float().flatten(0, -2)}
        return {**told, "teacher_hidden": out.hidden_states} if hidden else told

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", dtype=torch.bfloat16) if self.halves else nullcontext()

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, as tensors by name (for safetensors)."""
        found = {f"model.{name}": tensor.detach() for name, tensor in self.model.named_parameters()}
        for number, parameter in enumerate(self.parameters):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                found[f"optimizer.{number}.{name}"] = torch.as_tensor(value)
        return {**found, "random": torch.get_rng_state(), "done": torch.tensor(self.done)}

    def take_up(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state` of the same run: the batches that it has seen are passed over.

        Raises ValueError for the state of another model.
        """
        own = dict(self.model.named_parameters())
        names = {name.removeprefix("model.") for name in state if name.startswith("model.")}
        if names != own.keys() or any(state[f"model.{name}"].shape != own[name].shape for name in own):
            raise ValueError("this checkpoint is of another model")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[f"model.{name}"])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            if key.startswith("optimizer."):
                _, number, name = key.split(".")
                moments.setdefault(int(number), {})[name] = value.clone()
        for index, inner in moments.items():
            self.optimizer.state[self.parameters[index]] = inner
        self.done = int(state["done"])
        for _ in range(self.done * self.accumulate):
            next(self._batches)
        torch.set_rng_state(state["random"].clone())


def _first(inputs: Batch) -> Tensor:
    return next(iter(inputs.values()))


def has_bf16() -> bool:
    """Whether this processor multiplies bf16 matrices by instructions of its own; elsewhere bf16 is slower."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def fit(
    model: nn.Module, setting: Setting, loss: Loss, *, rate: float, seed: int, asks: Sequence[str],
    steps: int | None = None, batches: Iterator[tuple[Batch, Tensor]] | None = None,
    after: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:  # fmt: skip
    """Train in place for the setting's steps; returns steps taken and parameters trained.

    What a recipe may ask for: another number of steps, batches of its own, and `after`, called behind each step with
    the steps done and their number. Raises FloatingPointError once the loss is not finite, ValueError for a loss that
    asks for what there is not.
    """
    steps = setting.steps if steps is None else steps
    training = Training(model, setting, loss, rate=rate, seed=seed, asks=asks, batches=batches)
    for step in range(steps):
        training.step(step / steps)
        if after is not None:
            after(step + 1, steps)
    model.eval()
    return steps, sum(parameter.numel() for parameter in training.parameters)
