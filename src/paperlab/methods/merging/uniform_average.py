"""Uniform average: the mean of the models' weights, without regard to where they began.

theta = 1/n sum_i theta_i

Wortsman et al., "Model soups", arXiv 2203.05482, call it the uniform soup.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from paperlab.core.card import Card

CARD = Card(family="merging")


def merge(models: Sequence[Mapping[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Weights by name of each model -> (name, mean over the models), one tensor at a time."""
    for name in models[0]:
        yield name, torch.stack([model[name].float() for model in models]).mean(0)
