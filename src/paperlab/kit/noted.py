"""What a recipe noted while it trained, for the record: how much was read, how often a part of the loss was at work."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from paperlab.kit.tuning import Tuned


@dataclass
class Noted(Tuned):
    """An arm, and figures of its training by name."""

    notes: dict[str, float] = field(default_factory=dict)


@contextmanager
def counted(model: nn.Module) -> Iterator[list[int]]:
    """Meanwhile, how many token ids the model reads in each call of it, or of a copy that is made of it meanwhile;
    padding counts, as it costs as much. The model is to be called with `input_ids` by name."""
    found: list[int] = []

    def note(_: nn.Module, args: Any, given: dict[str, Any]) -> None:
        found.append(given["input_ids"].numel())

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()
