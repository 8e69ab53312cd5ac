"""Matryoshka representation learning: apply the training loss to several prefixes of one embedding at once.

    sum over m in M of  c_m L(W_m z[:m], y)      M = 8, 16, 32 ... and the full width, c_m = 1            (eq. 1)

    MRL     a classifier W_m for each size          MRL-E   one classifier, of which W_m is the first m columns
    pairs   the loss of the pair of prefixes, each scaled to unit length

Kusupati et al., arXiv 2205.13147; written from the abstract and the authors' code, RAIVNLab/MRL@7ccb42d (`MRL.py`,
`train/train_imagenet.py`). The form for pairs is sentence-transformers' MatryoshkaLoss over
MultipleNegativesRankingLoss, with the same value and slope.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.embedding import in_batch, sizes_from

CARD = Card(
    family="elastic",
    paper="matryoshka-representation-learning",
    verbs=("loss", "classifiers"),
    sources=("code", "abstract"),
    configuration="train/train_imagenet.py --model.mrl=1 with train/rn50_configs/rn50_40_epochs.yaml",
    task="embed_classify",
    margin=0.02,
    method=Arm("matryoshka-representation-learning"),
    gap="ResNet-50 trained whole on ImageNet-1K, 1,000 classes and 2,048 coordinates; here a path of six small blocks "
    "beside a frozen MiniLM, 42 classes of questions or a few thousand pairs, and 384 coordinates. A pass says nothing "
    "about a network that is trained whole, about images, or about the 14-fold savings that the paper claims.",
    checks=(
        Check(
            claim="as-accurate-as-separate-training-at-8",
            says="The first 8 coordinates of the nested embedding classify no worse than an embedding trained with 8 "
            "alone (paper: at least as accurate as independently trained low-dimensional representations).",
            metric="accuracy_8",
            expect="no worse",
            baseline=Arm("fixed-size", dims=8),
            trivial=Arm("truncation"),
            equal={"steps": 0.0, "texts": 0.0},
        ),
        Check(
            claim="as-accurate-as-full-size-training",
            says="All coordinates of the nested embedding classify no worse than one that was trained at full size "
            "alone (paper: no cost at the full size).",
            metric="accuracy",
            expect="no worse",
            baseline=Arm("fixed-size"),
            trivial=Arm("truncation"),
            equal={"steps": 0.0, "texts": 0.0},
        ),
        Check(
            claim="short-vectors-find-more-than-truncated-ones",
            says="In search, the first 32 coordinates of the nested embedding find more than those of an ordinary one, "
            "whose information is spread over all coordinates (paper: nested ones are learnt coarse to fine; it has "
            "a contrastive model too, ALIGN).",
            task="embed",
            metric="mrr_32",
            expect="higher",
            baseline=Arm("fixed-size"),
            beside=(Arm("truncation"),),
            equal={"steps": 0.0, "pairs": 0.0},
        ),
        Check(
            claim="short-vectors-against-pca",
            says="Do the first 32 coordinates of the nested embedding find more than 32 principal components of an "
            "ordinary one?",
            task="embed",
            metric="mrr_32",
            expect="higher",
            baseline=Arm("pca-projection"),
            equal={"steps": 0.0, "pairs": 0.0},
            role="question",
        ),
        Check(
            claim="short-vectors-against-separate-training",
            says="In search, are the first 32 coordinates of the nested embedding no worse than an embedding that was "
            "trained with 32 alone?",
            task="embed",
            metric="mrr_32",
            expect="no worse",
            baseline=Arm("fixed-size", dims=32),
            trivial=Arm("fixed-size"),
            equal={"steps": 0.0, "pairs": 0.0},
            role="question",
        ),
        Check(
            claim="one-classifier-for-all-sizes-at-8",
            says="Is MRL-E, with one classifier for all sizes, no worse than MRL at 8 coordinates?",
            metric="accuracy_8",
            expect="no worse",
            method=Arm("matryoshka-representation-learning", efficient=True),
            baseline=Arm("matryoshka-representation-learning"),
            trivial=Arm("truncation"),
            equal={"steps": 0.0, "texts": 0.0},
            role="question",
        ),
    ),
    departs=(
        "the encoder is frozen; what is trained is a path beside it. The authors train the whole network",
        "AdamW, a rate chosen on validation data and no label smoothing; the authors train with SGD, a fixed schedule "
        "and smoothing 0.1",
        "sizes are doubled from 8 up to 256 and then the full width, which need not be a power of two",
        "the separately trained embedding has the same path, of which only the first coordinates meet the loss, as the "
        "authors' FixedFeatureLayer has it",
    ),
)


def loss(queries: Tensor, documents: Tensor, *, sizes: str = "", scale: float = 20.0) -> Tensor:
    """(n, width) of queries and of their documents -> a scalar, in nats: the sum over the sizes.

    sizes: rising, with commas; nothing: doubled from 8 up to the width. scale: of the cosines.
    """
    found = sizes_from(sizes, queries.shape[-1])
    return torch.stack([in_batch(queries[:, :m], documents[:, :m], scale) for m in found]).sum()


class Nested(nn.Module):
    """(n, width) -> logits (n, classes) by size. A classifier for each size, or one whose first columns serve."""

    def __init__(self, width: int, classes: int, sizes: tuple[int, ...], efficient: bool) -> None:
        super().__init__()
        self.sizes = sizes
        self.layers = nn.ModuleList(nn.Linear(m, classes) for m in (sizes[-1:] if efficient else sizes))

    def forward(self, embeddings: Tensor) -> dict[int, Tensor]:
        """Logits by number of coordinates."""
        layers = list(self.layers) * (len(self.sizes) // len(self.layers))
        return {
            m: F.linear(embeddings[:, :m], layer.get_parameter("weight")[:, :m], layer.get_parameter("bias"))
            for m, layer in zip(self.sizes, layers, strict=True)
        }


def classifiers(width: int, classes: int, *, sizes: str = "", efficient: bool = False) -> nn.Module:
    """(n, width) embeddings -> {size: logits (n, classes)}; minimise the sum of their cross-entropies.

    sizes: as of the loss. efficient: MRL-E, one classifier for all sizes.
    """
    return Nested(width, classes, sizes_from(sizes, width), efficient)
