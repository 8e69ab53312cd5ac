"""What every driver needs: the names that a function asks for, and a look at what it gave back."""

import inspect
from collections.abc import Callable
from typing import Any

Progress = Callable[[str, int, int], None]  # what, done, of how many


def silent(what: str, done: int, total: int) -> None:
    """No progress shown."""


def supplied(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names that the driver must supply, in order."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in inspect.signature(function).parameters.values() if p.kind in kinds)


def takes(made: Any, kind: type, verb: str) -> None:
    """Refuse what a verb gave back if it is of another kind than its table says. Raises TypeError."""
    if not isinstance(made, kind):
        raise TypeError(f"{verb} gave back a {type(made).__name__}, where its driver takes a {kind.__name__}")
