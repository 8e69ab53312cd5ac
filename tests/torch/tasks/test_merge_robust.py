"""Patching weights: what each network saw, the cache, good arms against planted bad ones, the factor's tuning."""

from pathlib import Path
from typing import Any

import pytest
import torch

from paperlab.core.card import Arm
from paperlab.lab.arms import build_arm
from paperlab.lab.drivers._common import silent
from paperlab.tasks import merge_robust as task


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("siblings")


@pytest.fixture(autouse=True)
def _home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERLAB_HOME", str(home))


def build(arm: Arm, setting: task.Setting) -> Any:
    return build_arm(arm, "merge_robust", setting, 0, silent)


def figure(arm: Arm, setting: task.Setting, key: str = "correct_corrupted") -> float:
    rows = list(task.score(build(arm, setting), setting))
    assert len(rows) == task.items(setting) == 5 * task.TEST
    return sum(row[key] for row in rows) / len(rows)


def test_what_is_patched_and_with_what() -> None:
    own, other, several = (task.make(0, "quick", data=data) for data in ("own", None, "several"))
    assert [len(setting.models) for setting in (own, other, several)] == [3, 3, 5]

    def same(one: torch.nn.Module, two: torch.nn.Module) -> bool:
        return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))

    assert same(own.models[0], own.models[1])
    assert not same(other.models[0], other.models[1])
    assert same(own.models[2], other.models[2])
    assert torch.equal(other.test["clean"].labels.bincount(), torch.full((5,), task.TEST))
    again = task.make(1, "quick")
    assert torch.equal(other.test["noise"].inputs[0], again.test["noise"].inputs[0])
    assert not torch.equal(other.validation["clean"].inputs[0], again.validation["clean"].inputs[0])


def test_robust_networks_are_robust_and_planted_bad_patches_are_not() -> None:
    own = task.make(0, "quick", data="own")
    clean, robust = (own.right(model, own.test["noise"])[0].mean().item() for model in own.models[1:])
    assert robust > clean + 0.03
    unpatched = figure(Arm("robust-weight-signatures", scale=0.0), own)
    assert unpatched == pytest.approx(clean)
    assert figure(Arm("robust-weight-signatures", scale=-3.0), own) < unpatched - 0.1
    # all that the robust network learnt in place of the clean one's is the robust network
    assert figure(Arm("task-arithmetic", scale=1.0, weights="0,0,1"), own) == pytest.approx(robust)


def test_the_factor_is_chosen_where_several_are_added_up() -> None:
    several = task.make(0, "quick", data="several")
    made = build(Arm("robust-weight-signatures"), several)
    assert set(made.validation) == {str(scale) for scale in task.SCALES}
    assert made.validation[str(made.scale)] == max(made.validation.values())
    assert build(Arm("robust-weight-signatures"), task.make(0, "quick")).scale is None


def test_scores_can_be_resumed_and_data_is_refused() -> None:
    setting = task.make(0, "quick")
    arm = build(Arm("robust-weight-signatures"), setting)
    rows = list(task.score(arm, setting))
    assert list(task.score(arm, setting, start=100)) == rows[100:]
    for given in ({"data": "news"}, {"model": "gpt2"}):
        with pytest.raises(ValueError, match="own small networks"):
            task.make(0, "quick", **given)
