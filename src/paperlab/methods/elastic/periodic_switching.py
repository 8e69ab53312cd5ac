"""Periodic switching: the large model writes at fixed places, evenly spread, whatever the text is.

Token t is the large model's where the whole part of share * t grows: with a share of one half, every second.
"""

import math

import torch
from torch import Tensor

from paperlab.core.card import Card

CARD = Card(family="elastic")


def switch(large: Tensor, *, share: float = 0.5) -> Tensor:
    """large (batch, time): who wrote so far -> (batch,) bool, the same for all rows. share: of the tokens, 0 to 1."""
    if not 0 <= share <= 1:
        raise ValueError(f"share={share} is the part of the tokens that the large model writes: give 0 to 1")
    rows, time = large.shape
    now = math.floor((time + 1) * share) > math.floor(time * share)
    return torch.full((rows,), now, device=large.device)
