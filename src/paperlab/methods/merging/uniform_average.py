"""Uniform average: the mean of the models' weights, without regard to where they began.

theta = sum_i w_i theta_i / sum_i w_i        (w_i = 1: the uniform soup)

Wortsman et al., "Model soups", arXiv 2203.05482.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from paperlab.core.card import Card
from paperlab.kit.merging import added, weights_of

CARD = Card(family="merging")


def merge(models: Sequence[Mapping[str, Tensor]], *, weights: str = "") -> Iterator[tuple[str, Tensor]]:
    """Weights by name of each model -> (name, mean over the models), one tensor at a time.

    weights: w_i, one for each model as "0.7,0.3"; empty: 1 for each. Raises ValueError for another number of them, or
    for weights whose sum is 0.
    """
    shares = weights_of(weights, len(models))
    total = sum(shares)
    if total == 0:
        raise ValueError(f"weights={weights!r} have the sum 0: a mean needs another one")
    for name in models[0]:
        yield name, added((model[name].to(torch.float32, copy=True) for model in models), shares).div_(total)
