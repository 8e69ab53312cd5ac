"""Random rotation: turn the hidden states by a random Hadamard matrix so that no channel stands out, then round.

    h' = h Q,  Q = diag(random signs) H / sqrt(n)      fused into the layers around the residual stream
    v' = v R   in each head, fused;   x' = x H   before the last layer of the MLP, computed when the model runs

Ashkboos et al., QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs, arXiv 2404.00456, section 4 (stages 1a-1c);
incoherence by random Hadamard matrices: Chee et al., QuIP, arXiv 2307.13304; Tseng et al., QuIP#, arXiv 2402.04396.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.activations import per_token, round_input
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.orthogonal import random_hadamard, random_orthogonal
from paperlab.kit.rotate import fold_norms, llama_blocks, rotate_heads, rotate_online, rotate_residual
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
    """Rotate a Llama-like model, then round its weights, and its layers' inputs per token where act_bits < 16.

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

    blocks = [block for _, block in llama_blocks(model)]
    width, middle = blocks[0].mlp.down_proj.weight.shape
    residual, inner, heads = draw(width), draw(middle), draw(blocks[0].self_attn.head_dim)
    fold_norms(model)
    rotate_residual(model, residual)
    for block in blocks:
        rotate_heads(block, heads)
        rotate_online(block.mlp.down_proj, inner)
    return width + middle if kind == "hadamard" else 32 * (width**2 + middle**2)
