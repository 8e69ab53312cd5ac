"""The merging task: splits, the cache of siblings, a good arm against planted bad ones, the factor's tuning."""

from pathlib import Path
from typing import Any

import pytest
import torch

from paperlab.core.card import Arm
from paperlab.lab.arms import build_arm
from paperlab.lab.drivers._common import silent
from paperlab.tasks import merge as task


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("siblings")


@pytest.fixture
def setting(home: Path, monkeypatch: pytest.MonkeyPatch) -> task.Setting:
    monkeypatch.setenv("PAPERLAB_HOME", str(home))
    return task.make(0, "quick")


def build(arm: Arm, setting: task.Setting) -> Any:
    return build_arm(arm, "merge", setting, 0, silent)


def accuracy(arm: Arm, setting: task.Setting) -> float:
    rows = list(task.score(build(arm, setting), setting))
    assert len(rows) == task.items(setting) == 2 * task.TEST
    return sum(row["correct"] for row in rows) / len(rows)


def test_images_are_in_one_split_and_test_images_are_the_same_for_all_seeds(setting: task.Setting) -> None:
    other = task.make(1, "quick")
    for first, second in zip(setting.test, other.test, strict=True):
        assert torch.equal(first.inputs[0], second.inputs[0])
        assert first.labels.sum() == task.TEST
        assert len(first) == 2 * task.TEST
    assert not torch.equal(setting.validation[0].inputs[0], other.validation[0].inputs[0])
    for made in (setting, other):
        rows = torch.cat([split.inputs[0] for split in (*made.test, *made.validation)])
        assert len(rows.unique(dim=0)) == len(rows) == 10 * (task.TEST + task.VALIDATION)


def test_siblings_are_trained_once(home: Path, setting: task.Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    assert len(list((home / "cache" / "prepared" / "merge").glob("*/*.safetensors"))) >= 1
    monkeypatch.setattr(task, "fit_split", never)
    again = task.make(0, "quick")
    for one, two in zip((setting.base, *setting.models), (again.base, *again.models), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    with pytest.raises(AssertionError, match="trained again"):
        task.make(77, "quick")


def test_each_sibling_is_best_at_its_own_pair(setting: task.Setting) -> None:
    for number, pair in enumerate(task.PAIRS):
        found = [task.accuracy(task.Pair(model, pair), setting.test[number]) for model in setting.models]
        assert max(range(5), key=lambda n: found[n]) == number
        assert found[number] > 0.8


def test_a_good_arm_beats_planted_bad_ones_and_itself_only_ties(setting: task.Setting) -> None:
    average = accuracy(Arm("uniform-average"), setting)
    base = accuracy(Arm("task-arithmetic", scale=0.0), setting)
    assert average > base + 0.03
    assert accuracy(Arm("task-arithmetic"), setting) > base + 0.05
    assert accuracy(Arm("ties"), setting) > base + 0.03
    assert accuracy(Arm("task-arithmetic", scale=-0.4), setting) < base - 0.1
    assert accuracy(Arm("uniform-average"), setting) == average  # A/A on the same siblings: the floor is zero


def test_the_factor_is_chosen_on_validation_data_unless_the_arm_sets_it(setting: task.Setting) -> None:
    tuned = build(Arm("task-arithmetic"), setting)
    assert set(tuned.validation) == {str(scale) for scale in task.SCALES}
    assert tuned.validation[str(tuned.scale)] == max(tuned.validation.values())
    same = build(Arm("task-arithmetic", scale=tuned.scale), setting)
    assert setting.validate(same.model) == setting.validate(tuned.model) == tuned.validation[str(tuned.scale)]
    assert all(torch.equal(a, b) for a, b in zip(same.model.parameters(), tuned.model.parameters(), strict=True))
    for arm in (Arm("task-arithmetic", scale=0.3), Arm("uniform-average")):
        assert build(arm, setting).scale is None
    assert task.totals(tuned, setting)["scale"] == tuned.scale
    assert "scale" not in task.totals(build(Arm("uniform-average"), setting), setting)


def test_scores_are_those_of_the_logits_and_can_be_resumed(setting: task.Setting) -> None:
    arm = build(Arm("uniform-average"), setting)
    rows = list(task.score(arm, setting))
    assert list(task.score(arm, setting, start=60)) == rows[60:]
    first, second = task.PAIRS[3]
    with torch.no_grad():
        logits = arm.model(setting.test[3].inputs[0])
    right = (logits[:, second] > logits[:, first]).long() == setting.test[3].labels
    assert [row["correct_6_7"] for row in rows] == right.double().tolist()
    assert rows[5]["correct"] == sum(rows[5][f"correct_{a}_{b}"] for a, b in task.PAIRS) / 5
    assert task.totals(arm, setting)["models"] == 5


def test_data_and_model_are_refused() -> None:
    for given in ({"data": "news"}, {"model": "gpt2"}):
        with pytest.raises(ValueError, match="takes neither"):
            task.make(0, "quick", **given)
