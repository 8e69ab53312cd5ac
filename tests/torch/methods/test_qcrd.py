"""QCRD: the contrastive loss and its gradient, what the judge learns, whose rationales are the bad ones."""

import copy
import random
from typing import Any

import pytest
import torch
from contract_cases import VOCABULARY, tiny
from sklearn.metrics import roc_auc_score
from torch import Tensor
from window_settings import Windows

from paperlab.kit import rationales as kit
from paperlab.kit.rationales import Example, Ids
from paperlab.methods.distillation import qcrd as method
from paperlab.methods.distillation.rationale_distillation import recipe as plain


def example(number: int, *, teacher_errs: bool = False) -> Example:
    good, bad = (20 + number, 40, 3), (21 + number, 60, 3)
    said = (good, bad if teacher_errs else good, good)
    return Example((5, 6, number), (8, 6, number), (good[1], 3), said, tuple(one[1:] for one in said))


class Asked(Windows):
    examples = tuple(example(number, teacher_errs=number % 2 == 0) for number in range(10, 18))
    batch, longest, end = 4, 5, 3


GOOD = {one: one.consistent()[0] for one in Asked.examples}
OTHERS = {one: one.consistent()[1] for one in Asked.examples}


def test_contrast_by_hand_and_its_gradient() -> None:
    good = torch.tensor([1.0, 2.0, 7.0], dtype=torch.float64, requires_grad=True)
    bad = torch.tensor([0.5, 4.0], dtype=torch.float64, requires_grad=True)  # the third question has none
    quality, of_bad = torch.tensor([0.5, 1.0, 0.0]).double(), torch.tensor([0.25, 0.0]).double()
    value = method.contrast(good, bad, quality, of_bad, beta=0.2, delta=3.0)
    # first: .5 * 1 - .2 * .75 * (.5 - 3); second: 2, as 4 is beyond delta
    assert value.item() == pytest.approx((0.5 + 0.2 * 0.75 * 2.5 + 2.0) / 3)
    value.backward()
    assert good.grad is not None
    assert bad.grad is not None
    assert good.grad.tolist() == pytest.approx([0.5 / 3, 1 / 3, 0.0])
    assert bad.grad.tolist() == pytest.approx([-0.2 * 0.75 / 3, 0.0])  # minimising makes a bad one less probable


def test_a_descent_step_moves_towards_the_good_and_away_from_the_bad() -> None:
    model, good, bad = copy.deepcopy(tiny("Llama")), (20, 40, 3), (50, 60, 3)
    prompts = [(8, 6, 10)]

    def told() -> tuple[Tensor, Tensor]:
        return tuple(kit.surprise(model, prompts, [text]) for text in (good, bad))  # type: ignore[return-value]

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
    judge, draw, examples = method.Judge(model), random.Random(0), list(Asked.examples)
    bad: dict[Example, list[Ids]] = {one: [(70, 71, 72)] for one in examples}
    prompts, texts, right = method.lesson(examples, GOOD, bad, draw, VOCABULARY)
    assert right.tolist() == [1.0] * 8 + [0.0] * 8
    assert texts[8:] == [(70, 71, 72)] * 8
    for _ in range(60):
        judge.learn(prompts, texts, right)
    quality = judge.quality(prompts, texts)
    assert quality[:8].min() > 0.8
    assert quality[8:].max() < 0.2
    assert not quality.requires_grad
    alone = judge.quality([prompts[0]], [texts[0]])
    longer = judge.quality([prompts[0], prompts[1]], [texts[0], (*texts[1], 9, 9, 9)])[:1]
    torch.testing.assert_close(alone, longer)  # padding says nothing
    assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())


def test_auc_is_scikit_learn_s() -> None:
    draw = torch.Generator().manual_seed(0)
    good, bad = (torch.randint(6, (40,), generator=draw).float() + shift for shift in (1, 0))
    expected = roc_auc_score([1] * 40 + [0] * 40, torch.cat((good, bad)).numpy())
    assert method.auc(good, bad) == pytest.approx(expected)


def test_without_a_bad_rationale_a_good_one_is_damaged() -> None:
    examples = list(Asked.examples)
    _, texts, _ = method.lesson(examples, GOOD, OTHERS, random.Random(0), VOCABULARY)
    for one, text in zip(examples, texts[8:], strict=True):
        assert text in OTHERS[one] if OTHERS[one] else len(text) == 3
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


def test_what_the_student_writes_as_the_teacher_does_is_not_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    """The student says what is good of odd questions, of which the teacher has no other: they have no second term."""
    shown: list[list[Ids]] = []
    real = kit.nearest

    def spy(model: Any, prompts: Any, choices: list[list[Ids]]) -> list[Ids]:
        shown.append([text for texts in choices for text in texts])
        return real(model, prompts, choices)

    monkeypatch.setattr(kit, "nearest", spy)
    monkeypatch.setattr(method, "self_written", lambda *given: {one: GOOD[one][0] for one in given[2]})
    for _ in range(2):
        method.recipe(copy.deepcopy(tiny("Llama")), Asked(tiny("Llama"), 4), 0, 1e-3, judged=False)
    good = {text for texts in GOOD.values() for text in texts}
    assert all(text in good for texts in shown[::2] for text in texts)
    assert not any(text in good for texts in shown[1::2] for text in texts)
    assert any(shown[1::2])


def test_without_weight_on_the_bad_and_without_judge_it_is_consistent_distillation_bit_for_bit() -> None:
    got = method.recipe(copy.deepcopy(tiny("Llama")), Asked(tiny("Llama"), 5), 0, 1e-3, judged=False, beta=0.0,
                        answer=1.0, rationale=1.0)  # fmt: skip
    own = plain(copy.deepcopy(tiny("Llama")), Asked(tiny("Llama"), 5), 0, 1e-3, rationales="consistent")
    for name, parameter in own.model.named_parameters():
        assert torch.equal(got.model.get_parameter(name), parameter)
    assert got.notes["tokens"] == own.notes["tokens"]
    whole = method.recipe(copy.deepcopy(tiny("Llama")), Asked(tiny("Llama"), 5), 0, 1e-3)
    assert any(not torch.equal(whole.model.get_parameter(name), p) for name, p in own.model.named_parameters())
    assert whole.notes["tokens"] > own.notes["tokens"]
    with pytest.raises(ValueError, match="at least 0"):
        method.recipe(copy.deepcopy(tiny("Llama")), Asked(tiny("Llama")), 0, 1e-3, beta=-1.0)


def test_notes_say_how_many_bad_ones_are_within_delta(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, share in ((0.0, 0.0), (99.0, 1.0)):
        monkeypatch.setattr(method, "DELTA", limit)
        made = method.recipe(copy.deepcopy(tiny("Llama")), Asked(tiny("Llama"), 4), 0, 1e-3)
        assert made.notes["active"] == share
        assert 0 < made.notes["quality_bad"] < 1
