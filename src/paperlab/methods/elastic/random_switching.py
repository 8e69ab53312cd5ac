"""Random switching: each token is written by the large model with the same probability, whatever the text is.

It is what a rule that chooses places is compared with: as many tokens of the large model, placed by a coin.
"""

import torch
from torch import Tensor

from paperlab.core.card import Card

CARD = Card(family="elastic")


def switch(large: Tensor, seed: int, *, share: float = 0.5) -> Tensor:
    """large (batch, time): who wrote so far -> (batch,) bool. share: the probability, 0 (the small model alone) to 1
    (the large one alone)."""
    if not 0 <= share <= 1:
        raise ValueError(f"share={share} is the probability of the large model: give 0 to 1")
    rows, time = large.shape
    coins = torch.rand(rows, generator=torch.Generator().manual_seed(seed * 1_000_003 + time))  # new ones each time
    return coins.to(large.device) < share
