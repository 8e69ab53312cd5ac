"""The image task: splits, shifts, the cached teacher, a user's file, a good arm against planted bad ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from paperlab.lab.drivers import finetune
from paperlab.tasks import image as task


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bars at one of three places, some noise."""
    draw = np.random.default_rng(0)
    labels = np.arange(600) % 3
    images = draw.normal(0, 40, (600, 20, 20))
    for row, label in enumerate(labels):
        images[row, 3 + 5 * label : 6 + 5 * label] += 100
    path = tmp_path_factory.mktemp("data") / "bars.npz"
    np.savez(path, images=images, labels=labels)
    return path


@pytest.fixture(scope="module")
def settings(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[task.Setting, task.Setting]]:
    """Two seeds; teachers are trained for a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAPERLAB_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(task, "TEACHER_STEPS", 40)
        patch.setattr(task, "STEPS", {"quick": 30})
        yield task.make(0, "quick", data=str(file)), task.make(1, "quick", data=str(file))


def rows(split: Any) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.inputs[0]}


def test_an_image_is_in_one_split_and_test_images_are_the_same_for_all_seeds(settings: tuple[Any, Any]) -> None:
    one, two = settings
    assert torch.equal(one.test.inputs[0], two.test.inputs[0])
    assert rows(one.train) != rows(two.train)
    for setting in settings:
        parts = [rows(split) for split in (setting.train, setting.validation, setting.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 600
        assert len(setting.test) == 240
    assert not torch.equal(one.model.classifier.weight, two.model.classifier.weight)


def test_a_teacher_sees_all_that_neither_validates_nor_tests(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path))
    monkeypatch.setattr(task, "TRAIN", 50)
    monkeypatch.setattr(task, "fit", lambda teacher, plan, *_, **__: told.append(plan))
    setting = task.make(0, "quick", data=str(file))
    (plan,) = told
    assert (len(setting.train), len(plan.train), setting.seen) == (50, 240, 240)
    assert rows(setting.train) < rows(plan.train)
    assert not rows(plan.train) & (rows(setting.validation) | rows(setting.test))


def test_training_images_are_moved_by_a_pixel_at_most_each_in_its_own_way() -> None:
    image = torch.zeros(1, 1, 7, 7)
    image[0, 0, 3, 3] = 1.0
    found = task.shifted(image.expand(200, 1, 7, 7), torch.Generator().manual_seed(0))
    assert found.shape == (200, 1, 7, 7)
    places = {tuple(one[0].nonzero()[0].tolist()) for one in found}
    assert places == {(down, right) for down in (2, 3, 4) for right in (2, 3, 4)}
    edge = torch.arange(49.0).view(1, 1, 7, 7)
    same = [one for one in task.shifted(edge.expand(200, 1, 7, 7), torch.Generator()) if torch.equal(one, edge[0])]
    assert same


def test_batches_are_the_same_for_the_same_seed(settings: tuple[Any, Any]) -> None:
    one, two, other = (next(settings[0].batches(seed)) for seed in (3, 3, 4))
    assert torch.equal(one[0]["images"], two[0]["images"])
    assert not torch.equal(one[0]["images"], other[0]["images"])


def test_a_teacher_is_trained_once_and_stays_as_it_is(
    settings: tuple[Any, Any], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any(parameter.requires_grad for parameter in settings[0].teacher.parameters())
    assert settings[0].teacher_accuracy > 0.9
    monkeypatch.setattr(task, "fit", lambda *_, **__: pytest.fail("trained again"))
    again: Any = task.make(0, "quick", data=str(file))
    assert torch.equal(again.teacher.classifier.weight, settings[0].teacher.classifier.weight)
    assert not torch.equal(settings[1].teacher.classifier.weight, settings[0].teacher.classifier.weight)


def error(setting: task.Setting, loss: Any) -> float:
    arm = finetune.build({"loss": loss}, {}, setting=setting, seed=0, tuned={"rate": 1e-2, "validation": {}})
    (found,) = task.score(arm, setting)
    assert found["wrong"] == pytest.approx(1 - found["correct"])
    assert task.totals(arm, setting)["steps"] == 30
    return found["wrong"]


def test_a_good_arm_beats_planted_bad_ones_and_itself_only_ties(settings: tuple[Any, Any]) -> None:
    setting = settings[0]
    good = error(setting, lambda student, labels: F.cross_entropy(student, labels))
    assert good < 0.25
    assert error(setting, lambda student, labels: F.cross_entropy(student, (labels + 1) % 3)) > 0.8
    assert error(setting, lambda student: student.square().mean()) > 0.4
    assert error(setting, lambda student, labels: F.cross_entropy(student, labels)) == good


def test_features_are_what_the_classifier_sees(settings: tuple[Any, Any]) -> None:
    model, (images,) = settings[0].model, settings[0].test.inputs
    out = model(images[:5], output_hidden_states=True)
    assert out.hidden_states[-1].shape == (5, 1, task.STUDENT[-1])
    torch.testing.assert_close(model.classifier(out.hidden_states[-1][:, 0]), out.logits)
    torch.testing.assert_close(model(images[:5]), out.logits)
    assert [state.shape[1] for state in out.hidden_states] == [14 * 14, 7 * 7, 3 * 3, 1]


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not --model"):
        task.make(0, "quick", model="x")
    with pytest.raises(ValueError, match="no such file"):
        task.make(0, "quick", data=str(tmp_path / "none.npz"))
    few, other, text = tmp_path / "few.npz", tmp_path / "other.npz", tmp_path / "text.npz"
    np.savez(few, images=np.zeros((10, 4, 4)), labels=np.zeros(10))
    np.savez(other, pictures=np.zeros((10, 4, 4)))
    text.write_text("no arrays")
    for path, words in ((few, "at least 500"), (other, "arrays `images` and `labels`"), (text, "is wanted")):
        with pytest.raises(ValueError, match=words):
            task.make(0, "quick", data=str(path))
