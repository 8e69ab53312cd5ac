"""The text-to-image task: phrases, looks, data apart, the cached model, and a good arm against planted bad ones."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from paperlab.kit.compressed import Compressed
from paperlab.kit.diffusion import TextToImage, noised, signal
from paperlab.tasks import text_to_image as task


@pytest.fixture(scope="module")
def digits() -> task.Digits:
    """Each of ten kinds has a coarse pattern of its own, faint or strong."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 10
    patterns = torch.randn(10, 1, 7, 7, generator=draw).sign().repeat_interleave(2, 2).repeat_interleave(2, 3)
    strength = 0.5 + 0.5 * torch.rand(400, 1, 1, 1, generator=draw)
    images = patterns[labels] * strength
    return task.Digits(images, labels, task.thickness(images, labels), "none")


@pytest.fixture(scope="module")
def setting(digits: task.Digits, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A hardly trained model, with a judge that knows the patterns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAPERLAB_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(task, "load", lambda: digits)
        for name, value in {
            "TRAINING": {"quick": 4}, "PICTURES": {"quick": 30}, "HELD": 100, "JUDGE_STEPS": 60, "BATCH": 32,
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


def test_real_digits_have_the_look_that_their_ink_says(digits: task.Digits) -> None:
    """A picture is scored as training digits were named; only equal ink could make a difference."""
    found = (digits.images.mean((1, 2, 3))[:, None] > task.edges_of(digits)[digits.labels]).sum(1)
    assert (found == digits.looks).double().mean() > 0.99


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


class Words(nn.Module):
    """(batch, length) ids -> which digit each phrase names, one-hot (batch, 1, 10); zero for the empty one. turned: of
    all phrases another digit than they name."""

    def __init__(self, turned: int) -> None:
        super().__init__()
        self.turned = turned

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(len(ids), 1, 10)
        for digit in range(10):
            named = [task.WORDS.index(word) for word in (task.NUMBERS[digit], str(digit))]
            found[torch.isin(ids, torch.tensor(named)).any(1), 0, (digit + self.turned) % 10] = 1
        return found


class Paints(nn.Module):
    """Says the noise that leaves a real digit of the wanted kind."""

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__()
        self.images = images

    def forward(self, images: torch.Tensor, times: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        a = signal(times).float()[:, None, None, None]
        wanted = torch.einsum("bd,dchw->bchw", context[:, 0], self.images)
        return (images - a.sqrt() * wanted) / (1 - a).sqrt()


def painter(digits: task.Digits, turned: int = 0, only: int | None = None) -> TextToImage:
    """Guidance goes by the difference to the empty phrase, whose digit is grey. only: this digit for all phrases."""
    model = TextToImage(len(task.WORDS), task.LENGTH, text_width=8, text_layers=1, width=8)
    kinds = digits.images[:10] if only is None else digits.images[only].expand(10, 1, task.SIZE, task.SIZE)
    model.text_encoder, model.unet = Words(turned), Paints(kinds)  # type: ignore[assignment]
    return model


def test_the_task_tells_a_good_arm_from_planted_bad_ones(setting: Any, digits: task.Digits) -> None:
    good = score(painter(digits), setting)
    assert good["correct"] == 1
    assert score(painter(digits, turned=1), setting)["correct"] == 0
    collapsed = score(painter(digits, only=3), setting)
    assert collapsed["frechet"] > 2 * good["frechet"]
    assert collapsed["correct"] == pytest.approx(0.1)
    assert score(setting.model, setting)["changed"] == 0
    assert good["changed"] > 0.1
    broken = copy.deepcopy(setting.model)
    broken.unet.conv_out.weight.data.fill_(float("nan"))
    assert score(broken, setting)["correct"] == score(broken, setting)["look"] == 0
    assert list(task.score(Compressed(broken, {}, 1), setting, start=1)) == []


def test_a_painter_of_thin_digits_alone_has_the_look_of_every_third(setting: Any, digits: task.Digits) -> None:
    for look in range(3):
        chosen = torch.stack([digits.images[(digits.labels == d) & (digits.looks == look)][0] for d in range(10)])
        model = painter(digits)
        model.unet = Paints(chosen)  # type: ignore[assignment]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(task, "GUIDANCE", 1.0)  # more would deepen the ink
            found = score(model, setting)
        assert found["look"] == pytest.approx((setting.looks == look).double().mean().item())
        assert found["correct"] == 1


def test_pictures_are_of_the_phrases_in_their_order(setting: Any, digits: task.Digits) -> None:
    pictures = task.painted(painter(digits), setting)
    assert pictures.shape == (30, 1, task.SIZE, task.SIZE)
    assert pictures.abs().max() <= 1
    signs = digits.images[:10].sign()[setting.digits]
    assert (pictures.sign() == signs).float().mean() > 0.99


def test_models_and_data_of_one_s_own_are_refused() -> None:
    for given in ({"model": "x"}, {"data": "y"}):
        with pytest.raises(ValueError, match="trains its own"):
            task.make(0, "quick", **given)
