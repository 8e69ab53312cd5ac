"""Random search over smaller networks: each layer but the first is removed by the toss of a coin, the rest is narrowed.

What any search for a network must beat with the same number of networks tried.
"""

import random
from collections.abc import Callable

from paperlab.core.card import Card
from paperlab.kit.searching import Choice, Space

CARD = Card(family="distillation")


def architecture(space: Space, evaluate: Callable[[Choice], float], budget: int, seed: int) -> tuple[float, ...]:
    """The best of `budget` choices, each drawn alike."""
    draw, found = random.Random(seed), dict[Choice, float]()
    for _ in range(budget):
        choice = tuple(draw.choice(space.factors) * (n == 0 or draw.random() < 0.5) for n in range(len(space.widths)))
        found[choice] = evaluate(choice)
    return max(found, key=lambda choice: found[choice])
