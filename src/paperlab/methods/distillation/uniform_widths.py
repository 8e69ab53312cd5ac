"""Uniform widths: every layer is narrowed by the same factor; no search. With the largest factor, the whole network."""

from collections.abc import Callable

from paperlab.core.card import Card
from paperlab.kit.searching import Choice, Space

CARD = Card(family="distillation")


def architecture(space: Space, evaluate: Callable[[Choice], float], *, compression: float = 0.0) -> tuple[float, ...]:
    """The widest choice with one factor for all layers that leaves out at least this share of the parameters, or the
    narrowest where none does. compression: 0 to 1; 0 is the whole network."""
    if not 0 <= compression < 1:
        raise ValueError(f"compression={compression} is the share of parameters to leave out: give 0 to 1")
    choices = [(factor,) * len(space.widths) for factor in sorted(space.factors, reverse=True)]
    enough = [choice for choice in choices if space.compression(choice) >= compression]
    chosen = enough[0] if enough else choices[-1]
    evaluate(chosen)
    return chosen
