"""The writing task: the two models read the same tokens, the divergence tells a collapsed writer, ROUGE-L by hand."""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from paperlab.assets.models import ModelError
from paperlab.kit.tuning import Tuned
from paperlab.kit.writing import answer
from paperlab.methods.distillation.sampled_distillation import recipe
from paperlab.methods.pruning.magnitude import transform
from paperlab.tasks import lm_write as task


@pytest.fixture(scope="module")
def setting() -> Iterator[task.Setting]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"PROMPTS": 32, "STEPS": 12}.items():
            patch.setitem(getattr(task, name), "quick", value)
        yield task.make(0, "quick")


def figures(setting: task.Setting, model: Any) -> dict[str, float]:
    return means(task.score(Tuned(model, 0.0), setting))


def means(rows: Iterable[dict[str, float]]) -> dict[str, float]:
    known = list(rows)
    return {name: fmean(row[name] for row in known) for name in known[0]}


def test_a_distilled_student_beats_a_cut_one_and_the_teacher_is_at_zero(setting: task.Setting) -> None:
    cut = transform(copy.deepcopy(setting.model), sparsity=0.6)
    before = means(task.score(cut, setting))
    after = figures(setting, recipe(copy.deepcopy(cut.model), setting, 0, 1e-3).model)
    assert after["jeffreys"] < before["jeffreys"] - 0.1
    whole = figures(setting, setting.model)
    assert whole["jeffreys"] < after["jeffreys"]
    assert whole["jeffreys"] == pytest.approx(whole["reverse"] + whole["forward"])
    at_itself = figures(setting, setting.teacher)
    assert at_itself["jeffreys"] == pytest.approx(0, abs=1e-6)
    assert at_itself["nll"] < whole["nll"]


def test_a_writer_of_few_words_is_found_worse_though_rouge_likes_it(setting: task.Setting) -> None:
    sharp: Any = copy.deepcopy(setting.model)
    said = sharp.lm_head.forward
    sharp.lm_head.forward = lambda x: 5 * said(x)
    collapsed, plain = figures(setting, sharp), figures(setting, setting.model)
    assert collapsed["rouge"] > plain["rouge"]
    assert collapsed["jeffreys"] > plain["jeffreys"] + 0.5


def test_the_figures_are_those_of_the_whole_distributions(setting: task.Setting) -> None:
    ids = setting.test[:4]
    begin = answer(ids)
    with torch.no_grad():
        p, q = (model(input_ids=ids).logits[:, begin - 1 : -1].double() for model in (setting.teacher, setting.model))
        expected = F.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="sum") / (4 * (65 - begin))
    got = task.divergence(task.said(setting.teacher, ids), task.said(setting.model, ids))
    assert got.shape == (4,)
    assert got.mean().item() == pytest.approx(expected.item(), rel=1e-4)
    written = task.answers(setting.model, ids, 0)
    assert torch.equal(written[:, :begin], ids[:, :begin])
    assert torch.equal(written, task.answers(setting.model, ids, 0))
    assert not torch.equal(written, task.answers(setting.model, ids, 1))


def test_the_seed_draws_prompts_and_answers_and_a_rate_is_chosen_by_the_same_figure(setting: task.Setting) -> None:
    other = task.remake(setting, 1)
    assert not torch.equal(other.test, setting.test)
    assert torch.equal(task.remake(other, 0).test, setting.test)
    assert task.items(other) == len(list(task.score(Tuned(setting.model, 0.0), other))) == 32
    rows = list(task.score(Tuned(setting.model, 0.0), setting))
    assert list(task.score(Tuned(setting.model, 0.0), setting, start=30)) == rows[30:]
    swapped = replace(setting, test=setting.validation, wrote={})
    assert setting.validate(setting.model) == pytest.approx(-figures(swapped, setting.model)["jeffreys"])
    assert setting.validate(setting.teacher) == pytest.approx(0, abs=1e-6)


def test_rouge_by_hand() -> None:
    # the longest common subsequence is "the cat mat": F = 2 * 3 / (4 + 6)
    assert task.rouge_l(task.words("The cat, a mat"), task.words("the big cat on the mat")) == pytest.approx(0.6)
    assert task.rouge_l(["a"], ["b"]) == 0
    assert task.rouge_l([], ["b"]) == 0
    assert task.words("Nine-9 O'Clock") == ["nine", "9", "o", "clock"]


def test_a_student_of_other_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = task.load_causal_lm

    def other(name: str) -> Any:
        model, tokenizer, provenance = real(name)
        tokenizer.add_tokens(["<another>"])
        return model, tokenizer, provenance

    monkeypatch.setattr(task, "load_causal_lm", other)
    with pytest.raises(ModelError, match="other tokens than its teacher"):
        task.make(0, "quick")
