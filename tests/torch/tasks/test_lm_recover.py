"""The recovery task: documents apart, what arms share, a good arm against planted bad ones, what is refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from paperlab.assets.texts import TextError, load_text, split_documents
from paperlab.kit.compressed import Compressed
from paperlab.lab.drivers.finetune import build
from paperlab.methods.pruning.magnitude import transform
from paperlab.tasks import lm_recover as task

TUNED = {"rate": 1e-3, "validation": {}}


@pytest.fixture(scope="module")
def setting() -> task.Setting:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"TEST": 32, "VALIDATION": 8, "STEPS": 8}.items():
            patch.setitem(getattr(task, name), "quick", value)
        patch.setattr(task, "OTHER", {})  # the other text may have to be fetched
        return task.make(0, "quick")


@pytest.fixture(scope="module")
def pruned(setting: task.Setting) -> Compressed:
    return transform(copy.deepcopy(setting.model), sparsity=0.7)


def figures(setting: task.Setting, start: Compressed, **functions: Any) -> dict[str, float]:
    arm = build(functions, {}, setting=setting, seed=0, start=start, tuned=TUNED)
    (row,) = task.score(arm, setting)
    return row


def loss(student: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(student, labels)


def test_a_good_arm_beats_what_was_not_trained_and_a_planted_bad_one(setting: task.Setting, pruned: Compressed) -> None:
    (before,) = task.score(pruned, setting)
    good = figures(setting, pruned, loss=loss)
    assert good == figures(setting, pruned, loss=loss)  # the same seed, the same bits
    assert good["nll"] < before["nll"] - 0.05
    assert good["kl"] < before["kl"]
    bad = figures(setting, pruned, loss=lambda student, labels: F.cross_entropy(student, labels.roll(1)))
    assert bad["nll"] > good["nll"] + 0.5
    (dense,) = task.score(Compressed(setting.model, {}, 1), setting)
    assert abs(dense["kl"]) < 1e-6
    assert dense["nll"] < good["nll"]
    assert dense["perplexity"] == pytest.approx(torch.tensor(dense["nll"]).exp().item(), rel=1e-5)


def test_the_documents_of_training_validation_and_test_are_apart(setting: task.Setting) -> None:
    text = load_text("abstracts")
    train, validation = task._divided(split_documents(text, "calibration"))
    assert not set(train) & set(validation)
    assert not (set(train) | set(validation)) & text.held_out
    assert len(validation) == 100
    assert len(setting.validation) == 8
    for rows, documents in ((setting.train, train), (setting.test, split_documents(text, "held-out"))):
        words = setting.tokenizer.decode(rows[3, 10:16].tolist()).strip()
        assert words in " ".join(documents)


def test_what_the_driver_is_given(setting: task.Setting) -> None:
    first, again, other = (next(setting.batches(seed)) for seed in (0, 0, 1))
    assert first[0]["input_ids"].shape == first[1].shape == (task.BATCH, task.LENGTH)
    assert torch.equal(first[0]["input_ids"][:, 1:], first[1][:, :-1])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    assert sum(len(batch["input_ids"]) for batch in setting.calibration) == 64
    assert setting.calibration[0]["input_ids"].shape == (8, task.LENGTH)
    moved = task.remake(setting, 1)
    assert not torch.equal(moved.calibration[0]["input_ids"], setting.calibration[0]["input_ids"])
    assert setting.calibration_from("random")[0]["input_ids"].max() < len(setting.tokenizer)
    assert task.describe(setting)["tokens"] == 8 * task.BATCH * task.LENGTH


def test_totals_count_tokens_and_what_is_left(setting: task.Setting, pruned: Compressed) -> None:
    before = task.totals(pruned, setting)
    arm = build({"loss": loss}, {}, setting=setting, seed=0, start=pruned, tuned=TUNED)
    after = task.totals(arm, setting)
    assert before["steps"] == before["tokens"] == before["trained"] == 0
    assert after["tokens"] == 8 * task.BATCH * task.LENGTH
    assert after["nonzero"] == pytest.approx(before["nonzero"], rel=1e-4)
    assert after["density"] == before["density"] == pytest.approx(0.3, abs=0.01)
    assert after["parameters"] == sum(p.numel() for p in setting.model.parameters())
    assert after["bytes"] == before["bytes"] < after["parameters"] * 2


def test_any_text_serves_and_a_short_one_is_refused(tmp_path: Path, setting: task.Setting) -> None:
    short = tmp_path / "short.txt"
    short.write_text("A few words.")
    with pytest.raises(TextError, match="too short"):
        task.make(0, "quick", data=str(short))
    own = tmp_path / "own.txt"
    own.write_text("\n\n".join(split_documents(load_text("catalogue"), "all")))
    made = task.make(0, "quick", data=str(own))
    assert made.other is None
    assert len(made.test) == task.TEST["quick"]
