"""Width pruning of a Llama-layout model: fewer channels of the residual stream, fewer neurons, fewer query heads.

Cut weights are copied into a fresh model of the narrower configuration, so that what is left is an ordinary model: it
can be saved, loaded and trained like any other.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from paperlab.kit.layouts import layout_of
from paperlab.kit.walk import Batch, blocks

NORMS = ("input_layernorm", "post_attention_layernorm", "norm")  # those of the residual stream
ROUND = 8  # widths are multiples of it, as kernels like them


def width_of(share: float, whole: int, name: str) -> int:
    """`share` of `whole`, to the nearest multiple of ROUND, at least ROUND. Raises ValueError outside (0, 1]."""
    if not 0 < share <= 1:
        raise ValueError(f"{name}={share}: the share that is kept, above 0 and at most 1")
    return min(whole, max(ROUND, round(share * whole / ROUND) * ROUND))


def llama_blocks(model: nn.Module) -> list[Any]:
    """The blocks of a model in Llama's layout. Raises ValueError for another layout."""
    stack: list[Any] = list(blocks(model)[1])
    rows = [layout_of(block) for block in stack]
    if any(
        row is None or row.name != "Llama" or not hasattr(block.input_layernorm, "weight")
        for row, block in zip(rows, stack, strict=True)
    ):
        raise ValueError(f"{type(model).__name__} is not in Llama's layout: its width cannot be cut here")
    return stack


class Sizes:
    """How much each unit of a stage is active, gathered over batches: by sequence the mean of |x|, over sequences the
    root of the sum of squares ("batch=L2, sequence=mean"). A row per layer that is watched."""

    def __init__(self) -> None:
        self.squares: dict[str, Tensor] = {}

    def add(self, name: str, x: Tensor) -> None:
        """x: (batch, time, units)."""
        now = x.detach().float().abs().mean(1).square().sum(0)
        self.squares[name] = self.squares[name] + now if name in self.squares else now

    def of(self, kind: str) -> Tensor:
        """(layers, units): the sizes of all layers of a kind, in order."""
        rows = {name: value for name, value in self.squares.items() if name.partition(" ")[0] == kind}
        return torch.stack([rows[name] for name in sorted(rows, key=lambda n: int(n.rpartition(" ")[2]))]).sqrt()


@contextmanager
def _watched(model: nn.Module, sizes: Sizes) -> Iterator[None]:
    """Hooks on what the norms give out ("channel"), on what the down projections read ("neuron"), and on what the
    attention's output projections read ("attention")."""
    handles = []

    def out(name: str) -> Any:
        return lambda module, args, output: sizes.add(name, output)

    def into(name: str) -> Any:
        return lambda module, args: sizes.add(name, args[0])

    for index, block in enumerate(llama_blocks(model)):
        handles += [
            block.input_layernorm.register_forward_hook(out(f"channel {2 * index}")),
            block.post_attention_layernorm.register_forward_hook(out(f"channel {2 * index + 1}")),
            block.mlp.down_proj.register_forward_pre_hook(into(f"neuron {index}")),
            block.self_attn.o_proj.register_forward_pre_hook(into(f"attention {index}")),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def activity(model: nn.Module, calibration: list[Batch]) -> Sizes:
    """Sizes of channels (2 rows a block), neurons and attention outputs (a row each) on calibration data."""
    if not calibration:
        raise ValueError("no calibration data: importance is measured on text")
    sizes = Sizes()
    with _watched(model, sizes):
        for batch in calibration:
            model(**batch, use_cache=False)
    return sizes


def highest(score: Tensor, count: int) -> Tensor:
    """Indices of the `count` highest scores (units,), in ascending order; of equal ones the first."""
    return score.sort(descending=True, stable=True).indices[:count].sort().values


@torch.no_grad()
def narrowed(
    model: nn.Module, channels: Tensor, neurons: Sequence[Tensor], heads: Sequence[Tensor] | None = None
) -> nn.Module:
    """A fresh model with these units of the given one.

    channels: indices of the residual stream that stay. neurons: for each block, those of its feed-forward layer; as
    many in all. heads: for each block the query heads that stay, in the order in which they are to stand; as many in
    all, and a multiple of the key/value heads, which all stay.
    """
    old: Any = model
    config = copy.deepcopy(old.config)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    config.head_dim, config.hidden_size, config.intermediate_size = head, len(channels), len(neurons[0])
    if heads is not None:
        config.num_attention_heads = len(heads[0])
    made: Any = type(old)(config).to(next(old.parameters()).dtype)
    given = dict(old.named_parameters())
    stem, _ = blocks(old)
    for name, parameter in made.named_parameters():
        weight, part = given[name], name.rsplit(".", 2)[-2]
        inside = name.startswith(f"{stem}.")
        index = int(name[len(stem) + 1 :].split(".")[0]) if inside else -1
        if part in ("gate_proj", "up_proj"):
            weight = weight[neurons[index]]
        if part == "down_proj":
            weight = weight[:, neurons[index]] if weight.dim() > 1 else weight
        if heads is not None and part in ("q_proj", "o_proj"):
            rows = (heads[index][:, None] * head + torch.arange(head)).flatten()
            weight = weight[rows] if part == "q_proj" else weight[:, rows]
        if part in NORMS or part in ("o_proj", "down_proj"):
            weight = weight[channels]
        elif weight.dim() > 1:  # embeddings, and layers that read the stream
            weight = weight[:, channels]
        if parameter.shape != weight.shape:
            raise ValueError(f"{type(old).__name__} ties sizes to its width that are not cut here: {name}")
        parameter.copy_(weight)
    return made.eval()
