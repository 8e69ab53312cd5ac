"""Uniform widths: every layer is narrowed by the same factor; no search. With the largest factor, the whole network.

With `layers`, those behind the first few are removed.
"""

from collections.abc import Callable

from paperlab.core.card import Card
from paperlab.kit.searching import Choice, Space

CARD = Card(family="distillation")


def architecture(
    space: Space, evaluate: Callable[[Choice], float], *, compression: float = 0.0, layers: int | None = None
) -> tuple[float, ...]:  # fmt: skip
    """The widest choice with one factor for all layers that leaves out at least this share of the parameters, or the
    narrowest where none does. compression: 0 to 1; 0 is the whole network. layers: hidden layers that stay, 1 or more;
    all unless given."""
    if not 0 <= compression < 1:
        raise ValueError(f"compression={compression} is the share of parameters to leave out: give 0 to 1")
    depth = len(space.widths)
    kept = depth if layers is None else layers
    if not 1 <= kept <= depth:
        raise ValueError(f"layers={layers}: the network has {depth} hidden layers, of which one or more stay")
    choices = [(factor,) * kept + (0.0,) * (depth - kept) for factor in sorted(space.factors, reverse=True)]
    enough = [choice for choice in choices if space.compression(choice) >= compression]
    chosen = enough[0] if enough else choices[-1]
    evaluate(chosen)
    return chosen
