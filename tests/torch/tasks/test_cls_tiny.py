"""Tiny students: halves of the training texts, a teacher that saw one of them, a good student and a planted bad one."""

from pathlib import Path

import pytest
import torch
from text_settings import encoder, make_small
from torch import Tensor

from paperlab.kit.classifier import Teacher
from paperlab.lab.drivers.finetune import build
from paperlab.methods.distillation.compressor_code_3mb import recipe
from paperlab.tasks import cls, cls_tiny

SIZES = {"vocab_size": 1100, "intermediate_size": 96}


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> cls_tiny.Setting:
    make_small(monkeypatch, tmp_path, **SIZES)
    monkeypatch.setattr(cls_tiny, "TEACHER_RATE", 3e-3)
    monkeypatch.setattr(cls_tiny, "LIMIT", 290_000)
    monkeypatch.setitem(cls_tiny.TEACHER_STEPS, "quick", 60)
    monkeypatch.setitem(cls_tiny.STEPS, "quick", 120)
    setting = cls_tiny.make(0, "quick", data="movie-reviews")
    setting.seed_rates = (3e-3,)
    return setting


def test_halves_are_disjoint_and_labels_of_one_are_never_shown(setting: cls_tiny.Setting) -> None:
    parts = torch.cat([setting.train, setting.others, setting.validation, setting.test])
    assert torch.equal(parts.sort().values, torch.arange(800))
    assert len(setting.train) == len(setting.others)
    shown, others = [], set(setting.others.tolist())
    source = setting.unlabelled(0)
    for _ in range(20):
        inputs, labels = next(source)
        assert labels.eq(-1).all()
        shown += inputs["rows"].tolist()
    assert set(shown) <= others


def test_the_teacher_was_tuned_on_the_labelled_half_and_says_what_it_said(setting: cls_tiny.Setting) -> None:
    teacher = setting.teacher
    assert isinstance(teacher, Teacher)
    assert setting.validate(teacher) > 0.9
    both = torch.cat([setting.train, setting.others])
    assert teacher.known[both].isfinite().all()
    assert not teacher.known[setting.test].isfinite().any()
    inputs = setting.inputs(setting.others[:8])
    with torch.no_grad():
        computed = teacher.model(inputs["input_ids"], inputs["attention_mask"]).logits
    torch.testing.assert_close(teacher(**inputs).logits, computed, atol=1e-4, rtol=1e-4)
    untouched = encoder(**SIZES).state_dict()
    assert all(torch.equal(value, untouched[name]) for name, value in setting.corpus.encoder.state_dict().items())
    again = cls_tiny.remake(setting, 0)
    assert isinstance(again.teacher, Teacher)
    assert torch.equal(again.teacher.known.nan_to_num(), teacher.known.nan_to_num())


def test_the_start_has_seen_no_label_of_the_other_half(setting: cls_tiny.Setting) -> None:
    before, corpus = setting.model.get_parameter("head.weight").clone(), setting.corpus
    weight, _ = cls.probe(corpus.features[setting.depth][setting.train], corpus.labels[setting.train], 2)
    assert torch.equal(before, weight)
    corpus.labels[setting.others] = 1 - corpus.labels[setting.others]
    assert torch.equal(cls_tiny.remake(setting, 0).model.get_parameter("head.weight"), before)
    corpus.labels[setting.train] = 1 - corpus.labels[setting.train]
    assert not torch.equal(cls_tiny.remake(setting, 0).model.get_parameter("head.weight"), before)


def share(model: torch.nn.Module, setting: cls_tiny.Setting) -> float:
    (row,) = cls_tiny.score(cls_tiny.Tuned(model, 0.0), setting)
    return row["correct"]


def test_a_good_student_beats_a_planted_bad_one_within_the_limit(setting: cls_tiny.Setting) -> None:
    made: dict[str, Tensor | float] = {}
    for kind in ("teacher", "mismatched"):
        arm = build({"recipe": recipe}, {"targets": kind, "dropout": 0.0, "search": "random"}, setting=setting, seed=0)
        made[kind] = share(arm.model, setting)
        told = cls_tiny.totals(arm, setting)
        assert told["bytes"] == 4 * sum(parameter.numel() for parameter in arm.model.parameters())
        assert told["bytes"] == pytest.approx(290_000, rel=0.05)
        assert told["steps"] == 120
        assert told["rate"] == 3e-3
        assert told["vocab_size"] == 1000
    assert made["teacher"] > 0.85
    assert made["mismatched"] < 0.75
    arm = build({"recipe": recipe}, {"kind": "teacher"}, setting=setting, seed=0)
    assert share(arm.model, setting) == share(setting.teacher, setting)  # type: ignore[arg-type]
    about = cls_tiny.describe(setting)
    assert about["rates"] == [3e-3]
    assert about["unlabelled"] == len(setting.others)
    assert about["teacher"] > 0.9
