"""Magnitude pruning: the smallest weights go; the trivial baseline of every pruning method.

    keep the largest |w|   among all weights of the blocks (global), of a layer, or of a row

Needs no data. "layer" is what papers on language models mean by it: each matrix loses the same share.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.masks import keep_highest
from paperlab.kit.matrix import Dense, Matrix, Sparse
from paperlab.kit.walk import block_linears

CARD = Card(
    family="pruning",
    sources=("code",),
    departs=(
        "exactly floor(n * sparsity) weights go, the first of equal ones; the threshold in Wanda's authors' code takes "
        "one more, and all that equal it",
    ),
)


def transform(
    model: nn.Module,
    *,
    sparsity: float = 0.5,
    scope: Literal["global", "layer", "row"] = "layer",
    pattern: str | None = None,
) -> Compressed:
    """Remove the share `sparsity` of the weights in the blocks' linear layers, by magnitude.

    scope: among which weights they are compared. pattern: "N:M" keeps the N largest of every M neighbours of a row,
    whatever the scope; its share must be that of `sparsity`.
    """
    total = count_weights(model)
    layers = block_linears(model)
    scores = {name: layer.weight.detach().float().abs() for name, layer in layers.items()}
    stored: dict[str, Matrix] = {}
    for name, mask in _masks(scores, sparsity, scope, pattern).items():
        weight = layers[name].weight
        stored[name] = Sparse(mask, Dense(weight.detach().clone()))
        with torch.no_grad():
            weight.mul_(mask)
    return Compressed(model, stored, total)


def _masks(scores: dict[str, Tensor], sparsity: float, scope: str, pattern: str | None) -> dict[str, Tensor]:
    """A bool mask of each layer's shape."""
    if pattern or scope == "row":
        return {name: keep_highest(score, sparsity=sparsity, pattern=pattern) for name, score in scores.items()}
    if scope == "layer":
        return {
            name: keep_highest(score.reshape(1, -1), sparsity=sparsity).reshape(score.shape)
            for name, score in scores.items()
        }
    together = torch.cat([score.flatten() for score in scores.values()])
    parts = keep_highest(together[None], sparsity=sparsity)[0].split([score.numel() for score in scores.values()])
    return {name: part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)}
