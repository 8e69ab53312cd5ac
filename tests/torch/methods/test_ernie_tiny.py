"""ERNIE-Tiny: which teacher, texts and loss each stage has, and the latent loss by hand."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from paperlab.kit.classifier import Said
from paperlab.methods.distillation.ernie_tiny import latent, recipe


def test_latent_by_hand() -> None:
    def state(value: float) -> Tensor:
        return torch.tensor([[[value, value], [9 * value, 9 * value]]])

    teacher = tuple(state(float(block)) for block in range(7))
    student = (state(0.0), state(4.0), state(7.0))
    mask = torch.tensor([[1, 0]])  # the second token is padding
    assert latent(student, teacher, mask) == ((4 - 3) ** 2 + (7 - 6) ** 2) / 2
    # two blocks above one that lies below the first state: thirds of the teacher's depth
    assert latent(student, teacher, mask, below=1) == ((4 - 4) ** 2 + (7 - 6) ** 2) / 2
    torch.testing.assert_close(latent(teacher, teacher, mask), torch.tensor(0.0))


class Network(nn.Module):
    """One block of width 2 that says which calls it got."""

    def __init__(self, name: str, calls: list[tuple[str, str]]) -> None:
        super().__init__()
        self.name, self.calls, self.block = name, calls, nn.Linear(2, 2)

    def forward(self, x: Tensor, kind: str, output_hidden_states: bool = False) -> Said:
        self.calls.append((self.name, kind))
        after = self.block(x)
        return Said(after.mean(1), (x, after))


class Setting:
    steps, frozen = 8, 0

    def __init__(self, calls: list[tuple[str, str]]) -> None:
        torch.manual_seed(0)
        self.teacher, self.pretrained = Network("tuned", calls), Network("pretrained", calls)

    def batches(self, seed: int) -> Iterator[tuple[dict[str, Any], Tensor]]:
        while True:
            yield {"x": torch.ones(3, 4, 2), "kind": "task"}, torch.tensor([0, 1, 0])

    def general(self, seed: int) -> Iterator[dict[str, Any]]:
        while True:
            yield {"x": torch.zeros(3, 4, 2), "kind": "general"}


def test_stages_change_the_teacher_then_the_texts() -> None:
    calls: list[tuple[str, str]] = []
    setting = Setting(calls)
    recipe(Network("student", calls), setting, 0, 1e-3)
    said = [call for call in calls if call[0] != "student"]
    assert said == [("pretrained", "general")] * 2 + [("tuned", "general")] * 2 + [("tuned", "task")] * 4
    calls.clear()
    recipe(Network("student", calls), setting, 0, 1e-3, general=0.0, enhanced=0.0, adaptive=0.0)
    assert [call for call in calls if call[0] != "student"] == [("tuned", "task")] * 8


def test_only_the_last_stage_looks_at_labels() -> None:
    def trained(adaptive: float, wrong: bool) -> Tensor:
        setting = Setting([])
        torch.manual_seed(1)
        student = Network("student", [])
        if wrong:
            old = setting.batches
            setting.batches = lambda seed: ((inputs, 1 - labels) for inputs, labels in old(seed))  # type: ignore[method-assign]
        return recipe(student, setting, 0, 1e-3, general=0.0, enhanced=0.0, adaptive=adaptive).get_parameter(
            "block.bias"
        )

    assert torch.equal(trained(1.0, False), trained(1.0, True))
    assert not torch.equal(trained(0.5, False), trained(0.5, True))


def test_shares_over_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 1 together"):
        recipe(Network("student", []), Setting([]), 0, 1e-3, general=0.9)
