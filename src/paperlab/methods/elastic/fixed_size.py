"""Fixed size: an embedding trained for one size and one layer alone, which every nested embedding is compared with.

    pairs     -log softmax over the batch of scale cos(q[:d], document[:d]), the query's own document being right
    classes   one linear classifier over the first d coordinates

The loss is InfoNCE (van den Oord, Li and Vinyals, arXiv 1807.03748), known as multiple negatives ranking loss; its
value and slope are those of sentence-transformers' MultipleNegativesRankingLoss. With d smaller than the width it is
the fixed feature baseline of 2205.13147, whose code looks at the first d coordinates as well.
"""

import torch
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.embedding import in_batch

CARD = Card(family="elastic", verbs=("loss", "classifiers", "head"))


def loss(
    query_layers: Tensor,
    document_layers: Tensor,
    *,
    dims: int = 0,
    layer: int = 0,
    scale: float = 20.0,
    symmetric: bool = False,
) -> Tensor:
    """(layers, n, width) of queries and of their documents -> a scalar, in nats.

    dims: number of coordinates, from the first; 0 all. layer: from 1; 0 the last. scale: of the cosines, above 0.
    symmetric: the mean of finding documents by queries and queries by documents, as CLIP has it.
    """
    if not 0 <= dims <= query_layers.shape[-1] or not 0 <= layer <= len(query_layers):
        raise ValueError(f"dims={dims}, layer={layer} of embeddings {tuple(query_layers.shape)}: give what is there")
    queries, documents = (one[layer - 1][:, : dims or None] for one in (query_layers, document_layers))
    value = in_batch(queries, documents, scale)
    return (value + in_batch(documents, queries, scale)) / 2 if symmetric else value


class First(nn.Module):
    """A linear classifier over the first coordinates: (n, width) -> {number of coordinates: (n, classes)}."""

    def __init__(self, width: int, classes: int, dims: int) -> None:
        super().__init__()
        if not 0 <= dims <= width:
            raise ValueError(f"dims={dims} of embeddings with {width} coordinates: give 1 to {width}, or 0 for all")
        self.layer = nn.Linear(dims or width, classes)

    def forward(self, embeddings: Tensor) -> dict[int, Tensor]:
        """Logits by number of coordinates."""
        size = self.layer.in_features
        return {size: self.layer(embeddings[:, :size])}


def classifiers(width: int, classes: int, *, dims: int = 0) -> nn.Module:
    """(n, width) embeddings -> {dims: logits (n, classes)}. dims: as of the loss."""
    return First(width, classes, dims)


def head(width: int, *, projection: bool = False) -> nn.Module:
    """What an embedding goes through at its layer. projection: a linear map that begins as the identity; else none."""
    if not projection:
        return nn.Identity()
    layer = nn.Linear(width, width, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(width))
    return layer
