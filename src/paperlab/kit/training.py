"""Training a small network from scratch: the parts that a method may supply, and the loop that all arms share."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Inputs = tuple[Tensor, ...]  # what the network is called with; the first dimension of each counts examples


def linear_decay(step: int, steps: int) -> float:
    """Share of the peak learning rate at `step` of `steps`: from 1 down to 0, no warm-up."""
    return 1 - step / steps


def adamw(parameters: Any, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW without weight decay."""
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)


# What stands where a method brings no part of its own, by the verb of the training driver.
PARTS: dict[str, Callable[..., Any]] = {
    "linear": nn.Linear, "loss": F.cross_entropy, "rate": linear_decay, "optimizer": adamw,
}  # fmt: skip


@dataclass(frozen=True)
class Split:
    """Examples: network inputs, and labels (n,) int64."""

    inputs: Inputs
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Inputs, Tensor]]:
        """Batches in a random order (drawn by `generator`), or in order without one."""
        count = len(self)
        order = torch.randperm(count, generator=generator) if generator else torch.arange(count)
        for rows in order.split(size):
            yield tuple(tensor[rows] for tensor in self.inputs), self.labels[rows]


class Setting(Protocol):
    """What the training driver needs of a task's setting.

    rates: learning rates that every arm tries on the first seed; the one that is best on validation data is kept.
    """

    train: Any  # has batches(size, generator) -> (inputs, labels), and a length in examples
    epochs: int
    batch: int
    rates: tuple[float, ...]

    def network(self, parts: Mapping[str, Callable[..., Any]]) -> nn.Module:
        """A freshly initialised network, its layers made by `parts`; draws from torch's global generator."""

    def validate(self, network: nn.Module) -> float:
        """How good a trained network is on validation data; higher is better."""


@dataclass
class Trained:
    """An arm: the network in evaluation mode, the learning rate chosen for it, and its validation figure by rate."""

    model: nn.Module
    rate: float
    validation: dict[str, float] = field(default_factory=dict)
    steps: int = 0


def fit(
    network: nn.Module, setting: Setting, parts: Mapping[str, Callable[..., Any]], *, rate: float, seed: int
) -> int:
    """Train in place on the setting's batches; returns the number of steps.

    The order of examples and the dropout masks come from `seed`: arms see the same batches. Logits and labels are
    flattened to (n, classes) and (n,) for the loss.
    """
    optimizer = parts["optimizer"](network.parameters(), rate)
    order = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    steps = setting.epochs * -(-len(setting.train) // setting.batch)
    done = 0
    network.train()
    for _ in range(setting.epochs):
        for inputs, labels in setting.train.batches(setting.batch, order):
            for group in optimizer.param_groups:
                group["lr"] = rate * parts["rate"](done, steps)
            logits = network(*inputs)
            loss = parts["loss"](logits.flatten(0, -2), labels.flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            done += 1
    network.eval()
    return done


def fit_split(network: nn.Module, split: Split, epochs: int, batch: int, *, rate: float, seed: int) -> int:
    """`fit` of a classifier on examples alone, with the parts that stand where a method brings none."""
    plan: Any = SimpleNamespace(train=split, epochs=epochs, batch=batch)
    return fit(network, plan, PARTS, rate=rate, seed=seed)


def held_out(labels: Tensor, seed: int, test: int, validation: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows to test on, to validate on, and the rest, from the classes of all examples (n,).

    test, validation: rows of each class. The test rows are the same for all seeds; the seed draws the validation rows
    and the order of the rest.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    tested, order = _first(order, labels, test)
    order = order[torch.randperm(len(order), generator=torch.Generator().manual_seed(seed))]
    validated, order = _first(order, labels, validation)
    return tested, validated, order


def _first(order: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` rows of each class in `order`, and the rest."""
    rank = torch.zeros(len(order), dtype=torch.int64)
    for label in labels.unique():
        mine = labels[order] == label
        rank[mine] = torch.arange(int(mine.sum()))
    return order[rank < count], order[rank >= count]


@torch.no_grad()
def accuracy(network: nn.Module, split: Split, batch: int = 512) -> float:
    """Share of examples whose largest logit is the label's."""
    right = sum(int((network(*inputs).argmax(-1) == labels).sum()) for inputs, labels in split.batches(batch))
    return right / len(split)


def stored_bits(network: nn.Module) -> int:
    """Bits of all parameters: as a layer's own `stored_bits()` says, 32 for each of the others."""
    total = 0
    for module in network.modules():
        if callable(own := getattr(module, "stored_bits", None)):
            total += own()
        else:
            total += 32 * sum(parameter.numel() for parameter in module.parameters(recurse=False))
    return total
