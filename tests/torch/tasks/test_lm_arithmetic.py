"""The arithmetic task: what the teacher says, questions apart, a good arm against planted bad ones."""

import copy
import random
import re
from statistics import fmean

import pytest
import torch

from paperlab.kit.noted import Noted
from paperlab.kit.tuning import Tuned
from paperlab.methods.distillation.rationale_distillation import recipe
from paperlab.tasks import lm_arithmetic as task


@pytest.fixture(scope="module")
def setting() -> task.Setting:
    return task.make(0, "quick")


def test_a_script_without_errors_is_right_and_with_errors_goes_on_from_them() -> None:
    assert task.reasons(random.Random(0), [3, 8, 4], ["+", "-"], 0.0) == "3+8=11;11-4=7$"
    said = task.reasons(random.Random(0), [3, 8, 4], ["+", "-"], 1.0)
    first, second = said[:-1].split(";")
    assert first.startswith("3+8=")
    assert first != "3+8=11"
    assert second.startswith(first.partition("=")[2] + "-4=")
    known = task.sums(3)
    assert len(known) == len(set(known)) == sum(
        min(a, a + s * b, a + s * b + t * c) >= 0
        for a in range(1, 10) for b in range(1, 10) for c in range(1, 10) for s in (1, -1) for t in (1, -1)
    )  # fmt: skip
    for one in (task.example(random.Random(0), *asked, error=0.0) for asked in known[::9]):
        asked = task.text_of(one.explain)[1:-1]
        assert one.answer == task.ids_of(f"{eval(asked)}$")
        assert all(task.valid(one, text) for text in one.rationales)
        assert len(one.explain) == len(one.predict) == 7


def test_errors_are_as_frequent_as_told(setting: task.Setting) -> None:
    right = [task.valid(one, text) for one in setting.examples for text in one.rationales]
    assert sum(right) / len(right) == pytest.approx((1 - task.ERROR) ** 2, abs=0.03)
    assert max(len(text) for one in setting.examples for text in one.rationales) <= task.LONGEST
    voted = [task.valid(one, one.consistent()[0][0]) for one in setting.examples]
    assert sum(voted) / len(voted) > 0.9
    assert not task.valid(setting.examples[0], task.ids_of("1+1=2$"))


def test_the_seed_draws_all_questions_and_no_part_asks_what_another_answers(setting: task.Setting) -> None:
    other = task.remake(setting, 1)
    assert {one.predict for one in other.test} != {one.predict for one in setting.test}
    assert task.remake(setting, 0).test == setting.test
    parts = [setting.test, setting.validation, setting.examples]
    assert [len(part) for part in parts] == [task.TEST, task.VALIDATION, task.QUESTIONS["quick"]]
    asked = [one.predict for part in parts for one in part]
    assert len(set(asked)) == len(asked)
    numbers = [{tuple(sorted(re.findall("[+-]?[0-9]", f"+{task.text_of(one.explain)[1:-1]}"))) for one in part}
               for part in parts]  # fmt: skip
    assert not numbers[0] & numbers[1]
    assert not numbers[0] & numbers[2]
    assert not numbers[1] & numbers[2]
    (inputs, labels), again = next(setting.batches(3)), next(setting.batches(3))
    assert torch.equal(inputs["input_ids"], again[0]["input_ids"])
    assert inputs["input_ids"].shape == labels.shape
    assert (labels[:, :6] == task.IGNORED).all()
    with pytest.raises(ValueError, match="no other model or data"):
        task.make(0, "quick", data="products")


def test_the_student_knows_sums_of_two_and_not_of_three(setting: task.Setting) -> None:
    pairs = [task.example(random.Random(0), *asked, error=0.0) for asked in task.sums(2)]
    assert fmean(task.answered(setting.model, pairs)) > 0.9
    assert fmean(task.answered(setting.model, setting.test)) < 0.2


def test_a_taught_arm_beats_the_start_and_a_planted_bad_one(setting: task.Setting) -> None:
    short = copy.copy(setting)
    short.steps = 300
    good = recipe(copy.deepcopy(setting.model), short, 0, 3e-3, rationales="none").model
    wrong = copy.copy(short)
    answers = [one.answer for one in setting.examples[1:]] + [setting.examples[0].answer]
    wrong.examples = [
        task.Example(one.predict, one.explain, answer, one.rationales, one.concluded)
        for one, answer in zip(setting.examples, answers, strict=True)
    ]
    bad = recipe(copy.deepcopy(setting.model), wrong, 0, 3e-3, rationales="none").model
    rows = {name: list(task.score(Tuned(model, 1.0), setting))
            for name, model in (("good", good), ("bad", bad), ("start", setting.model))}  # fmt: skip
    found = {name: fmean(row["correct"] for row in scored) for name, scored in rows.items()}
    assert found["good"] > found["start"] + 0.1
    assert found["good"] > found["bad"] + 0.1
    assert task.items(setting) == len(rows["good"]) == task.TEST
    assert {value for row in rows["good"] for value in row.values()} <= {0.0, 1.0}
    assert list(task.score(Tuned(good, 1.0), setting, start=490)) == rows["good"][490:]
    assert task.totals(Noted(good, 1.0, notes={"tokens": 7.0}), setting)["tokens"] == 7
