"""The controls of text-to-image do what they say on a small model: pruned more, or at random, it says other noise."""

from typing import Any

import torch
import torch.nn.functional as F

from paperlab.core.card import Arm
from paperlab.core.methods import check_parameters, find_method
from paperlab.kit.diffusion import TextToImage
from paperlab.lab.arms import functions_of


def change(arm: Arm) -> float:
    """How far the noise that is said moves, in mean squares."""
    torch.manual_seed(0)
    model: Any = TextToImage(12, 4, text_width=16, text_layers=2, width=8, heads=2).eval()
    inputs = {
        "images": torch.randn(8, 1, 6, 6), "times": torch.arange(8) * 100, "ids": torch.randint(0, 12, (8, 4)),
    }  # fmt: skip
    with torch.no_grad():
        before = model(**inputs)
        after = functions_of(arm)["transform"](model, [inputs], **arm.params).model(**inputs)
    return F.mse_loss(after, before).item()


def test_each_role_is_there_and_every_arm_can_be_built() -> None:
    card = find_method("text-to-image-controls").card
    assert {check.role for check in card.checks} == {"positive control", "negative control", "a/a control"}
    for check in card.checks:
        for arm in check.arms:
            check_parameters(find_method(arm.method), arm.params)


def test_controls_change_a_model_as_they_should() -> None:
    positive, negative, same = find_method("text-to-image-controls").card.checks
    assert change(positive.method) < 0.5 * change(positive.baseline)
    assert change(negative.method) > 1.5 * change(negative.baseline)
    assert same.method == same.baseline
