"""Calibration statistics of a linear layer's inputs, gathered one block at a time.

A method asks for a statistic by naming a positional parameter after it:

    hessian        (in, in)   2 / n * sum_t x_t x_t^T, the layer's squared-error Hessian (GPTQ, 2210.17323, eq. 3)
    input_norm     (in,)      ||x_j||_2 over all tokens
    input_absmean  (in,)      mean_t |x_j|
    input_absmax   (in,)      max_t |x_j|
    input_min, input_max (in,)
    inputs         (n, in)    the tokens themselves, at most `SAMPLE` of them, evenly spaced
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from paperlab.kit.walk import Call

SAMPLE = 1024


class _Inputs:
    """Running statistics of the inputs that one or more layers share."""

    def __init__(self, needs: set[str]) -> None:
        self.needs = needs
        self.count = 0
        self.values: dict[str, Tensor] = {}
        self.kept: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        """x: (…, in)."""
        x = x.detach().reshape(-1, x.shape[-1]).float()
        self.count += x.shape[0]
        merge: dict[str, Callable[[], tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]]] = {
            "hessian": lambda: (x.T @ x, torch.add),
            "input_norm": lambda: (x.square().sum(0), torch.add),
            "input_absmean": lambda: (x.abs().sum(0), torch.add),
            "input_absmax": lambda: (x.abs().amax(0), torch.maximum),
            "input_min": lambda: (x.amin(0), torch.minimum),
            "input_max": lambda: (x.amax(0), torch.maximum),
        }
        for name in self.needs & merge.keys():
            value, join = merge[name]()
            self.values[name] = join(self.values[name], value) if name in self.values else value
        if "inputs" in self.needs:
            self.kept.append(x)

    def get(self, name: str) -> Tensor:
        if name == "inputs":
            x = torch.cat(self.kept)
            return x[:: math.ceil(len(x) / SAMPLE)]
        value = self.values[name]
        if name == "hessian":
            return value * (2 / self.count)
        if name == "input_norm":
            return value.sqrt()
        return value / self.count if name == "input_absmean" else value


STATISTICS = ("hessian", "input_norm", "input_absmean", "input_absmax", "input_min", "input_max", "inputs")


def gather(
    block: nn.Module, layers: dict[str, nn.Linear], calls: list[Call], needs: set[str]
) -> dict[str, Callable[[str], Tensor]]:
    """Run the block over its calls and return, per layer, a function from a statistic's name to its value.

    Layers that read the same tensor (query, key, value) share one accumulator: a block's statistics are
    never in memory twice.
    """
    unknown = needs - set(STATISTICS)
    if unknown:
        raise ValueError(f"no statistic {sorted(unknown)}; known: {', '.join(STATISTICS)}")
    shared: dict[str, _Inputs] = {}
    # What each layer met first in this call, with its version then. The tensor is held, so that no other one can take
    # its address while the call lasts; once the call is over, an address says nothing.
    met: dict[str, tuple[Tensor, int]] = {}
    done: set[int] = set()

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0]
            if not x.numel():
                return  # an expert that no token of this call was sent to
            if name not in shared:  # the first call that reaches a layer decides with whom it shares
                twin = next((n for n, (other, version) in met.items() if _same(x, other, version)), None)
                met[name] = (x, x._version)
                shared[name] = shared[twin] if twin else _Inputs(needs)
            if id(shared[name]) not in done:
                done.add(id(shared[name]))
                shared[name].add(x)

        return add

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            for call in calls:
                done.clear()
                met.clear()
                call.through(block)
    finally:
        for handle in handles:
            handle.remove()

    def missing(name: str) -> Callable[[str], Tensor]:
        def get(statistic: str) -> Tensor:
            raise ValueError(
                f"{name}: no calibration token reached this layer, so it has no {statistic}; use more text, or a "
                "method that looks at no data if the model never calls the layer itself"
            )

        return get

    return {name: shared[name].get if name in shared else missing(name) for name in layers}


def _same(x: Tensor, other: Tensor, version: int) -> bool:
    """Whether x is what `other` was when it had that version: the same memory, seen the same way, not written since."""
    return (
        x.data_ptr() == other.data_ptr()
        and x._version == version
        and (x.shape, x.stride()) == (other.shape, other.stride())
    )
