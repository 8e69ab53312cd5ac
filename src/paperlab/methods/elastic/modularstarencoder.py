"""ModularStarEncoder: train several exits of one encoder together, the deeper ones weighted more.

    sum over exits i of  (i / N) CLIP(head_i(z_i))        exits 4, 9, 18, 27, 36 of N = 36 layers, a head for each

    CLIP: the mean of finding documents by queries and queries by documents, scores being `scale` times cosines

Gurioli, Pennino, Monteiro and Gabbrielli, arXiv 2503.03008. Only the abstract and the authors' model card
(modularStarEncoder/ModularStarEncoder-finetuned) could be read. The weights, the scale of 10 and the heads are taken
from a summary of the paper by others; the exits and the CLIP loss stand in the model card.
"""

import torch
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.embedding import in_batch, sizes_from

CARD = Card(
    family="elastic",
    paper="modularstarencoder",
    verbs=("loss", "head"),
    sources=("abstract",),
    task="embed",
    expect="higher",
    margin=0.02,
    method=Arm("modularstarencoder"),
    equal={"steps": 0.0, "pairs": 0.0},
    gap="A 1B encoder of 36 layers, pre-trained with its exits on a trillion tokens of code and tuned whole on a "
    "million pairs in eight languages; here a path of six small blocks beside a frozen MiniLM, two thousand pairs in "
    "Python, retrieval tuning only. Frozen layers are not taught by those above, only the path is. The repository "
    "loss, translated code and the cost of pre-training are not tested.",
    checks=(
        Check(
            claim="early-exit-better-than-trained-alone",
            says="The second of six layers, trained with the exits above it, puts more functions first than when it is "
            "trained alone (paper: self-distillation raises the recall of early exits).",
            metric="recall_1_layer_2",
            beside=(Arm("truncation"),),
            baseline=Arm("fixed-size", layer=2, symmetric=True, scale=10.0, projection=True),
        ),
        Check(
            claim="early-exit-better-than-last-layer-training",
            says="Does the third of six layers find more than after training the last layer alone?",
            metric="mrr_layer_3",
            beside=(Arm("truncation"),),
            baseline=Arm("fixed-size", symmetric=True, scale=10.0, projection=True),
            role="question",
        ),
        Check(
            claim="last-exit-no-worse",
            says="Does the last layer find no less than after training it alone?",
            metric="mrr",
            expect="no worse",
            trivial=Arm("truncation"),
            baseline=Arm("fixed-size", symmetric=True, scale=10.0, projection=True),
            role="question",
        ),
    ),
    departs=(
        "written without the paper's text: see the docstring",
        "the encoder is frozen and was not pre-trained with exits; what is trained is a path beside it",
        "a head is a linear map that begins as the identity",
        "no instruction precedes queries or code; the authors' model is given one for each",
        "no words are replaced at random in the code",
    ),
)

EXITS = (4 / 36, 9 / 36, 18 / 36, 27 / 36, 1.0)  # depths of the authors' exits


def exits_of(layers: int) -> tuple[int, ...]:
    """The layers nearest to the authors' depths, the deeper of two that are as near: 1, 2, 3, 5, 6 of six."""
    return tuple(sorted({max(int(share * layers + 0.5), 1) for share in EXITS}))


def loss(query_layers: Tensor, document_layers: Tensor, *, exits: str = "", scale: float = 10.0) -> Tensor:
    """(layers, n, width) of queries and of their documents -> a scalar, in nats.

    exits: layers from 1, rising, with commas; nothing: the authors' depths. scale: of the cosines, above 0.
    """
    count = len(query_layers)
    if count < 2:
        raise ValueError("this loss looks at several layers: give embeddings (layers, n, width)")
    terms = []
    for layer in sizes_from(exits, count) if exits.strip() else exits_of(count):
        queries, documents = query_layers[layer - 1], document_layers[layer - 1]
        clip = (in_batch(queries, documents, scale) + in_batch(documents, queries, scale)) / 2
        terms.append(layer / count * clip)
    return torch.stack(terms).sum()


def head(width: int) -> nn.Module:
    """(n, width) -> (n, width): an exit's own linear map, the identity at first."""
    layer = nn.Linear(width, width, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(width))
    return layer
