"""Fine-tuning with cross-entropy for longer: what a teacher's forward passes cost is spent on more text instead.

The baseline of distillation at equal compute. A training step costs about three forward passes of the student; those of
a teacher of 1.5 times its size add half to that, so that the labels may read `multiple` = 1.5 times as many tokens.
"""

from torch import nn

from paperlab.core.card import Card
from paperlab.kit.tuning import Setting, Tuned, cross_entropy, fit

CARD = Card(family="distillation")


def recipe(model: nn.Module, setting: Setting, seed: int, rate: float, *, multiple: float = 1.5) -> Tuned:
    """The model, trained with cross-entropy for `multiple` times the setting's steps, to the nearest whole one.

    Raises ValueError for a multiple below 1.
    """
    if multiple < 1:
        raise ValueError(f"multiple={multiple}: give at least 1, times the steps of the others")
    steps = round(multiple * setting.steps)
    steps, trained = fit(model, setting, cross_entropy, rate=rate, seed=seed, asks=("student", "labels"), steps=steps)
    return Tuned(model, rate, {}, steps, trained)
