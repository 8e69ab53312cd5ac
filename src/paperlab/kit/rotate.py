"""Rotating a model's hidden states without changing its function.

    h' = h Q     residual stream      readers W <- W Q,  writers W <- Q^T W,  b <- Q^T b
    v' = v R     in each head         value's rows <- R^T W_v,  the output projection's columns <- W_o R

An RMS norm commutes with Q once its weight is folded into the layers that read it (SliceGPT, arXiv 2401.15024,
section 3; QuaRot, arXiv 2404.00456, stage 1a; SpinQuant, arXiv 2405.16406). A LayerNorm first becomes an RMS norm: the
mean is taken from what writes to the stream instead (SliceGPT, section 3). The embedding and the output head
stay as they are, often one tied matrix: the stream is rotated after the one and back before the last norm.

Which layers read and write is in the table of `paperlab.kit.layouts`.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from paperlab.kit.fold import norm_offset
from paperlab.kit.layouts import Block, Fed, Pair, above, beside, layout_of, pairs_of, post_norm, table
from paperlab.kit.walk import blocks


def llama_blocks(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The model's blocks by name; raises ValueError unless they are built as Llama's, with RMS norms."""
    stem, stack = blocks(model)
    block: Any
    for block in stack:
        layout = layout_of(block)
        if layout is None or layout.name != "Llama":
            missing = "another layout" if layout is None else f"that of {layout.name}"
            raise ValueError(f"this needs pre-norm blocks built as Llama's; {type(block).__name__} has {missing}")
        norm = block.input_layernorm
        if centres(norm, block.self_attn.q_proj.weight) or norm_offset(norm):
            raise ValueError(f"this needs RMS norms as Llama's; {type(block).__name__} has other norms")
    return ((f"{stem}.{i}", block) for i, block in enumerate(stack))


def rotatable(model: nn.Module) -> list[Block]:
    """The model's blocks. Raises ValueError where their stream cannot be rotated exactly, with the reason."""
    stem, stack = blocks(model)
    made = table(model, stem, stack)
    for block in made:
        why = block.layout.still
        if post_norm(block.layout):
            why = "its norms stand behind the residual sums"
        if not why and any(fed.norm is None for fed in block.fed):
            why = "its branches read the residual stream without a norm"
        if why:
            raise ValueError(
                f"{type(model).__name__} is built as {block.layout.name}: its stream cannot be rotated, as {why}"
            )
    width = made[0].writers[0].out_features
    for module in ends(model)[0]:
        weight = getattr(module, "weight", None)
        if weight is not None and weight.shape[-1] != width:
            raise ValueError(
                f"{type(model).__name__} has an embedding of {weight.shape[-1]} and blocks of {width} channels: what "
                "lies between them is not known here, so its stream cannot be rotated"
            )
    return made


def ends(model: nn.Module) -> tuple[list[Any], Any]:
    """The modules where the residual stream begins, whose outputs are added, and the last norm.

    Raises ValueError where there are none by the names of the table.
    """
    stem, stack = blocks(model)
    around = list(above(model, stem))
    layout = layout_of(stack[0], around)
    assert layout is not None
    body: Any = around[0]
    begin = [beside(around, path) for path in layout.begin.split()]
    if not begin:
        with suppress(AttributeError, NotImplementedError):  # transformers' word for "there is none"
            begin = [body.get_input_embeddings()]
    last = beside(around, layout.end)
    if last is None or not begin or any(module is None for module in begin):
        raise ValueError(
            f"{type(model).__name__} is built as {layout.name}, but has no {layout.begin or 'embedding'} before its "
            f"blocks or no {layout.end} behind them: its stream cannot be rotated"
        )
    return begin, last


@torch.no_grad()
def centres(norm: Any, reader: Tensor) -> bool:
    """Whether a norm takes its input's mean away (LayerNorm), as RMS norms do not. reader: a weight (out, width)."""
    x = torch.linspace(-1, 2, reader.shape[1], dtype=reader.dtype, device=reader.device).square()[None]
    return torch.allclose(norm(x), norm(x + 1), rtol=1e-2, atol=1e-3)


@torch.no_grad()
def fold_norms(model: nn.Module) -> int:
    """Move each block's norm weights into the layers that read them; the weights become 1. In place.

    A LayerNorm is replaced by an RMS norm; its bias and mean move to the readers and writers, and the stream has no
    mean from its beginning. Returns how many numbers the model must store beyond those it had: biases.
    """
    added = 0
    made = rotatable(model)
    centred = any(centres(fed.norm, fed.readers[0].weight) for block in made for fed in block.fed)
    for block in made:
        for fed in block.fed:
            added += _fold(fed)
            if centred:
                model.set_submodule(_name(model, fed.norm), _rms(fed))
        for writer in block.writers if centred else ():
            writer.weight.sub_(writer.weight.mean(0))
            if writer.bias is not None:
                writer.bias.sub_(writer.bias.mean())
    for module in ends(model)[0] if centred else ():
        module.register_forward_hook(lambda _, __, out: out - out.mean(-1, keepdim=True))
    return added


def _fold(fed: Fed) -> int:
    """Move a norm's weight and bias into its readers; returns how many numbers are new."""
    weight: Any = getattr(fed.norm, "weight", None)
    bias: Any = getattr(fed.norm, "bias", None)
    offset = norm_offset(fed.norm)
    if bias is not None and fed.others:
        raise ValueError(f"{fed.name}: its norm has a bias that a router cannot take")
    added = 0
    for layer in fed.readers if bias is not None else ():
        value = layer.weight @ bias
        if layer.bias is None:
            layer.bias = nn.Parameter(value, requires_grad=layer.weight.requires_grad)
            added += value.numel()
        else:
            layer.bias.add_(value)
    if weight is not None:
        for layer in (*fed.readers, *fed.others):
            layer.weight.mul_(weight + offset if offset else weight)
        weight.fill_(1 - offset)
    if bias is not None:
        bias.zero_()
    return added


def _rms(fed: Fed) -> nn.RMSNorm:
    """An RMS norm that does what a LayerNorm without weight and bias does to vectors of mean 0."""
    like = fed.readers[0].weight
    found = [getattr(fed.norm, name) for name in ("eps", "variance_epsilon") if hasattr(fed.norm, name)]
    return nn.RMSNorm(like.shape[1], eps=found[0] if found else 1e-5, elementwise_affine=False)


def _name(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


@torch.no_grad()
def turn_input(layer: Any, rotation: Tensor) -> None:
    """From now on the layer expects x Q in place of x: W <- W Q. rotation: (in, in) orthogonal."""
    layer.weight.copy_((layer.weight.double() @ rotation.double()).to(layer.weight.dtype))


@torch.no_grad()
def turn_output(layer: nn.Linear, rotation: Tensor, rows: Tensor | None = None) -> None:
    """From now on the layer returns y Q in place of y: W <- Q^T W, b <- Q^T b. rotation: (out, out) orthogonal.

    rows: those that are turned, where the layer makes other outputs, too.
    """
    for part in (layer.weight, layer.bias):
        if part is not None and rows is None:
            part.copy_((rotation.double().T @ part.double()).to(part.dtype))
        elif part is not None:
            part[rows] = (rotation.double().T @ part[rows].double()).to(part.dtype)


@torch.no_grad()
def rotate_residual(model: nn.Module, rotation: Tensor) -> None:
    """Rotate the residual stream by Q (width, width), in place. `fold_norms` must have been called.

    The embedding's output is multiplied by Q when the model runs, the last norm's input by Q^T.
    """
    for block in rotatable(model):
        for fed in block.fed:
            if not _plain(fed):
                raise ValueError(
                    f"{block.name}: a norm has a weight that Q does not commute with; call fold_norms first"
                )
            for reader in (*fed.readers, *fed.others):
                turn_input(reader, rotation)
        for writer in block.writers:
            turn_output(writer, rotation)
    begin, last = ends(model)
    dtype = _kept(block.writers[0])
    for module in begin:
        turn_after(module, rotation, dtype)
    turn_before(last, rotation.T, dtype)


def _plain(fed: Fed) -> bool:
    """Whether a norm multiplies by 1 and takes no mean."""
    weight = getattr(fed.norm, "weight", None)
    plain = weight is None or bool((weight + norm_offset(fed.norm) == 1).all())
    return plain and not centres(fed.norm, fed.readers[0].weight)


def rotate_heads(block: nn.Module, rotation: Tensor) -> None:
    """Rotate the values inside each head of a block by R, in place and exactly.

    rotation: (d, d) for all value heads, or (value heads, d, d); query heads that share a value head share R.
    """
    for pair in value_pairs(block):
        size = rotation.shape[-1]
        values = pair.source.out_features if pair.rows is None else len(pair.rows)
        heads = values // size
        each = rotation.expand(heads, size, size)
        turn_output(pair.source, torch.block_diag(*each), pair.rows)
        repeat = pair.reader.in_features // values
        turn_input(pair.reader, torch.block_diag(*each.repeat_interleave(repeat, dim=0)))


def value_pairs(block: nn.Module) -> list[Pair]:
    """Values and the layer that reads their averages, of each attention in a block."""
    return [pair for pair in pairs_of(block) if pair.size]


def rotate_online(layer: nn.Linear, rotation: Tensor) -> None:
    """The layer multiplies its input by Q when it runs, and its weight absorbs Q: W x = (W Q)(Q^T x). In place."""
    turn_input(layer, rotation)
    turn_before(layer, rotation, _kept(layer))


def turn_before(module: nn.Module, rotation: Tensor, dtype: torch.dtype = torch.float32) -> None:
    """The module's first input is multiplied by Q: x -> x Q, each time the model runs. dtype: in which Q is kept."""
    matrix = rotation.detach().to(dtype)
    module.register_forward_pre_hook(lambda _, args: (args[0] @ matrix.to(args[0]), *args[1:]))


def turn_after(module: nn.Module, rotation: Tensor, dtype: torch.dtype = torch.float32) -> None:
    """The module's output is multiplied by Q: y -> y Q, each time the model runs. dtype: in which Q is kept."""
    matrix = rotation.detach().to(dtype)
    module.register_forward_hook(lambda _, __, out: out @ matrix.to(out))


def _kept(layer: nn.Linear) -> torch.dtype:
    """In which a model's rotations are kept: float32, but for models in double precision."""
    return torch.promote_types(layer.weight.dtype, torch.float32)
