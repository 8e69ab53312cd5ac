"""The learning rate of an arm: each arm of a check tries the same ones, and keeps the one that does best on validation
data."""

from collections.abc import Callable, Sequence
from typing import Any

from paperlab.lab.drivers._common import Progress, silent


def best_rate(rates: Sequence[float], figure: Callable[[float], float], progress: Progress = silent) -> dict[str, Any]:
    """{"rate": the learning rate whose figure on validation data is highest, "validation": figure by rate}.

    figure: trains an arm at a rate, and says how good it is; not called where there is one rate, whose figure is 0. A
    tie goes to the smaller rate, and a figure that is no number loses to any that is one. Raises ValueError where there
    is no rate.
    """
    if not rates:
        raise ValueError("the setting names no learning rate")
    scores: dict[float, float] = {}
    for done, rate in enumerate(rates, 1):
        scores[rate] = figure(rate) if len(rates) > 1 else 0.0
        progress("learning rates", done, len(rates))
    best = max(sorted(scores), key=lambda rate: (scores[rate] == scores[rate], scores[rate], -rate))
    return {"rate": best, "validation": {str(rate): value for rate, value in scores.items()}}
