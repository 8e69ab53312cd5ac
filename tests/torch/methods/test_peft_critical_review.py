"""The review's arms: what each trains of MiniLM's two upper blocks, and the arm that trains nothing."""

from typing import Any

import pytest
import torch

from paperlab.core.card import Arm
from paperlab.lab.arms import build_arm
from paperlab.methods.low_rank.peft_critical_review import CARD
from paperlab.tasks import cls


@pytest.fixture(scope="module")
def setting() -> Any:
    made = cls.make(0, "quick")
    made.steps, made.rates = 2, (1e-3,)
    return made


def trained(setting: Any, arm: Arm) -> tuple[int, Any]:
    made = build_arm(arm, "cls", setting, 0, lambda *_: None)
    return made.trained, made.model


def test_lora_trains_three_per_cent_and_biases_far_less(setting: Any) -> None:
    every, _ = trained(setting, CARD.checks[0].baseline)
    thin, _ = trained(setting, CARD.checks[0].method)
    biases, _ = trained(setting, CARD.checks[1].method)
    width, inner, blocks = 384, 1536, 2
    assert thin == 8 * blocks * (4 * 2 * width + 2 * (width + inner))
    assert biases == blocks * (5 * width + inner)
    assert 0.02 < thin / every < 0.035
    assert biases / every < 0.003


def test_the_trivial_arm_is_the_encoder_as_it_was(setting: Any) -> None:
    trivial = CARD.checks[0].trivial
    assert trivial is not None
    _, model = trained(setting, trivial)
    own, _ = setting.logits(setting.model, setting.test[:16])
    mine, _ = setting.logits(model, setting.test[:16])
    torch.testing.assert_close(mine, own)
