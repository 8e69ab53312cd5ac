"""The text-to-image task: phrases, looks, data apart, the cached model, and a good arm against planted bad ones."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from paperlab.kit.compressed import Compressed
from paperlab.kit.diffusion import noised
from paperlab.tasks import text_to_image as task


@pytest.fixture(scope="module")
def digits() -> task.Digits:
    """Bars at one of ten places, bright or less so."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 10
    images = -torch.ones(400, 1, task.SIZE, task.SIZE) + 0.05 * torch.rand(400, 1, 14, 14, generator=draw)
    for row, label in enumerate(labels):
        images[row, 0, 1 + int(label) : 4 + int(label), 2:12] = float(torch.rand((), generator=draw))
    return task.Digits(images, labels, task.thickness(images, labels), "none")


@pytest.fixture(scope="module")
def setting(digits: task.Digits, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Trained for a few steps, with a judge that knows the bars."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAPERLAB_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(task, "load", lambda: digits)
        for name, value in {
            "TRAINING": {"quick": 150}, "PICTURES": {"quick": 30}, "HELD": 100, "JUDGE_STEPS": 60, "BATCH": 32,
            "CALIBRATION": 64, "WIDTH": 8,
        }.items():  # fmt: skip
            patch.setattr(task, name, value)
        yield task.make(3, "quick")


def test_phrases_are_of_known_words_and_say_what_is_asked_for() -> None:
    draw = torch.Generator().manual_seed(0)
    found = {task.phrase(7, "thick", draw) for _ in range(200)}
    assert {"a thick seven", "bold 7", "the number 7 , heavy", "a thick digit seven"} <= found
    for text in found:
        assert {"seven", "7"} & set(text.split())
        assert {"thick", "bold", "heavy"} & set(text.split())
    assert "a seven" in {task.phrase(7, "", draw) for _ in range(200)}
    for look in task.LOOKS:
        for digit in range(10):
            ids = task.ids_of(task.phrase(digit, look, draw))
            assert len(ids) == task.LENGTH
            assert task.NUMBERS[digit] in (words := [task.WORDS[i] for i in ids]) or str(digit) in words
    with pytest.raises(ValueError, match="'purple'"):
        task.ids_of("a purple seven")
    with pytest.raises(ValueError, match="9 words"):
        task.ids_of("a a a a a a a a a")


def test_looks_are_thirds_of_each_digit_by_ink(digits: task.Digits) -> None:
    for label in range(10):
        rows = digits.labels == label
        ink, looks = digits.images[rows].mean((1, 2, 3)), digits.looks[rows]
        assert ink[looks == 0].max() <= ink[looks == 1].min()
        assert ink[looks == 1].max() <= ink[looks == 2].min()
        assert looks.bincount().max() - looks.bincount().min() <= 1


def test_examples_are_noised_as_they_say(digits: task.Digits) -> None:
    (batch, noise), *_ = task.examples(digits, torch.arange(50), torch.Generator().manual_seed(0), 2, empty=0.5)
    assert 0 < int((batch["ids"] == 0).all(1).sum()) < len(noise)
    clean = (batch["images"] - noised(torch.zeros_like(noise), batch["times"], noise)) / noised(
        torch.ones_like(noise), batch["times"], torch.zeros_like(noise)
    )
    early = batch["times"] < 700
    nearest = (clean[early][:, None] - digits.images[None, :50]).abs().amax((2, 3, 4)).min(1).values
    assert float(nearest.max()) < 1e-3


def test_held_out_digits_are_not_trained_on(
    digits: task.Digits, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    told: list[Any] = []
    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path))
    monkeypatch.setattr(task, "load", lambda: digits)
    monkeypatch.setattr(task, "HELD", 100)
    monkeypatch.setattr(task, "judged", lambda judge, digits, rows: told.append(rows) or judge.state_dict())
    monkeypatch.setattr(task, "train", lambda net, digits, rows, *_: told.append(rows) or net.state_dict())
    made = task.make(0, "quick")
    assert len(made.real) == 100
    assert all(len(rows) == 300 for rows in told)
    held = torch.randperm(400, generator=torch.Generator().manual_seed(0))[:100]
    assert not set(held.tolist()) & set(told[1].tolist())


def test_the_trained_model_is_kept_and_the_seed_draws_it(setting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "train", None)  # from the cache
    again = task.make(3, "quick")
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), setting.model.parameters(), strict=True))
    assert torch.equal(again.asked, setting.asked)
    assert torch.equal(again.noise, setting.noise)
    assert not again.model.training


def score(model: nn.Module, setting: Any) -> dict[str, float]:
    (found,) = task.score(Compressed(model, {}, 1), setting)
    return found


def test_the_task_tells_a_good_arm_from_planted_bad_ones(setting: Any) -> None:
    good = score(setting.model, setting)
    assert good["changed"] == 0
    assert good["correct"] > 0.5  # a tenth by chance
    fresh = copy.deepcopy(setting.model)
    for parameter in fresh.unet.parameters():
        parameter.data.normal_(0, 0.05)
    deaf = copy.deepcopy(setting.model)  # all phrases alike
    deaf.text_encoder.final_layer_norm.weight.data.zero_()
    broken = copy.deepcopy(setting.model)
    broken.unet.conv_out.weight.data.fill_(float("nan"))
    assert score(fresh, setting)["frechet"] > 2 * good["frechet"]
    assert score(deaf, setting)["correct"] < good["correct"] - 0.2
    assert score(broken, setting)["correct"] == 0
    assert list(task.score(Compressed(fresh, {}, 1), setting, start=1)) == []


def test_pictures_are_of_the_phrase(setting: Any) -> None:
    pictures = task.painted(setting.model, setting)
    assert pictures.shape == (30, 1, task.SIZE, task.SIZE)
    assert pictures.abs().max() <= 1
    other = copy.copy(setting)
    other.asked = setting.asked.roll(1, 0)
    assert not torch.allclose(task.painted(setting.model, other), pictures, atol=0.1)


def test_models_and_data_of_one_s_own_are_refused() -> None:
    for given in ({"model": "x"}, {"data": "y"}):
        with pytest.raises(ValueError, match="trains its own"):
            task.make(0, "quick", **given)
