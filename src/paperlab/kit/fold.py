"""Scaling and shifting the inputs of linear layers, folded into what comes before: only the ranges move.

    x' = (x - shift) / scale        made by the previous norm or linear layer
    W' = W * scale,  b' = b + W shift    the layers that read x                 W x + b = W' x' + b'

Used by AWQ, SmoothQuant, Outlier Suppression+ and OSTQuant. Where a fold is exact is said by the table of
`paperlab.kit.layouts`, in Llama and BERT for instance:

    Llama   input_layernorm -> q, k, v;  v -> o;  post_attention_layernorm -> gate, up;  up -> down (scale only)
    BERT    value -> attention.output.dense (attention weights sum to 1, so shifts pass too);
            LayerNorm -> q, k, v and LayerNorm -> intermediate, where the residual branch also reads the norm:
            it multiplies back by `scale` (and adds `shift`), as in Outlier Suppression (arXiv 2209.13325,
            section 4.1); that costs one vector per norm. intermediate -> output.dense passes GELU: no fold.

Where no module is called with the residual (DistilBERT, BART), the layer that writes to it is scaled as well, and the
norm behind the sum multiplies back.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paperlab.kit.layouts import Block, table
from paperlab.kit.walk import Call, stacks


@dataclass(frozen=True)
class Group:
    """Linear layers that read the same tensor, and the module that makes it.

    name: the readers' common role in the model ("model.layers.3.self_attn.qkv").
    source: norm or linear layer whose output is scaled. readers: the linear layers.
    scope: module whose output shows the harm of rounding the readers (AWQ's search looks at it).
    index: for each input channel of the readers the output channel of the source, or None where they are the
    same; several readers' channels share one source channel under grouped-query attention.
    shortcuts: modules that add the source's output back as a residual, their second argument (BERT). sums: where it is
    added outside any module, the layer that it is added to and the norm behind.
    shiftable: a shift passes unchanged from source to readers.
    before: the source lies before the block, so that the block's own input is what changes (BERT).
    rows: the outputs of the source that count, where it makes other things, too; all where None.
    others: modules with a weight (out, in) that read the same tensor but are not rounded (the router of experts).
    offset: added to the weight by a norm before it multiplies.
    """

    name: str
    source: Any
    readers: tuple[nn.Linear, ...]
    scope: nn.Module
    index: Tensor | None = None
    shortcuts: tuple[nn.Module, ...] = ()
    shiftable: bool = True
    before: bool = False
    sums: tuple[tuple[nn.Linear, nn.Module], ...] = ()
    rows: Tensor | None = None
    others: tuple[Any, ...] = ()
    offset: float = 0.0

    @property
    def width(self) -> int:
        """Number of channels that can be scaled: the source's outputs."""
        if self.rows is not None:
            return len(self.rows)
        weight = getattr(self.source, "weight", None)
        return int(self.readers[0].weight.shape[1] if weight is None else weight.shape[0])

    @property
    def seen(self) -> Any:
        """A module that meets all of the source's output: one expert meets but some of its tokens."""
        return (*self.others, *self.readers)[0]

    def to_source(self, values: Tensor, reduce: str = "amax") -> Tensor:
        """Values per input channel of the readers (in,) -> per channel of the source; reduce: amax, amin, mean."""
        if self.index is None:
            return values
        out = torch.zeros(self.width, dtype=values.dtype, device=values.device)
        return out.scatter_reduce(0, self.index, values, reduce, include_self=False)

    def to_readers(self, values: Tensor) -> Tensor:
        """Values per channel of the source -> per input channel of the readers."""
        return values if self.index is None else values[self.index]


def scaling_groups(model: nn.Module) -> list[list[Group]]:
    """For each block, in order, the groups whose readers lie in it. Raises ValueError for architectures without a row.

    Where no fold is exact between two layers there is no group: those of blocks whose attention reads the residual
    stream itself, say. `norm_groups` insists on all that read norms.
    """
    return [_groups(block) for stem, stack in stacks(model) for block in table(model, stem, stack)]


def norm_groups(model: nn.Module) -> list[list[Group]]:
    """For each block the groups that read a norm. Raises ValueError where attention or feed-forward reads none."""
    for stem, stack in stacks(model):
        for block in table(model, stem, stack):
            for fed in block.fed:
                if fed.norm is None:
                    raise ValueError(
                        f"{type(model).__name__} is built as {block.layout.name}: no norm before {fed.name} could be "
                        f"scaled ({fed.bare})"
                    )
    return [[group for group in row if not isinstance(group.source, nn.Linear)] for row in scaling_groups(model)]


def _groups(block: Block) -> list[Group]:
    made = []
    for fed, pairs in block.parts:
        if fed.norm is not None:
            made.append(
                Group(
                    fed.name,
                    fed.norm,
                    fed.readers,
                    fed.scope,
                    shortcuts=fed.residual,
                    shiftable=not fed.others,
                    before=fed.before,
                    sums=fed.after,
                    others=fed.others,
                    offset=norm_offset(fed.norm),
                )
            )
        made += [
            Group(pair.name, pair.source, (pair.reader,), pair.reader, pair.index, (), pair.shiftable, rows=pair.rows)
            for pair in pairs
        ]
    return made


def watched(inside: dict[str, nn.Linear], groups: Iterable[Group]) -> dict[str, Any]:
    """Some layers of a block, and what shows the input of each group's readers where none of the layers does."""
    layers: dict[str, Any] = dict(inside)
    return layers | {group.name: group.seen for group in groups if not any(group.seen is x for x in inside.values())}


def norm_offset(norm: Any) -> float:
    """0 for a norm whose output is proportional to its weight, 1 where it is to 1 + weight (Gemma). Else ValueError."""
    if getattr(norm, "weight", None) is None:
        return 0.0
    x = torch.linspace(-1, 1, norm.weight.shape[0], device=norm.weight.device, dtype=norm.weight.dtype)[None]
    for offset in (0.0, 1.0):
        half = copy.deepcopy(norm)
        with torch.no_grad():
            half.weight.add_(offset).div_(2).sub_(offset)
            for tensor in (getattr(half, "bias", None), getattr(half, "folded_bias", None)):
                if tensor is not None:
                    tensor.div_(2)
            if torch.allclose(half(x) * 2, norm(x), rtol=1e-2, atol=1e-3):
                return offset
    raise ValueError(
        f"{type(norm).__name__} is not proportional to its weight, nor to 1 + weight; folding is not defined for it"
    )


@torch.no_grad()
def fold(group: Group, scale: Tensor, shift: Tensor | None = None, calls: Iterable[Call] = ()) -> int:
    """Divide the source's output by `scale` after taking `shift` from it, and make the readers undo both.

    scale, shift: (group.width,), scale positive. Changes the modules in place; the model's function stays.
    calls: the calls of the readers' block, where the caller is walking the model: where the source lies before
    the block, their hidden states were made before the fold, and are changed with it.
    Returns how many numbers the model must store beyond those it had: biases and residual vectors.
    """
    own = group.source
    added = 0
    if getattr(own, "weight", None) is None and not hasattr(own, "folded_weight"):
        like = group.readers[0].weight
        own.register_buffer("folded_weight", like.new_ones(group.width))  # a norm without weight, as in OLMo
        own.register_forward_hook(lambda own, _, out: out * own.folded_weight)
        added += group.width
    weight = own.weight if getattr(own, "weight", None) is not None else own.folded_weight
    scale = scale.to(weight)
    if scale.shape != (group.width,) or not (torch.isfinite(scale).all() and (scale > 0).all()):
        raise ValueError(f"{group.name}: a scale is {group.width} positive numbers, one per channel")
    if shift is not None and not group.shiftable:
        raise ValueError(f"{group.name}: its inputs are products, a shift cannot be folded")
    if shift is not None:
        shift = shift.to(weight)
        added += _add_bias(own, -shift, group.rows)
        for reader in group.readers:
            added += _add_bias(reader, reader.weight @ group.to_readers(shift))
    if group.offset:
        weight.add_(group.offset)
    _divide(weight, scale if weight.dim() == 1 else scale[:, None], group.rows)
    if group.offset:
        weight.sub_(group.offset)
    for bias in (getattr(own, "bias", None), getattr(own, "folded_bias", None)):
        if bias is not None:
            _divide(bias, scale, group.rows)
    for reader in (*group.readers, *group.others):
        reader.weight.mul_(group.to_readers(scale))
    if group.before:
        for call in calls:
            call.hidden = (call.hidden if shift is None else call.hidden - shift) / scale
    for shortcut in group.shortcuts:
        added += _restore(shortcut, scale, shift)
    for writer, norm in group.sums:
        writer.weight.div_(scale[:, None])
        if writer.bias is not None:
            writer.bias.div_(scale)
        added += _restore(norm, scale, shift, 0)
    return added


def _divide(tensor: Tensor, by: Tensor, rows: Tensor | None) -> None:
    if rows is None:
        tensor.div_(by)
    else:
        tensor[rows] = tensor[rows] / by


def _add_bias(module: Any, value: Tensor, rows: Tensor | None = None) -> int:
    """Add to the module's bias, which is made where there is none; returns how many numbers are new."""
    if rows is not None:
        value = value.new_zeros(module.out_features).index_copy(0, rows, value)
    bias = getattr(module, "bias", None)
    if bias is not None:
        bias.add_(value)
        return 0
    if isinstance(module, nn.Linear):
        module.bias = nn.Parameter(value.clone(), requires_grad=module.weight.requires_grad)
        return value.numel()
    if hasattr(module, "folded_bias"):
        module.folded_bias.add_(value)
        return 0
    module.register_buffer("folded_bias", value.clone())  # a norm without bias, as in Llama
    module.register_forward_hook(lambda own, _, out: out + own.folded_bias)
    return value.numel()


def _restore(module: Any, scale: Tensor, shift: Tensor | None, place: int = 1) -> int:
    """An argument of the module, a residual, becomes x' * scale + shift again; returns how many numbers are new."""
    if hasattr(module, "residual_scale"):  # folded before: (x'' * s2 + z2) * s1 + z1
        new = 0
        if shift is not None:
            new = 0 if hasattr(module, "residual_shift") else shift.numel()
            old = getattr(module, "residual_shift", torch.zeros_like(shift))
            module.register_buffer("residual_shift", old + shift * module.residual_scale)
        module.residual_scale = module.residual_scale * scale
        return new
    module.register_buffer("residual_scale", scale.clone())
    if shift is not None:
        module.register_buffer("residual_shift", shift.clone())
    module.register_forward_pre_hook(_undo if place else _undo_first)
    return scale.numel() * (1 if shift is None else 2)


def _undo_first(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (_undo(module, (args[0], args[0]))[1], *args[1:])


def _undo(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    residual = args[1] * module.residual_scale
    if hasattr(module, "residual_shift"):
        residual = residual + module.residual_shift
    return (args[0], residual, *args[2:])
