"""Random rotation: turn the hidden states by a random Hadamard matrix so that no channel stands out, then round.

    h' = h Q,  Q = diag(random signs) H / sqrt(n)      fused into the layers around the residual stream
    v' = v R   in each head, fused;   x' = x H   before the last layer of the MLP, computed when the model runs

Ashkboos et al., QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs, arXiv 2404.00456, section 4 (stages 1a-1c);
in models with LayerNorm the mean moves to what writes to the stream first (SliceGPT, arXiv 2401.15024, section 3);
incoherence by random Hadamard matrices: Chee et al., QuIP, arXiv 2307.13304; Tseng et al., QuIP#, arXiv 2402.04396.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.activations import per_token, round_input
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.layouts import Block
from paperlab.kit.orthogonal import random_hadamard, random_orthogonal
from paperlab.kit.rotate import fold_norms, rotatable, rotate_heads, rotate_online, rotate_residual, value_pairs
from paperlab.kit.rounding import round_blocks
from paperlab.kit.walk import Batch, block_linears

CARD = Card(
    family="quantization",
    departs=(
        "the embedding and the head stay as they are, often tied: the stream turns after it and back before the head",
        "values turn within heads only, not across them; keys, queries and the cache are neither turned nor rounded",
        "inputs are rounded over the whole range of a token, without the paper's clipping to 0.9 of it",
    ),
)


def transform(
    model: nn.Module,
    calibration: list[Batch],
    seed: int,
    *,
    weight_bits: int = 4,
    act_bits: int = 16,
    group: int | None = None,
    symmetric: bool = False,
    rounding: Literal["nearest", "gptq"] = "nearest",
    rotation: Literal["hadamard", "orthogonal", "none"] = "hadamard",
) -> Compressed:
    """Rotate a pre-norm model, then round its weights, and its layers' inputs per token where act_bits < 16.

    rotation: Hadamard where the width has such a matrix (576 and 1536 have), dense orthogonal, or none.
    rounding: to nearest, or by GPTQ on the rotated inputs.
    """
    if rotation not in ("hadamard", "orthogonal", "none"):
        raise ValueError(f"rotation={rotation!r} is hadamard, orthogonal or none")
    count = count_weights(model)
    bits = rotate(model, seed, rotation) if rotation != "none" else 0
    layers = round_blocks(model, calibration, rounding, bits=weight_bits, group=group, symmetric=symmetric)
    if act_bits < 16:  # after the calibration, which sees exact inputs
        for layer in block_linears(model).values():
            round_input(layer, lambda x: per_token(x, bits=act_bits))
    return Compressed(model, layers, count, added={"rotation": bits})


def rotate(model: nn.Module, seed: int, kind: Literal["hadamard", "orthogonal"]) -> int:
    """Turn residual stream, values and MLP inputs of the model in place; returns the bits that this stores.

    Only what the model multiplies by at run time is stored: signs for a Hadamard matrix, float32 entries else.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(width: int) -> Tensor:
        return random_hadamard(width, generator) if kind == "hadamard" else random_orthogonal(width, generator)

    named = [(model.get_submodule(block.name), _last(block)) for block in rotatable(model)]
    width = named[0][1][0].out_features
    residual, inner, heads = draw(width), _Draws(draw), _Draws(draw)
    for block, last in named:  # drawn first, in this order
        for layer in last:
            inner(layer.in_features)
        for pair in value_pairs(block):
            heads(pair.size)
    biases = fold_norms(model)
    rotate_residual(model, residual)
    for block, last in named:
        for size in {pair.size for pair in value_pairs(block)}:
            rotate_heads(block, heads(size))
        for layer in last:
            rotate_online(layer, inner(layer.in_features))
    sizes = [width, *inner.made]
    return 16 * biases + (sum(sizes) if kind == "hadamard" else 32 * sum(size**2 for size in sizes))


class _Draws:
    """One matrix for each width, drawn when it is first asked for."""

    def __init__(self, draw: Callable[[int], Tensor]) -> None:
        self.draw, self.made = draw, dict[int, Tensor]()

    def __call__(self, width: int) -> Tensor:
        if width not in self.made:
            self.made[width] = self.draw(width)
        return self.made[width]


def _last(block: Block) -> list[nn.Linear]:
    """The layers that write to the stream what is no average of values: those whose inputs are turned at run time."""
    values = [pair.reader for pair in block.pairs if pair.size]
    return [layer for layer in block.writers if not any(layer is reader for reader in values)]
