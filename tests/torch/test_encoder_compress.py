"""The task encoder_compress: its metrics by hand, its floor (A/A), a planted bad arm, resuming."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from paperlab.assets.texts import TextError, load_text, split_documents
from paperlab.tasks import encoder_compress as task


@dataclass
class Plain:
    """What the task needs of a compressed model."""

    model: nn.Module

    def totals(self) -> dict[str, float]:
        return {"bits_per_weight": 3.0, "layer_bits": 3.0, "bytes": 1.0}


@pytest.fixture(scope="module")
def setting() -> Iterator[task.Setting]:
    """The quick scale with fewer texts, so that the tests stay quick."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(task.SCALES, "quick", task._Scale(16, 50, 64, 16, 32))
        yield task.make(0, "quick")


@pytest.fixture(scope="module")
def untouched(setting: task.Setting) -> list[dict[str, float]]:
    return list(task.score(Plain(setting.model), setting))


def rounded(model: nn.Module, bits: int) -> nn.Module:
    """Every linear weight to `bits` bits with one scale a row."""
    model = copy.deepcopy(model)
    top = 2 ** (bits - 1) - 1
    for module in model.modules():
        if isinstance(module, nn.Linear):
            scale = module.weight.data.abs().amax(1, keepdim=True) / top
            module.weight.data = (module.weight.data / scale).round() * scale
    return model


def means(items: list[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([item[key] for item in items if key in item])) for key in task.METRICS}


def test_the_original_against_itself_is_exactly_the_original(
    setting: task.Setting, untouched: list[dict[str, float]]
) -> None:
    assert len(untouched) == task.items(setting) == 16 + 50 + 50
    assert means(untouched)["embedding_error"] == 0.0
    assert untouched == list(task.score(Plain(copy.deepcopy(setting.model)), setting))  # A/A floor: none
    said = task.describe(setting)
    for key, value in said["original"].items():
        assert value == pytest.approx(means(untouched)[key], abs=1e-12)
    json.dumps(said)


def test_bad_arms_are_worse(setting: task.Setting, untouched: list[dict[str, float]]) -> None:
    """2-bit weights ruin every metric; 3-bit ones show in the error and in retrieval; 8-bit ones hardly show."""
    sign = {key: 1 if metric.better == "higher" else -1 for key, metric in task.METRICS.items()}
    eight, three, two = (means(list(task.score(Plain(rounded(setting.model, b)), setting))) for b in (8, 3, 2))
    for key in task.METRICS:
        assert abs(eight[key] - means(untouched)[key]) < 0.05, key
        assert sign[key] * (eight[key] - two[key]) > 0.1, key
    for key in ("embedding_error", "reciprocal_rank"):
        assert sign[key] * (eight[key] - three[key]) > 0.02, key


@pytest.mark.parametrize("start", [5, 40, 100, 116])
def test_resuming_gives_the_same_bits(setting: task.Setting, untouched: list[dict[str, float]], start: int) -> None:
    assert list(task.score(Plain(setting.model), setting, start)) == untouched[start:]


def test_an_arm_that_breaks_is_not_scored(setting: task.Setting) -> None:
    model = copy.deepcopy(setting.model)
    model.encoder.layer[0].output.dense.weight.data[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="NaN"):
        next(task.score(Plain(model), setting))


def test_ratings_are_the_published_table(setting: task.Setting) -> None:
    assert setting.ratings.shape == (50, 50)
    assert torch.equal(setting.ratings, setting.ratings.T)
    assert (setting.ratings.diagonal() == 1).all()
    assert 0 <= setting.ratings.min() <= setting.ratings.max() <= 1
    assert setting.ratings[0, 1].item() == 0.3  # the table's first row


def test_agreement_with_people_is_that_of_a_good_model(setting: task.Setting) -> None:
    """Over all 1,225 pairs Lee et al. report r of about 0.6 for their best model and 0.605 between people."""
    upper = torch.triu_indices(50, 50, 1)
    ours = setting.original["rated"] @ setting.original["rated"].T
    r = np.corrcoef(ours[upper[0], upper[1]], setting.ratings[upper[0], upper[1]])[0, 1]
    assert 0.5 < r < 0.8


def test_correlations_against_numpy() -> None:
    generator = torch.Generator().manual_seed(1)
    unit = nn.functional.normalize(torch.randn(9, 4, generator=generator, dtype=torch.float64), dim=1)
    ratings = torch.rand(9, 9, generator=generator, dtype=torch.float64)
    found = task._human_correlations(unit, ratings)
    for i in range(9):
        others = [j for j in range(9) if j != i]
        expected = np.corrcoef((unit @ unit.T)[i, others], ratings[i, others])[0, 1]
        assert found[i].item() == pytest.approx(expected, abs=1e-12)
    assert task._human_correlations(torch.ones(9, 1, dtype=torch.float64), ratings).abs().max() == 0


def test_reciprocal_ranks_by_hand() -> None:
    answers = torch.eye(3)
    queries = torch.tensor([[1.0, 0.5, 0.0], [0.9, 0.8, 0.7], [0.5, 0.5, 0.5]])
    assert task._reciprocal_ranks(queries, answers).tolist() == pytest.approx([1, 1 / 2, 1 / 3])  # ties count against


def test_calibration_is_whole_windows_of_the_other_half(setting: task.Setting) -> None:
    tokenizer = setting.tokenizer
    assert [tuple(batch["input_ids"].shape) for batch in setting.calibration] == [(8, 32), (8, 32)]
    for batch in setting.calibration:
        assert (batch["attention_mask"] == 1).all()
        assert (batch["input_ids"][:, 0] == tokenizer.cls_token_id).all()
        assert (batch["input_ids"][:, -1] == tokenizer.sep_token_id).all()
    stream = " ".join(
        tokenizer.decode(tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"])
        for document in split_documents(load_text("news"), "calibration")
    )
    window = tokenizer.decode(setting.calibration[0]["input_ids"][0, 2:-2])
    assert window.removeprefix("##") in stream
    assert not set(setting.held_out) & set(split_documents(load_text("news"), "calibration"))


def test_calibration_from_another_text_and_in_another_order(setting: task.Setting) -> None:
    def rows(batches: list[dict[str, torch.Tensor]]) -> list[list[int]]:
        return torch.cat([batch["input_ids"] for batch in batches]).tolist()

    own, again, other = (
        rows(batches)
        for batches in (
            setting.calibration, setting.calibration_from("reordered"), setting.calibration_from("catalogue")
        )
    )  # fmt: skip
    assert own != again
    assert sorted(own) == sorted(again)
    assert len(other) == len(own)
    assert not set(map(tuple, other)) & set(map(tuple, own))
    assert task.remake(setting, 3).seed == 3


def test_the_seed_draws_the_calibration() -> None:
    tokenizer = task.load_encoder("minilm-l6")[1]
    drawn = [task._calibration(tokenizer, load_text("news"), 32, 8, seed)[0]["input_ids"] for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_too_little_text_is_said(tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("A few words only. " * 10)
    with pytest.raises(TextError, match="too short"):
        task.make(0, "quick", model=None, data=str(short))
