"""Merging models of one architecture: what an arm leaves, and the differences to a base that methods work on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

State = Mapping[str, Tensor]  # weights by name, possibly read from disk one at a time


@dataclass
class Merged:
    """An arm: one model made of several. models: how many went into it.

    scale: the factor chosen for it on validation data, if one was; validation: the figure of each that was tried.
    """

    model: nn.Module
    models: int
    scale: float | None = None
    validation: dict[str, float] = field(default_factory=dict)


def check_alike(base: State, models: Sequence[State]) -> None:
    """Raises ValueError naming the first tensor that a model lacks or has in another shape; or for no models."""
    if not models:
        raise ValueError("name at least one model to merge")
    for number, model in enumerate(models, 1):
        missing = sorted(set(base) - set(model)) or sorted(set(model) - set(base))
        if missing:
            raise ValueError(f"model {number} and the base differ in {len(missing)} tensors, {missing[0]} first")


def deltas(base: State, models: Sequence[State], name: str) -> list[Tensor]:
    """What each model added to the base in one tensor, float32. Raises ValueError where shapes differ."""
    start = base[name].float()
    found = []
    for number, model in enumerate(models, 1):
        tensor = model[name].float()
        if tensor.shape != start.shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)} in model {number}, {tuple(start.shape)} in the base")
        found.append(tensor - start)
    return found
