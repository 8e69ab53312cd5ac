"""Depth pruning: what goes through a model's blocks, and the model without some blocks, attentions or feed-forwards.

A block is  y = x + attention(norm(x)),  z = y + feed_forward(norm(y));  dropping a part leaves the residual stream as
it is. Parts are the children of these names: `self_attn` or `attention`; `mlp` or `feed_forward`.
"""

from collections.abc import Collection, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paperlab.kit.layouts import layout_of
from paperlab.kit.walk import Batch, blocks

Unit = Literal["block", "attention", "feed_forward"]

NAMES = {"attention": ("self_attn", "attention"), "feed_forward": ("mlp", "feed_forward")}
NORMS = {"attention": "input_layernorm", "feed_forward": "post_attention_layernorm"}  # before a part, where it has one


class Nothing(nn.Module):
    """In the place of a dropped part: adds zero. pair: attention returns its weights too."""

    def __init__(self, *, pair: bool) -> None:
        super().__init__()
        self.pair = pair

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """args: the hidden states first, or by name -> a zero that broadcasts; with `pair`, (zero, None)."""
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        zero = hidden.new_zeros(())
        return (zero, None) if self.pair else zero


def part_name(block: nn.Module, part: str) -> str:
    """The name of a block's child that is its attention or its feed-forward network.

    Raises ValueError for a block that has none by a known name, or whose parts are not joined by plain residuals.
    """
    layout = layout_of(block)
    joined = layout is None or not (layout.also or getattr(block, "use_parallel_residual", False))
    for name in NAMES[part] if joined else ():
        if isinstance(getattr(block, name, None), nn.Module) and hasattr(block, NORMS[part]):
            return name
    raise ValueError(
        f"{type(block).__name__} has no {part} called {' or '.join(NAMES[part])} behind {NORMS[part]} that a plain "
        "residual joins: only whole blocks of it can be dropped"
    )


def residual_states(model: nn.Module, batches: list[Batch]) -> Iterator[list[tuple[Tensor, Tensor, Tensor]]]:
    """For each batch a row per block: the residual stream before it, after its attention and after it.

    Each (b, t, width). The output head is not computed. Raises ValueError as `part_name`.
    """
    _, stack = blocks(model)
    before: dict[int, Tensor] = {}
    between: dict[int, Tensor] = {}
    after: dict[int, Tensor] = {}
    handles = []
    for index, block in enumerate(stack):

        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], index: int = index) -> None:
            before[index] = args[0] if args else kwargs["hidden_states"]

        def middle(_: nn.Module, __: Any, out: Any, index: int = index) -> None:
            between[index] = before[index] + (out[0] if isinstance(out, tuple) else out)

        def leave(_: nn.Module, __: Any, out: Any, index: int = index) -> None:
            after[index] = out[0] if isinstance(out, tuple) else out

        handles.append(block.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(getattr(block, part_name(block, "attention")).register_forward_hook(middle))
        handles.append(block.register_forward_hook(leave))
    body = getattr(model, "base_model", model)
    try:
        for batch in batches:
            with torch.no_grad():
                body(**batch, use_cache=False)
            yield [(before[i], between[i], after[i]) for i in range(len(stack))]
    finally:
        for handle in handles:
            handle.remove()


def of_unit(row: tuple[Tensor, Tensor, Tensor], unit: Unit) -> tuple[Tensor, Tensor]:
    """The residual stream before and after a unit of a block, of `residual_states`' three."""
    before, between, after = row
    return {"block": (before, after), "attention": (before, between), "feed_forward": (between, after)}[unit]


class Droppable:
    """A causal language model whose attentions and feed-forwards can be put away and back: to try, then to `finish`.

    Raises ValueError as `part_name`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.stack = blocks(model)[1]
        self.parts = {
            part: [(part_name(block, part), getattr(block, part_name(block, part))) for block in self.stack]
            for part in NAMES
        }

    def without(self, attention: Collection[int], feed_forward: Collection[int]) -> nn.Module:
        """The model with those blocks' attentions and feed-forwards silent, all others as they were."""
        for part, dropped in (("attention", attention), ("feed_forward", feed_forward)):
            for index, (name, module) in enumerate(self.parts[part]):
                setattr(self.stack[index], name, Nothing(pair=part == "attention") if index in dropped else module)
        return self.model

    def finish(self, attention: Collection[int], feed_forward: Collection[int]) -> nn.Module:
        """The model that has them no more, nor their norms; blocks that lose both are gone."""
        model = self.without(attention, feed_forward)
        for part, dropped in (("attention", attention), ("feed_forward", feed_forward)):
            for index in dropped:
                setattr(self.stack[index], NORMS[part], nn.Identity())
        return without_blocks(model, set(attention) & set(feed_forward))


def without_blocks(model: nn.Module, dropped: Collection[int]) -> nn.Module:
    """The model without these blocks of its stack, in place; the others are numbered anew for the key/value cache."""
    _, stack = blocks(model)
    kept = [index for index in range(len(stack)) if index not in dropped]
    for index in sorted(dropped, reverse=True):
        del stack[index]
    config = getattr(model, "config", None)
    for name in ("num_hidden_layers", "n_layer"):
        if hasattr(config, name):
            setattr(config, name, len(kept))
    if isinstance(types := getattr(config, "layer_types", None), list) and len(types) > len(kept):
        config.layer_types = [types[index] for index in kept]  # type: ignore[union-attr]
    number = 0  # attentions that are left come first, as the cache reads the sequence's length from its first layer
    for block in stack:
        for module in block.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = number  # type: ignore[assignment]
                number += 1
    return model


def drop(model: nn.Module, chosen: Collection[int], unit: Unit) -> nn.Module:
    """The model without the blocks, attentions or feed-forwards of these indices, in place."""
    if unit == "block":
        return without_blocks(model, chosen)
    return Droppable(model).finish(chosen if unit == "attention" else (), chosen if unit == "feed_forward" else ())


def how_many(model: nn.Module, sparsity: float, protected: Collection[int] = ()) -> int:
    """Units to drop: the share `sparsity` of the blocks, rounded down. Raises ValueError where too few may go."""
    total = len(blocks(model)[1])
    count = int(sparsity * total + 1e-9)
    if not 0 <= sparsity < 1 or count > total - len(protected):
        raise ValueError(
            f"sparsity={sparsity}: {count} of {total} blocks, {len(protected)} of them protected; take a share from 0 "
            "to below 1 that leaves those"
        )
    return count
