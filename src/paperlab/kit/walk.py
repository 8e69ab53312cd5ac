"""Walking a transformer block by block: find its blocks, feed them, advance."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]  # a model's inputs: input_ids (b, t), attention_mask …


@dataclass
class Call:
    """One batch on its way: the hidden states (b, t, width) and what else each block is called with."""

    hidden: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def through(self, block: nn.Module) -> Tensor:
        """The block's output (b, t, width)."""
        out = block(self.hidden, *self.args, **self.kwargs)
        return out[0] if isinstance(out, tuple) else out


def blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The model's stack of equal transformer blocks and its name ("model.layers").

    Raises ValueError where there is none, or where its weights lie elsewhere than in linear layers, and where there are
    several (an encoder and a decoder): what knows one stack only would leave the others as they are.
    """
    found = stacks(model)
    if len(found) > 1:
        names = ", ".join(stem for stem, _ in found)
        raise ValueError(
            f"{type(model).__name__} has {len(found)} stacks of blocks ({names}); this is for models of one"
        )
    return found[0]


def stacks(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """All stacks of equal transformer blocks, none inside another, by name, in the order in which they are defined.

    Beside the largest those count whose blocks have two linear layers or more. Raises ValueError where there is none,
    or where their weights lie elsewhere than in linear layers.
    """
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(child) for child in module}) == 1 and _matrices(module)
    ]
    if not found:
        raise ValueError(f"{type(model).__name__} has no stack of transformer blocks with linear layers")
    found = [(name, module) for name, module in found if _LINEAR in _matrices(module)] or found
    largest = max(found, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))
    kept: list[tuple[str, nn.ModuleList]] = []
    for name, module in found:
        inside = any(name.startswith(f"{stem}.") for stem, _ in (*kept, largest))
        holds = largest[0].startswith(f"{name}.")
        if module is largest[1] or (not inside and not holds and all(len(linears(child)) > 1 for child in module)):
            kept.append((name, module))
    for _, module in kept:
        _refuse_others(model, module)
    return kept


def _refuse_others(model: nn.Module, stack: nn.ModuleList) -> None:
    weights = _matrices(stack)
    others = {kind: count for kind, count in weights.items() if kind != _LINEAR}
    if sum(others.values()) > OTHERS * sum(weights.values()):
        raise ValueError(
            f"{type(model).__name__} keeps {sum(others.values()) / sum(weights.values()):.0%} of its blocks' weights "
            f"in {', '.join(others)}, not in nn.Linear: they would stay as they are, so nothing is compressed"
        )


OTHERS = 0.1  # share of a stack's weights that may lie outside linear layers (convolutions, position tables)
_LINEAR = "Linear"
NEVER_CALLED = ("dt_proj",)  # Mamba multiplies by the weight itself: no data reaches such a layer, it keeps its floats


def _matrices(stack: nn.Module) -> dict[str, int]:
    """Number of weights in matrices by the kind of module that holds them; subclasses of nn.Linear are linear."""
    weights: dict[str, int] = {}
    for name, module in stack.named_modules():
        last = name.rpartition(".")[2]
        kind = _LINEAR if isinstance(module, nn.Linear) else type(module).__name__
        kind = last if last in NEVER_CALLED else kind
        count = sum(parameter.numel() for parameter in module.parameters(recurse=False) if parameter.dim() > 1)
        if count:
            weights[kind] = weights.get(kind, 0) + count
    return weights


def linears(module: nn.Module) -> dict[str, nn.Linear]:
    """All linear layers below `module` by name, in order of definition, but for those that no model calls."""
    return {
        name: inner
        for name, inner in module.named_modules()
        if isinstance(inner, nn.Linear) and name.rpartition(".")[2] not in NEVER_CALLED
    }


def block_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers inside the blocks by their full name: what weight quantizers compress.

    Embeddings, norms and the output head stay as they are, as in the papers of this family.
    """
    return {f"{stem}.{name}": layer for stem, stack in stacks(model) for name, layer in linears(stack).items()}


class _Reached(Exception):
    """The last block was passed: the rest of the model need not be run."""


@torch.no_grad()
def block_calls(model: nn.Module, batches: list[Batch], stack_of: str | None = None) -> list[list[Call]]:
    """What each block is called with, for each batch: the outer list has a row per block.

    stack_of: the name of the stack, where the model has several.

    Only the first block is computed, and the others answer with its output: their `hidden` is left empty. The rest
    is their own: masks and position embeddings differ between blocks where some of them attend to a window only.
    Raises ValueError for a model that does not run each block once, in order.
    """
    stem, stack = blocks(model) if stack_of is None else (stack_of, dict(stacks(model))[stack_of])
    number = {id(block): index for index, block in enumerate(stack)}
    if len(number) < len(stack):
        raise ValueError(f"some blocks of {stem} are one and the same: they cannot be walked one by one")
    calls: list[list[Call]] = [[] for _ in stack]
    order: list[int] = []
    output: Any = None

    def catch(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        order.append(number[id(block)])
        call = _call(args, kwargs)
        if order[-1]:
            call.hidden = call.hidden.new_empty(0)
        calls[order[-1]].append(call)

    def keep(_: nn.Module, __: Any, out: Any) -> None:
        nonlocal output
        output = out

    def stop(*_: Any) -> None:
        if len(order) >= len(stack):
            raise _Reached

    inside = set(stack.modules())
    handles = [block.register_forward_pre_hook(catch, with_kwargs=True) for block in stack]
    handles += [stack[0].register_forward_hook(keep)]
    handles += [module.register_forward_pre_hook(stop) for module in model.modules() if module not in inside]
    own = [block.__dict__.get("forward") for block in stack]
    try:
        for block in list(stack)[1:]:
            block.forward = lambda *_, **__: output
        for batch in batches:
            order.clear()
            with suppress(_Reached):
                model(**batch, **({"use_cache": False} if _caches(model) else {}))
            if order != list(range(len(stack))):
                raise ValueError(
                    f"{type(model).__name__} runs the {len(stack)} blocks of {stem} in the order {order}; "
                    "only models that run each block once, in turn, can be walked on calibration data"
                )
    finally:
        for handle in handles:
            handle.remove()
        for block, forward in zip(stack, own, strict=True):
            block.__dict__.pop("forward", None)
            if forward is not None:
                block.forward = forward
    return calls


def _call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    if args:
        return Call(args[0], args[1:], kwargs)
    rest = dict(kwargs)
    return Call(rest.pop("hidden_states"), (), rest)


def _caches(model: nn.Module) -> bool:
    return bool(getattr(getattr(model, "config", None), "use_cache", False))


@torch.no_grad()
def walk(model: nn.Module, batches: list[Batch]) -> Iterator[tuple[str, nn.Module, list[Call]]]:
    """Yield (name, block, its calls) from the first block to the last.

    What the caller changes in a block is what the next block's inputs are computed with: quantized layers
    are met by the error of those before them (as in GPTQ, section 4). Only one block's inputs are in memory.
    Stacks follow each other: a decoder is met by what its encoder has become.
    """
    for stem, stack in stacks(model):
        rows = block_calls(model, batches, stem) if batches else [[] for _ in stack]
        for index, block in enumerate(stack):
            yield f"{stem}.{index}", block, rows[index]
            if index + 1 < len(stack):
                for call, after in zip(rows[index], rows[index + 1], strict=True):
                    after.hidden = call.through(block)
                rows[index] = []
