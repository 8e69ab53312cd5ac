"""The training task and its driver: splits, fairness between arms, a bad arm is seen, text files, errors."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.assets.labelled import Labelled
from paperlab.kit import training
from paperlab.lab.drivers.train import build
from paperlab.methods.quantization.full_precision import linear
from paperlab.tasks import classify_small as task


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> task.Setting:
    monkeypatch.setattr(task, "HIDDEN", 64)
    made = task.make(0, "quick")
    made.epochs, made.rates = 5, (1e-2,)
    return made


def share(arm: training.Trained, setting: task.Setting) -> float:
    rows = list(task.score(arm, setting))
    assert len(rows) == task.items(setting) == 1
    return rows[0]["correct"]


def test_splits_are_disjoint_whole_and_drawn_by_the_seed() -> None:
    first, again, other = task.make(1, "quick"), task.make(1, "quick"), task.make(2, "quick")
    assert (len(first.train), len(first.validation), len(first.test)) == (1167, 270, 360)
    assert torch.equal(first.test.inputs[0], again.test.inputs[0])
    assert not torch.equal(first.test.inputs[0], other.test.inputs[0])
    pixels = [{tuple(row) for row in made.test.inputs[0].tolist()} for made in (first, other)]
    assert not pixels[0] & pixels[1]  # test parts do not overlap
    inks = [
        torch.cat([part.inputs[0].sum(1) for part in (made.train, made.validation, made.test)]).sort().values
        for made in (first, other)
    ]
    assert torch.equal(*inks)


def test_a_good_arm_beats_a_planted_bad_one_and_itself_only_ties(setting: task.Setting) -> None:
    class Blurred(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mean(-1, keepdim=True).expand_as(x))

    def bad(in_features: int, out_features: int, bias: bool = True) -> nn.Module:
        return Blurred(in_features, out_features, bias)

    bad.__name__ = "linear"
    good = share(build({"linear": linear}, {}, setting=setting, seed=0), setting)
    assert good > 0.8 > 0.5 > share(build({"linear": bad}, {}, setting=setting, seed=0), setting)
    assert share(build({"linear": linear}, {}, setting=setting, seed=0), setting) == good  # A/A: the floor is zero


def test_scores_are_those_of_the_logits(setting: task.Setting) -> None:
    arm = build({"linear": linear}, {}, setting=setting, seed=0)
    with torch.no_grad():
        odds = arm.model(*setting.test.inputs).softmax(-1)
    labels = setting.test.labels
    row = next(task.score(arm, setting))
    assert row["correct"] * len(labels) == pytest.approx(int((odds.argmax(1) == labels).sum()))
    assert row["nats"] == pytest.approx(-odds[torch.arange(len(labels)), labels].log().mean().item(), rel=1e-4)
    assert list(task.score(arm, setting, start=1)) == []  # a resumed run has nothing left to do


def test_every_arm_tries_all_rates_and_keeps_the_best(setting: task.Setting) -> None:
    setting.rates = (1e-6, 1e-2)
    arm = build({"linear": linear}, {}, setting=setting, seed=0)
    assert set(arm.validation) == {"1e-06", "0.01"}
    assert arm.rate == 1e-2
    assert arm.steps == 5 * -(-len(setting.train) // task.BATCH)


def test_a_loss_and_a_schedule_can_be_supplied(setting: task.Setting) -> None:
    seen: list[tuple[int, int]] = []

    def rate(step: int, steps: int, *, share: float = 1.0) -> float:
        seen.append((step, steps))
        return share

    frozen = build({"rate": rate}, {"share": 0.0}, setting=setting, seed=0)
    assert seen == [(step, 95) for step in range(95)]
    torch.manual_seed(0)
    assert torch.equal(frozen.model.last.weight, setting.network(training.PARTS).last.weight)  # rate 0 learns nothing

    def loss(logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)

    plain = build({"linear": linear}, {}, setting=setting, seed=0)
    assert torch.equal(build({"loss": loss}, {}, setting=setting, seed=0).model.last.weight, plain.model.last.weight)
    smooth = build({"loss": loss}, {"smoothing": 0.5}, setting=setting, seed=0)
    assert not torch.equal(smooth.model.last.weight, plain.model.last.weight)


def test_full_precision_counts_32_bits(setting: task.Setting) -> None:
    totals = task.totals(build({"linear": linear}, {}, setting=setting, seed=0), setting)
    assert totals["bits_per_weight"] == 32
    assert totals["bytes"] == 4 * (64 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10)


def test_a_text_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "HIDDEN", 32)
    file = tmp_path / "fruit.txt"
    lines = [f"sour lemon{i % 7} is yellow" for i in range(100)] + [f"sweet plum{i % 7} is blue" for i in range(100)]
    file.write_text("\n".join(lines) + "\nsour\n")
    setting = task.make(0, "quick", data=str(file))
    setting.rates = (3e-3,)
    assert (setting.classes, task.describe(setting)["examples"]) == (2, 201)
    assert str(tmp_path) not in str(task.describe(setting))  # a record names the file, not the machine
    assert share(build({"linear": linear}, {}, setting=setting, seed=0), setting) > 0.95


def test_named_texts_have_the_network_of_the_released_example(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = tuple(f"{'fine' if i % 2 else 'poor'} film {i}" for i in range(200))
    known = Labelled("movie-reviews", texts, tuple("good" if i % 2 else "bad" for i in range(200)), "0" * 64)
    monkeypatch.setattr(task, "labelled", lambda _: known)
    monkeypatch.setattr(task, "HIDDEN", 16)
    setting = task.make(0, "quick", data="movie-reviews")
    network = setting.network(training.PARTS)
    assert network.embed is not None
    assert network.second is None  # one layer after the embedding
    assert setting.words == 2 + 3  # none, unknown, and the words that come twice
    assert setting.rates == task.TEXT_RATES


@pytest.mark.parametrize(("text", "said"), [("a b\n" * 20, "at least 100 lines"), ("a b\n" * 200, "two labels")])
def test_unusable_text_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "few.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=said):
        task.make(0, "quick", data=str(file))


def test_missing_file_and_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        task.make(0, "quick", data=str(tmp_path / "none.txt"))
    with pytest.raises(ValueError, match="trains its own"):
        task.make(0, "quick", model="gpt2")
