"""A small recurrent network on problems that are drawn without end: which share of new ones does it get wrong?

Default: the parity of a vector that is seen once (Graves, arXiv 1603.08983, section 3.1): of LENGTH numbers a random
number, 1 to LENGTH, are 1 or -1 and the rest 0; is the count of ones odd? How many are not 0 says how hard it is. Test
examples are the same for all seeds; a seed draws the network and what it is trained on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.task import Metric
from paperlab.kit.training import Split
from paperlab.kit.tuning import Batch, Tuned

VERSION = 1
SCORES = ("Tuned",)
SUPPLIES = ("model",)
AXES = ("parameters", "steps")
TIMED = False
METRICS = {
    "error": Metric("lower", "wrong"),
    "error_hard": Metric("lower", "wrong_hard"),
    "cross_entropy": Metric("lower", "nats"),
    "hard_over_easy": Metric("higher", "hard_over_easy"),
}
PAIRED_BY = "seeds"
COST = {"quick": 110, "full": 1_500}
ARM_SECONDS = {"": 10}
SEEDS = {"quick": 5, "full": 10, "gpu": 10}
MODELS: tuple[str, ...] = ()  # the task trains its own
DATA = {"parity": "generated: the parity of up to 8 signs, seen in one step"}

LENGTH = 8
WIDTH = 128
BATCH = 128
STEPS = {"quick": 1_000, "full": 5_000, "gpu": 5_000}
RATES = (1e-3, 3e-3, 1e-2)  # tried by every arm
VALIDATION, TEST = 1_000, 4_000


class Recurrent(nn.Module):
    """A plain recurrent network, state' = tanh(W x + U state + b), with a linear output; one step for an input.

    Its input has one number more than an example: 1 when the input is new, 0 when it is shown again.
    """

    def __init__(self, features: int, width: int, classes: int) -> None:
        super().__init__()
        self.width = width
        self.input = nn.Linear(features + 1, width)
        self.recurrent = nn.Linear(width, width, bias=False)
        self.head = nn.Linear(width, classes)

    def step(self, x: Tensor, state: Tensor, new: bool) -> Tensor:
        """x (n, features), state (n, width) -> the next state."""
        return torch.tanh(self.input(F.pad(x, (0, 1), value=float(new))) + self.recurrent(state))

    def forward(self, x: Tensor) -> Tensor:
        """(n, features) -> logits (n, classes)."""
        return self.head(self.step(x, x.new_zeros(len(x), self.width), True))


@dataclass
class Setting:
    """A fresh network (`model`) where every arm starts; examples that none was trained on."""

    model: nn.Module
    validation: Split
    test: Split
    steps: int
    length: int = LENGTH
    batch: int = BATCH
    rates: tuple[float, ...] = RATES
    teacher: nn.Module | None = None

    def batches(self, seed: int) -> Iterator[tuple[Batch, Tensor]]:
        """New examples and their parity, without end."""
        draw = torch.Generator().manual_seed(seed)
        while True:
            x, parity = examples(self.batch, self.length, draw)
            yield {"x": x}, parity

    def validate(self, model: nn.Module) -> float:
        """Accuracy on validation examples."""
        with torch.no_grad():
            return (model(*self.validation.inputs).argmax(-1) == self.validation.labels).double().mean().item()


def examples(count: int, length: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Vectors (count, length) of 1, -1 and 0, and whether the number of ones is odd (count,)."""
    active = torch.randint(1, length + 1, (count, 1), generator=draw)
    rank = torch.rand(count, length, generator=draw).argsort(-1)
    signs = torch.randint(0, 2, (count, length), generator=draw) * 2.0 - 1
    x = torch.where(rank < active, signs, 0.0)
    return x, (x == 1).sum(-1) % 2


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """A fresh network by the seed, and the examples that judge it. Raises ValueError for data that there is not."""
    if model is not None or data not in (None, *DATA):
        raise ValueError(
            f"this task trains its own small network on {', '.join(DATA)}; it takes no other model or data"
        )
    draw = torch.Generator().manual_seed(0)
    validation, test = (Split((x,), y) for x, y in (examples(count, LENGTH, draw) for count in (VALIDATION, TEST)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Recurrent(LENGTH, WIDTH, 2).eval()
    return Setting(network, validation, test, STEPS[scale])


def describe(setting: Setting) -> dict[str, Any]:
    """The problem and its sizes; threads, which decide the order of sums."""
    return {
        "model": f"recurrent, {WIDTH} tanh units",
        "data": {"id": "parity", "length": setting.length},
        "validation": len(setting.validation),
        "test": len(setting.test),
        "batch": setting.batch,
        "rates": list(setting.rates),
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """One: the test examples as a whole. A seed is what is sampled here."""
    return 1


def totals(arm: Tuned, setting: Setting) -> dict[str, float]:
    """parameters, optimiser steps, the learning rate that was chosen, inner_steps: mean per test example."""
    parameters = sum(parameter.numel() for parameter in arm.model.parameters())
    inner = inner_steps(arm.model, setting.test.inputs[0]).double().mean().item()
    return {"parameters": float(parameters), "steps": float(arm.steps), "rate": arm.rate, "inner_steps": inner}


@torch.no_grad()
def inner_steps(model: nn.Module, x: Tensor) -> Tensor:
    """(n,): steps that a network takes for each example, as its `inner_steps` says; one without it takes one."""
    told = getattr(model, "inner_steps", None)
    return told(x) if told is not None else torch.ones(len(x))


def score(arm: Tuned, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """wrong: share of test examples. wrong_hard: of the half with more active numbers. nats: negative log-likelihood.
    hard_over_easy: steps taken for that half, over those for the other; 1 where all get the same."""
    if start:
        return
    x, labels = setting.test.inputs[0], setting.test.labels
    with torch.no_grad():
        logits = arm.model(x)
    wrong = (logits.argmax(-1) != labels).double()
    hard = (x != 0).sum(-1) > setting.length // 2
    steps = inner_steps(arm.model, x).double()
    yield {
        "wrong": wrong.mean().item(),
        "wrong_hard": wrong[hard].mean().item(),
        "nats": F.cross_entropy(logits.double(), labels).item(),
        "hard_over_easy": (steps[hard].mean() / steps[~hard].mean()).item(),
    }
