"""Wanda: prune the weights that meet little input, without retraining and without touching those that stay.

    score[o, i] = |W[o, i]| * ||x_i||_2        compared within each output row o

A small weight on a loud input matters more than a middling one on a silent input. Sun et al., A Simple and
Effective Pruning Approach for Large Language Models, arXiv 2306.11695; github.com/locuslab/wanda at 8e8fc87.
Its checks are in `pruning_controls`.
"""

from typing import Literal

import torch
from torch import Tensor

from paperlab.core.card import Card
from paperlab.kit.masks import keep_highest

CARD = Card(
    family="pruning",
    sources=("abstract", "code"),
    departs=(
        "the authors' variant that seeks a share of each row's summed scores (use_variant) is left out",
        "N:M keeps N of M; their code removes N of M and is run at 2:4 and 4:8, where the two are the same",
        "norms are over all tokens together; theirs are divided by the number of sequences, which no order notices",
        "calibration windows are those of the task, shorter and fewer than their 128 of the model's full length",
    ),
)


def keep(
    weight: Tensor,
    input_norm: Tensor,
    *,
    sparsity: float = 0.5,
    pattern: str | None = None,
    norms: Literal["own", "equal", "shuffled"] = "own",
) -> Tensor:
    """weight (out, in), input_norm (in,) -> bool mask (out, in) of the weights to keep.

    sparsity: share of each row that goes. pattern: "N:M" keeps N of every M neighbours; its share must be that of
    `sparsity`. norms: "own" is Wanda; "equal" ignores the inputs and "shuffled" hands each column another's norm, to
    show what the norms are worth.
    """
    if norms == "equal":
        input_norm = torch.ones_like(input_norm)
    elif norms == "shuffled":
        input_norm = input_norm[torch.randperm(len(input_norm))]
    return keep_highest(weight.abs() * input_norm, sparsity=sparsity, pattern=pattern)
