"""Merging models of one architecture: what an arm leaves, and the differences to a base that methods work on.

A model's changes are read one tensor and one model at a time, and added up as they come: memory does not grow with the
number of models.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]  # weights by name, possibly read from disk one at a time
Judge = Callable[[State], float]  # how good or how far off a state is, on data that the driver or the user brings


@dataclass
class Merged:
    """An arm: one model made of several. models: how many were given to it.

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


def deltas(base: State, models: Sequence[State], name: str) -> Iterator[Tensor]:
    """What each model added to the base in one tensor, float32, one model at a time; each may be written to.

    Raises ValueError where shapes differ.
    """
    start = base[name]
    for number, model in enumerate(models, 1):
        found = model[name]
        if found.shape != start.shape:
            raise ValueError(f"{name} is {tuple(found.shape)} in model {number}, {tuple(start.shape)} in the base")
        tensor = found.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        yield tensor.sub_(start)


def added(changes: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_i w_i tau_i."""
    total: Tensor | None = None
    for change, weight in zip(changes, weights, strict=True):
        total = change.mul_(weight) if total is None else total.add_(change, alpha=weight)
    assert total is not None  # a driver refuses no models
    return total


def agreed(changes: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean, for each parameter, of those changes that have its elected sign.

    gamma = sign(sum_i w_i tau_i), + where the sum is 0;  sum of w_i tau_i over sign(w_i tau_i) = gamma, divided by
    the sum of their w_i (Yadav et al., arXiv 2306.01708, algorithm 1, where every w_i is 1; 0 where there is none).
    """
    totals: list[Tensor] = []  # of positive changes, of negative ones, and of the weights of either
    for change, weight in zip(changes, weights, strict=True):
        change.mul_(weight)
        first = not totals
        totals = totals or [torch.empty_like(change) for _ in range(4)]
        for part, up, down, of_up, of_down in _pieces(change, *totals):
            if first:
                torch.clamp(part, min=0, out=up)
                torch.clamp(part, max=0, out=down)
                torch.mul(part > 0, weight, out=of_up)
                torch.mul(part < 0, weight, out=of_down)
            else:
                up.add_(part.clamp(min=0))
                down.add_(part.clamp(max=0))
                of_up.add_((part > 0) * weight)
                of_down.add_((part < 0) * weight)
    for up, down, of_up, of_down in _pieces(*totals):
        positive = up + down >= 0
        divisor = torch.where(positive, of_up, of_down)
        up.copy_(torch.where(positive, up, down).div_(divisor.masked_fill_(divisor == 0, 1.0)))
    return totals[0]


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of alike tensors, a megabyte each: what is computed between two of them stays in the cache."""
    return zip(*(tensor.view(-1).split(1 << 18) for tensor in tensors), strict=True)


def weights_of(text: str, models: int) -> list[float]:
    """A weight for each model from words as "0.7 0.3" or "0.7,0.3"; 1 for each where there is none.

    Raises ValueError for another number of weights, or a word that is no finite number.
    """
    words = text.replace(",", " ").split()
    try:
        found = [float(word) for word in words] or [1.0] * models
    except ValueError:
        raise ValueError(f"weights={text!r}: give numbers, one for each model, as 0.7,0.3") from None
    if len(found) != models:
        raise ValueError(f"weights={text!r} has {len(found)} numbers for {models} models; give one for each")
    if not all(abs(weight) < 1e6 for weight in found):
        raise ValueError(f"weights={text!r}: weights are finite numbers below a million")
    return found
