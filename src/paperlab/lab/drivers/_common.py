"""What every driver needs: the names that a function asks for, and a look at what it gave back."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

Progress = Callable[[str, int, int], None]  # what, done, of how many


def silent(what: str, done: int, total: int) -> None:
    """No progress shown."""


def supplied(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names that the driver must supply, in order."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in inspect.signature(function).parameters.values() if p.kind in kinds)


def keywords(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the parameters: what is keyword-only."""
    return tuple(p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY)


def in_order(function: Callable[..., Any], params: Mapping[str, Any], row: Mapping[str, Any]) -> Callable[..., Any]:
    """The function with those of `params` set that it has, to be called with what its verb is supplied with (`row`:
    the verb's entry in VERBS), in that order: it gets by name what it asks for, whatever order its signature has."""
    order: tuple[str, ...] = row["supplies"]
    names, own = supplied(function), keywords(function)
    named = {name: value for name, value in params.items() if name in own}

    @wraps(function, updated=())
    def call(*values: Any, **more: Any) -> Any:
        if len(values) > len(order):
            raise TypeError(f"{len(values)} values for {len(order)} places: {', '.join(order) or 'none'}")
        given = {name: value for name, value in zip(order, values, strict=False) if name in names}
        return function(**given, **{**named, **more})

    return call


def takes(made: Any, kind: type, verb: str) -> None:
    """Refuse what a verb gave back if it is of another kind than its table says. Raises TypeError."""
    if not isinstance(made, kind):
        raise TypeError(f"{verb} gave back a {type(made).__name__}, where its driver takes a {kind.__name__}")
