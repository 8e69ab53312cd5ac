"""Training from random weights: the shape of the model that is given, nothing of what it learned.

The baseline of every claim that compressing a trained model is cheaper than training a small one: it may read
`multiple` times as many tokens.
"""

from typing import Any

from torch import nn

from paperlab.core.card import Card
from paperlab.kit.tuning import Setting, Tuned, cross_entropy, fit

CARD = Card(family="distillation")


def recipe(model: nn.Module, setting: Setting, seed: int, rate: float, *, multiple: int = 1) -> Tuned:
    """A model of the same class and configuration, its weights drawn anew, trained with cross-entropy for `multiple`
    times the setting's steps.

    Raises ValueError for a model whose configuration does not give its shape, and for a multiple below 1.
    """
    if multiple < 1:
        raise ValueError(f"multiple={multiple}: give a whole number of at least 1, times the steps of the others")
    config: Any = getattr(model, "config", None)
    if config is None:
        raise ValueError(f"{type(model).__name__} has no configuration to build another one from")
    fresh = type(model)(config)
    shapes = [{name: tensor.shape for name, tensor in one.named_parameters()} for one in (model, fresh)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{type(model).__name__} has another shape than its configuration says")
    steps, trained = fit(
        fresh, setting, cross_entropy, rate=rate, seed=seed, asks=("student", "labels"), steps=multiple * setting.steps
    )
    return Tuned(fresh, rate, {}, steps, trained)
