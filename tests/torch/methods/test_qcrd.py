"""QCRD: the contrastive loss and its gradient, what the judge learns, whose rationales are the bad ones."""

import copy
import random
from typing import Any

import pytest
import torch
from contract_cases import VOCABULARY, tiny
from torch import Tensor
from window_settings import Windows

from paperlab.kit.rationales import Example, Ids
from paperlab.methods.distillation import qcrd as method


def example(number: int, *, teacher_errs: bool = False) -> Example:
    good, bad = (20 + number, 40, 3), (21 + number, 60, 3)
    said = (good, bad if teacher_errs else good, good)
    return Example((5, 6, number), (8, 6, number), (good[1], 3), said, tuple(one[1:] for one in said))


class Asked(Windows):
    examples = tuple(example(number, teacher_errs=number % 2 == 0) for number in range(10, 18))
    batch, longest, end = 4, 5, 3


def test_contrast_by_hand_and_its_gradient() -> None:
    good = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    bad = torch.tensor([0.5, 4.0], dtype=torch.float64, requires_grad=True)
    quality, of_bad = torch.tensor([0.5, 1.0]).double(), torch.tensor([0.25, 0.0]).double()
    value = method.contrast(good, bad, quality, of_bad, beta=0.2, delta=3.0)
    # first: .5 * 1 - .2 * .75 * (.5 - 3); second: 2, as 4 is beyond delta
    assert value.item() == pytest.approx((0.5 + 0.2 * 0.75 * 2.5 + 2.0) / 2)
    value.backward()
    assert good.grad is not None
    assert bad.grad is not None
    assert good.grad.tolist() == pytest.approx([0.25, 0.5])
    assert bad.grad.tolist() == pytest.approx([-0.2 * 0.75 / 2, 0.0])  # minimising makes a bad one less probable


def test_a_descent_step_moves_towards_the_good_and_away_from_the_bad() -> None:
    model, good, bad = copy.deepcopy(tiny("Llama")), (20, 40, 3), (50, 60, 3)
    prompts = [(8, 6, 10)]

    def told() -> tuple[Tensor, Tensor]:
        return tuple(method.surprise(model, prompts, [text]) for text in (good, bad))  # type: ignore[return-value]

    before = told()
    one = torch.ones(1)
    method.contrast(*before, one, 0 * one, beta=1.0, delta=99.0).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(0.01 * parameter.grad)
    after = told()
    assert after[0] < before[0]
    assert after[1] > before[1]


def test_the_judge_learns_what_is_bad_and_leaves_the_student_alone() -> None:
    torch.manual_seed(0)
    start = tiny("Llama").state_dict()
    model = copy.deepcopy(tiny("Llama"))
    judge, draw = method.Judge(model, 3e-3), random.Random(0)
    examples = list(Asked.examples)
    good = {one: one.consistent() for one in examples}
    own: dict[Example, Ids] = dict.fromkeys(examples, (70, 71, 72))
    prompts, texts, right = method.lesson(examples, good, own, draw, VOCABULARY)
    assert right.tolist() == [1.0] * 8 + [0.0] * 8
    assert texts[8:] == [(70, 71, 72)] * 8
    for _ in range(30):
        judge.learn(prompts, texts, right)
    quality = judge(prompts, texts)
    assert quality[:8].min() > 0.8
    assert quality[8:].max() < 0.2
    assert not quality.requires_grad
    alone = judge([prompts[0]], [texts[0]])
    longer = judge([prompts[0], prompts[1]], [texts[0], (*texts[1], 9, 9, 9)])[:1]
    torch.testing.assert_close(alone, longer)  # padding says nothing
    assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())


def test_before_the_student_writes_bad_ones_are_the_teachers_or_damaged() -> None:
    examples = list(Asked.examples)
    good = {one: one.consistent() for one in examples}
    _, texts, _ = method.lesson(examples, good, {}, random.Random(0), VOCABULARY)
    for one, text in zip(examples, texts[8:], strict=True):
        others = good[one][1]
        assert text in others if others else len(text) == 3
    assert any(text not in one.rationales for one, text in zip(examples, texts[8:], strict=True))


def test_bad_rationales_are_of_the_student_five_epochs_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Tensor]] = []
    states: list[dict[str, Tensor]] = []
    real = method.self_written

    def spy(model: Any, state: dict[str, Tensor], *rest: Any) -> dict[Example, Ids]:
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        seen.append(state)
        return real(model, state, *rest)

    monkeypatch.setattr(method, "self_written", spy)
    made = method.recipe(copy.deepcopy(tiny("Llama")), Asked(tiny("Llama"), 16), 0, 1e-3)
    assert made.steps == 16
    assert len(seen) == 8  # two steps an epoch
    for epoch, state in enumerate(seen):
        meant = states[max(0, epoch - method.LAG)]
        assert all(torch.equal(state[name], meant[name]) for name in meant)


def test_without_weight_on_the_bad_and_without_judge_it_is_consistent_distillation() -> None:
    from paperlab.methods.distillation.rationale_distillation import recipe as plain

    got = method.recipe(copy.deepcopy(tiny("Llama")), Asked(tiny("Llama"), 2), 0, 1e-3, judged=False, beta=0.0,
                        answer=1.0, rationale=1.0).model  # fmt: skip
    own = plain(copy.deepcopy(tiny("Llama")), Asked(tiny("Llama"), 2), 0, 1e-3, rationales="consistent").model
    for name, parameter in own.named_parameters():
        torch.testing.assert_close(got.get_parameter(name), parameter, atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="at least 0"):
        method.recipe(copy.deepcopy(tiny("Llama")), Asked(tiny("Llama")), 0, 1e-3, beta=-1.0)
