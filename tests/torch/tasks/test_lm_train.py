"""The language-model task: windows, what arms share, a good arm against planted bad ones, what is refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.assets.texts import TextError
from paperlab.core.paper import papers
from paperlab.kit import networks
from paperlab.kit.training import PARTS, Trained
from paperlab.lab.drivers.train import build
from paperlab.tasks import lm_train as task

RATE = 8e-3
TUNED = {"rate": RATE, "validation": {}}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("text") / "summaries.txt"
    file.write_text("\n\n".join(paper.summary for paper in papers().values() if paper.summary))
    return str(file)


@pytest.fixture
def setting(text: str, monkeypatch: pytest.MonkeyPatch) -> task.Setting:
    for name, value in {"WIDTH": 32, "LAYERS": 2, "INNER": 64, "VALIDATION": 32, "TEST": 64, "SIDE": 16}.items():
        monkeypatch.setattr(task, name, value)
    monkeypatch.setitem(task.STEPS, "quick", 150)
    return task.make(0, "quick", data=text)


def bits(setting: task.Setting, seed: int = 0, **functions: Any) -> float:
    arm = build(functions, {}, setting=setting, seed=seed, tuned=TUNED)
    rows = list(task.score(arm, setting))
    assert len(rows) == task.items(setting) == 1
    return rows[0]["bits"]


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels)


def test_a_good_arm_beats_planted_bad_ones_and_shifted_seeds_show_the_floor(
    setting: task.Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels.roll(1))  # the byte that it has just read

    good = [bits(setting, seed, loss=loss) for seed in (0, 1)]
    assert bits(setting, loss=loss) == good[0]  # the same seed, the same bits
    assert good[0] < 4
    floor = abs(good[0] - good[1])
    assert 0 < floor < 0.1
    assert bits(setting, loss=broken) > good[0] + 1
    monkeypatch.setattr(networks, "rotate", lambda x: x)
    assert bits(setting, loss=loss) > good[0] + 0.1  # no positions


def test_windows_are_spread_over_text_that_training_never_reads(setting: task.Setting, text: str) -> None:
    train = bytes(setting.train.ids.tolist())
    for rows in (setting.validation, setting.test, setting.double):
        assert all(bytes(row.tolist()) not in train for row in rows)
    assert setting.test.shape == (64, task.LENGTH + 1)
    assert setting.double.shape == (16, 2 * task.LENGTH + 1)
    whole = Path(text).read_bytes()
    assert sum(bytes(row.tolist()) in whole for row in setting.test) >= 50  # the rest crosses an end of a document
    assert len({bytes(row.tolist()) for row in (*setting.validation, *setting.test)}) == 32 + 64
    again = task.make(9, "quick", data=text)
    assert torch.equal(setting.test, again.test)


def test_batches_are_drawn_by_their_generator_and_labels_are_the_next_bytes(setting: task.Setting) -> None:
    def first(seed: int) -> tuple[Tensor, Tensor]:
        (inputs,), labels = next(setting.train.batches(task.BATCH, torch.Generator().manual_seed(seed)))
        return inputs, labels

    inputs, labels = first(0)
    assert inputs.shape == labels.shape == (task.BATCH, task.LENGTH)
    assert torch.equal(inputs[:, 1:], labels[:, :-1])
    assert torch.equal(inputs, first(0)[0])
    assert not torch.equal(inputs, first(1)[0])
    assert len(list(setting.train.batches(task.BATCH))) == 150


def test_scores_are_the_bits_of_the_distribution(setting: task.Setting) -> None:
    class Uniform(nn.Module):
        def forward(self, ids: Tensor) -> Tensor:
            return torch.zeros(*ids.shape, task.VOCABULARY)

    class Knows(nn.Module):
        """Half a chance for the space, the rest alike."""

        def forward(self, ids: Tensor) -> Tensor:
            odds = torch.full((task.VOCABULARY,), 0.5 / 255)
            odds[32] = 0.5
            return odds.log().expand(*ids.shape, -1)

    assert next(task.score(Trained(Uniform(), RATE), setting))["bits"] == pytest.approx(8)
    spaces = (setting.test[:, 1:] == 32).double().mean().item()
    wanted = spaces * 1 + (1 - spaces) * math.log2(510)
    assert next(task.score(Trained(Knows(), RATE), setting))["bits"] == pytest.approx(wanted)
    assert list(task.score(Trained(Uniform(), RATE), setting, start=1)) == []


def test_double_length_and_another_text_are_scored_too(setting: task.Setting) -> None:
    arm = Trained(setting.network(PARTS).eval(), RATE)
    assert set(next(task.score(arm, setting))) == {"bits", "bits_double"}  # of one's own text there is no other
    setting.other = torch.zeros_like(setting.double)
    row = next(task.score(arm, setting))
    assert row["bits_other"] == pytest.approx(task.bits(arm.model, setting.other))


def test_totals_and_description(setting: task.Setting) -> None:
    arm = build({"loss": loss}, {}, setting=setting, seed=0, tuned=TUNED)
    totals = task.totals(arm, setting)
    assert (totals["steps"], totals["tokens"], totals["rate"]) == (150, 150 * 8 * 64, RATE)
    assert totals["bytes"] == 4 * totals["parameters"]
    assert set(task.AXES) <= totals.keys()
    about = task.describe(setting)
    assert about["data"]["id"] == "summaries.txt"
    assert len(about["data"]["sha256"]) == 64
    assert about["steps"] == 150


def test_short_text_and_a_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a few words. " * 400)
    with pytest.raises(TextError, match="give about"):
        task.make(0, "quick", data=str(tmp_path / "short.txt"))
    with pytest.raises(ValueError, match="trains its own"):
        task.make(0, "quick", model="gpt2")
