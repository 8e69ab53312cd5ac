"""2D Matryoshka sentence embeddings: train a random layer and a random size beside the whole embedding, every step.

    n drawn from 1 ... N - 1,    d drawn from 8, 16, 32 ... below the width D
    L(z_N) + L(z_n) + T^2 KL(softmax(z_N / T) || softmax(z_n / T)) + L(z_N[:d]) + L(z_n[:d])

Li, Li, Li, Xie and Li, arXiv 2402.14776 (v1; v2 is another method, called ESE); written from the abstract and the
authors' code, SeanLee97/AnglE@74e5ba2 (`AngleTDMSETrainer`), whose T is 1 and whose KL is over the coordinates of an
embedding, with a slope through both layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.embedding import doubling, in_batch, sizes_from

CARD = Card(
    family="elastic",
    paper="2d-matryoshka-sentence-embeddings",
    sources=("code", "abstract"),
    configuration="angle-trainer --apply_tdmse 1, all other 2DMSE options at their defaults",
    task="embed",
    expect="higher",
    margin=0.02,
    method=Arm("2d-matryoshka-sentence-embeddings"),
    baseline=Arm("matryoshka-representation-learning"),
    gap="BERT trained whole on sentence pairs with labels and judged by similarity; here a path of six small blocks "
    "beside a frozen MiniLM, trained on a few thousand pairs and judged by search. The frozen layers do not learn to "
    "serve early exits, only the path does. A pass says nothing about time saved, nor about a network trained whole.",
    checks=(
        Check(
            claim="early-layer-better-than-sizes-alone",
            says="Embeddings of the third of six layers find more than those of a model that was trained for nested "
            "sizes on the last layer alone (paper: more flexible and efficient than MRL).",
            metric="mrr_layer_3",
            equal={"steps": 0.0, "pairs": 0.0},
            beside=(Arm("truncation"),),
        ),
        Check(
            claim="early-and-short-better-than-sizes-alone",
            says="So do the first 32 coordinates of the second layer.",
            metric="mrr_layer_2_32",
            equal={"steps": 0.0, "pairs": 0.0},
            beside=(Arm("truncation"),),
        ),
        Check(
            claim="last-layer-no-worse-than-sizes-alone",
            says="The last layer, as a mean over all sizes, finds no less than after training for nested sizes alone.",
            metric="mrr_sizes",
            equal={"steps": 0.0, "pairs": 0.0},
            expect="no worse",
            trivial=Arm("truncation"),
        ),
        Check(
            claim="early-layer-against-untrained",
            says="Does the third layer find more than the encoder's own third layer, untrained?",
            metric="mrr_layer_3",
            baseline=Arm("truncation"),
            role="question",
        ),
        Check(
            claim="early-layer-against-training-it-alone",
            says="Does the third layer find no less than a model that was trained at the third layer alone?",
            metric="mrr_layer_3",
            equal={"steps": 0.0, "pairs": 0.0},
            expect="no worse",
            baseline=Arm("fixed-size", layer=3),
            trivial=Arm("truncation"),
            role="question",
        ),
        Check(
            claim="alignment-helps-the-early-layer",
            says="Does the KL term between the drawn layer and the last help the third layer?",
            metric="mrr_layer_3",
            equal={"steps": 0.0, "pairs": 0.0},
            baseline=Arm("2d-matryoshka-sentence-embeddings", align=False),
            role="question",
        ),
    ),
    departs=(
        "the encoder is frozen; what is trained is a path beside it that reads its layers",
        "the loss L is that of a batch of pairs (InfoNCE); the authors' is the AnglE loss of labelled pairs: cosine, "
        "in-batch negatives and angle together",
        "the draws come from torch's generator",
        "the untrained encoder was the trivial arm of the first two checks, and a first run was not comparable: at "
        "early layers it is ahead of training the last one alone (+13 %). It stands beside them now, and a question "
        "compares with it",
    ),
)


def loss(
    query_layers: Tensor,
    document_layers: Tensor,
    *,
    sizes: str = "",
    sizes_per_step: int = 1,
    align: bool = True,
    temperature: float = 1.0,
    scale: float = 20.0,
) -> Tensor:
    """(layers, n, width) of queries and of their documents -> a scalar, in nats.

    sizes: what is drawn from, rising, with commas; nothing: doubled from 8, below the width. sizes_per_step: how many
    are drawn each time; 0 takes all. align: the KL term. temperature: its T, above 0. scale: of the cosines.
    """
    count, _, width = query_layers.shape
    if count < 2:
        raise ValueError("this loss looks at several layers: give embeddings (layers, n, width)")
    if temperature <= 0 or sizes_per_step < 0:
        raise ValueError(f"{temperature=}, {sizes_per_step=}: give a temperature above 0 and a count from 0")
    known = sizes_from(sizes, width) if sizes.strip() else doubling(width)[:-1]
    early = int(torch.randint(count - 1, ()))
    drawn = torch.randperm(len(known))[: sizes_per_step or None].tolist()
    layers = [(query_layers[n], document_layers[n]) for n in (-1, early)]
    total = torch.stack([in_batch(q, d, scale) for q, d in layers]).sum()
    for size in (known[i] for i in drawn):
        total = total + torch.stack([in_batch(q[:, :size], d[:, :size], scale) for q, d in layers]).sum()
    if align:
        last, other = (torch.cat(pair) / temperature for pair in layers)
        divergence = F.kl_div(other.log_softmax(-1), last.softmax(-1), reduction="batchmean")
        total = total + temperature**2 * divergence
    return total
