"""PCA: after ordinary training, turn embeddings so that the first coordinates hold most of their variance.

The embeddings of the training texts, scaled to unit length and centred, are turned onto their principal axes, the
largest first (Hotelling 1933); a shorter embedding is the first coordinates. Training is that of the plain loss.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.embedding import in_batch

CARD = Card(family="elastic", verbs=("loss", "project"))


def loss(queries: Tensor, documents: Tensor) -> Tensor:
    """(n, width) of queries and of their documents -> a scalar, in nats: InfoNCE over the batch."""
    return in_batch(queries, documents)


class Axes(nn.Module):
    """(n, width) -> (n, width): unit length, centred, turned."""

    mean: Tensor
    axes: Tensor

    def __init__(self, mean: Tensor, axes: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Coordinates along the axes, the widest first."""
        return (F.normalize(embeddings, dim=-1) - self.mean) @ self.axes


def project(embeddings: Tensor, *, centre: bool = True) -> nn.Module:
    """(n, width) embeddings of training texts -> the turn. centre: subtract their mean, else only turn."""
    unit = F.normalize(embeddings.double(), dim=-1)
    mean = unit.mean(0) if centre else torch.zeros_like(unit[0])
    spread = (unit - mean).T @ (unit - mean)
    axes = torch.linalg.eigh(spread).eigenvectors.flip(1)
    return Axes(mean.to(embeddings.dtype), axes.to(embeddings.dtype))
