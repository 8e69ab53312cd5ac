"""Replaying parts of a block: what a module inside it is called with on calibration data."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from paperlab.kit.walk import Call


def record_calls(block: nn.Module, modules: Iterable[nn.Module], calls: list[Call], tokens: int) -> list[list[Call]]:
    """Run `block` over its first calls, `tokens` tokens at least; for each module what it was called with."""
    modules = list(modules)
    caught: list[list[Call]] = [[] for _ in modules]

    def catch(into: list[Call]) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kwargs = dict(kwargs)
            hidden: Tensor = args[0] if args else kwargs.pop("hidden_states")
            into.append(Call(hidden, args[1:], kwargs))

        return hook

    handles = [
        module.register_forward_pre_hook(catch(into), with_kwargs=True)
        for module, into in zip(modules, caught, strict=True)
    ]
    done = 0
    try:
        with torch.no_grad():
            for call in calls:
                if done >= tokens:
                    break
                call.through(block)
                done += call.hidden.shape[0] * call.hidden.shape[1]
    finally:
        for handle in handles:
            handle.remove()
    return caught


@contextmanager
def without_projection(scope: nn.Module) -> Iterator[None]:
    """Attention or a gated MLP as it is before the layer that projects its output (o_proj, down_proj)."""
    last = {name: child for name, child in scope.named_children() if name in ("o_proj", "down_proj")}
    try:
        for name in last:
            setattr(scope, name, nn.Identity())
        yield
    finally:
        for name, child in last.items():
            setattr(scope, name, child)
