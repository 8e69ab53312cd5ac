"""What a run decides: seeds, shifts, tuning, data, order, records as they come; on a planted task, without torch."""

import random
import types
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from paperlab.core.card import Arm, Card, Check, Gate
from paperlab.core.methods import Method
from paperlab.core.record import Record
from paperlab.core.task import Metric
from paperlab.lab import estimate, execute, run, stage
from paperlab.lab.errors import RunError
from paperlab.lab.journal import Journal

ITEMS = 4


class Planted:
    """Tasks whose arms are drawn where they have the parameter `seed`; what was made and scored is kept."""

    def __init__(self) -> None:
        self.made: list[tuple[str, int, str | None]] = []
        self.built: list[tuple[str, int, Any]] = []
        self.tuned: list[tuple[str, int]] = []
        self.card = Card(family="quantization")

    def task(self, name: str) -> Any:
        def make(seed: int, scale: str, *, model: str | None, data: str | None) -> Any:
            self.made.append((f"{name} {model}", seed, data))
            return types.SimpleNamespace(seed=seed, model=model, data=data)

        def score(arm: Any, setting: Any, start: int = 0) -> Any:
            arm = arm() if callable(arm) else arm
            for item in range(start, ITEMS):
                yield {"loss": random.Random(f"{arm} {item}").gauss(3, 1)}

        return types.SimpleNamespace(
            VERSION=1, SCORES=(), TIMED=name == "timed", METRICS={"loss": Metric("lower", "loss")}, PAIRED_BY="items",
            COST={"quick": 80}, MODELS=("small", "large"), ARM_SECONDS={"small": 1, "large": 50},
            SEEDS={"quick": 1 if name == "timed" else 5}, make=make, score=score,
            describe=lambda setting: {"model": setting.model, "data": setting.data},
            items=lambda setting: ITEMS, totals=lambda arm, setting: {"size": 1.0},
        )  # fmt: skip


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planted:
    found = Planted()
    tasks = {name: found.task(name) for name in ("items", "timed")}
    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path))

    def build(arm: Arm, task: str, setting: Any, seed: int, progress: Any, tuned: Any = None) -> str:
        found.built.append((str(arm), seed, tuned))
        assert setting.seed == seed  # items are the same for all seeds, so the setting is the seed's own
        if arm.params.get("broken"):
            raise ValueError("broken")
        return f"{arm} {seed if 'seed' in arm.params else ''}"

    def tune(arm: Arm, task: str, setting: Any, seed: int, progress: Any) -> Any:
        if "rate" not in arm.params:
            return None
        found.tuned.append((str(arm), seed))
        return {"rate": seed + 0.5}

    for room in (run, stage, execute, estimate):
        monkeypatch.setattr(room, "load_task", tasks.__getitem__)
    monkeypatch.setattr(run, "find_method", lambda name: Method("planted", found.card, Path(), "", (), {}, {}, {}))
    monkeypatch.setattr(run, "check_arms", lambda check, task: None)
    monkeypatch.setattr(stage, "is_drawn", lambda arm, task: "seed" in arm.params)
    monkeypatch.setattr(execute, "build_arm", build)
    monkeypatch.setattr(execute, "tune_arm", tune)
    for room in (run, stage):
        monkeypatch.setattr(room, "arm_sources", lambda arm, task: {"methods/planted.py": "0" * 12})
    return found


def check(claim: str = "one", **more: Any) -> Check:
    given: dict[str, Any] = {
        "says": "", "task": "items", "metric": "loss", "expect": "lower", "margin": 0.01, "gap": "",
        "method": Arm("drawn", seed=1), "baseline": Arm("plain"), "models": ("small",),
    }  # fmt: skip
    return Check(claim=claim, **{**given, **more})


def go(planted: Planted, *checks: Check, **options: Any) -> tuple[list[Record], list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    planted.card = Card(family="quantization", checks=checks)
    return run.run_checks("planted", jobs=1, progress=events.append, **options), events


def test_what_is_drawn_runs_on_every_seed_and_the_rest_once(planted: Planted) -> None:
    (record,), _ = go(planted, check())
    method, baseline = record.arms
    assert record.seeds == [0, 1, 2, 3, 4]
    assert (list(method.samples), method.drawn) == (["0", "1", "2", "3", "4"], True)
    assert (list(baseline.samples), baseline.drawn) == (["0"], False)
    assert baseline.sources == {"methods/planted.py": "0" * 12}
    (alone,), _ = go(planted, check(method=Arm("plain", bits=3)))
    assert alone.seeds == [0]
    assert [len(arm.samples) for arm in alone.arms] == [1, 1]


def test_the_number_of_seeds_is_the_user_s_where_they_say(planted: Planted) -> None:
    (record,), _ = go(planted, check(), seeds=2)
    assert record.seeds == [0, 1]
    assert record.command.endswith("--seeds 2")


def test_a_task_says_how_many_seeds_a_slow_model_gets(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the time was: two machines make the same number of draws."""
    task = run.load_task("items")
    monkeypatch.setattr(task, "MODELS", ("large", "small"))
    monkeypatch.setattr(task, "MODEL_SEEDS", {"large": {"quick": 3}}, raising=False)
    monkeypatch.setattr(Journal, "seconds", lambda self, key, seed: 61.0)
    assert sorted(len(record.seeds) for record in go(planted, check("quick", models=()))[0]) == [3, 5]
    assert [len(record.seeds) for record in go(planted, check("quick"), model="large", seeds=4)[0]] == [4]


@pytest.mark.parametrize(("seconds", "seeds"), [(59.0, 5), (61.0, 3)])
def test_a_long_first_draw_leaves_fewer(
    planted: Planted, monkeypatch: pytest.MonkeyPatch, seconds: float, seeds: int
) -> None:
    """On a user's own model. Decided for each check by its own arms; kept in the record."""
    took = lambda self, key, seed: seconds if "slow" in key else 1.0  # noqa: E731
    monkeypatch.setattr(Journal, "seconds", took)
    slow = check("slow", method=Arm("slow", seed=1), baseline=Arm("drawn", seed=1))
    made = go(planted, slow, check("quick"), model="own")[0]
    first, second = sorted(made, key=lambda record: record.check.claim)
    assert first.check.claim == "quick"
    assert len(first.seeds) == 5
    assert "draws" not in first.setting
    assert len(second.seeds) == seeds
    assert {len(arm.samples) for arm in second.arms} == {seeds}
    expected = {"planned": 5, "made": 3, "seconds": 61.0} if seeds == 3 else None
    assert second.setting.get("draws") == expected
    slow_seeds = {seed for name, seed, _ in planted.built if name.startswith("slow")}
    assert slow_seeds == set(range(seeds))


def test_rates_are_chosen_on_the_first_seed(planted: Planted) -> None:
    (record,), _ = go(planted, check(method=Arm("trained", seed=1, rate=1)))
    assert [seed for _, seed in planted.tuned] == [0]
    assert record.arms[0].tuned == {"rate": 0.5}
    assert record.arms[1].tuned is None
    trained = [(seed, tuned) for name, seed, tuned in planted.built if name.startswith("trained")]
    assert trained == [(seed, {"rate": 0.5}) for seed in range(5)]


def test_an_arm_against_itself_has_other_seeds_where_it_is_drawn(planted: Planted) -> None:
    same = check(method=Arm("drawn", seed=1), baseline=Arm("drawn", seed=1), role="a/a control")
    (record,), _ = go(planted, same)
    first, again = record.arms
    assert (first.shift, again.shift) == (0, 1000)
    assert list(again.samples) == list(first.samples)
    assert again.samples != first.samples
    seeds = Counter(seed for name, seed, _ in planted.built)
    assert sorted(seeds) == [0, 1, 2, 3, 4, 1000, 1001, 1002, 1003, 1004]
    (plain,), _ = go(planted, check(method=Arm("plain"), baseline=Arm("plain"), role="a/a control"))
    assert [arm.shift for arm in plain.arms] == [0, 0]
    assert plain.arms[0].samples == plain.arms[1].samples


def test_arms_that_checks_share_run_once_and_gates_run_too(planted: Planted) -> None:
    gate = Gate("same at the start", method=Arm("drawn", seed=1, steps=0), baseline=Arm("start"))
    whole = check(gates=(gate,), trivial=Arm("trivial"), ablation=Arm("ablation", seed=1), beside=(Arm("original"),))
    records, _ = go(planted, whole, check("two"))
    assert [str(arm.arm) for arm in records[0].arms] == [
        "drawn(seed=1)", "plain", "original", "trivial", "ablation(seed=1)", "drawn(seed=1, steps=0)", "start",
    ]  # fmt: skip
    assert max(Counter((name, seed) for name, seed, _ in planted.built).values()) == 1
    assert records[0].arms[0].samples == records[1].arms[0].samples


def test_a_check_s_own_data_unless_the_user_names_another(planted: Planted) -> None:
    go(planted, check(data="code"), check("two"))
    assert {data for _, _, data in planted.made} == {"code", None}
    planted.made.clear()
    go(planted, check(data="code"), data="mine.txt")
    assert {data for _, _, data in planted.made} == {"mine.txt"}


def test_the_smallest_model_goes_first_and_what_is_timed_last(planted: Planted) -> None:
    everywhere = check(models=("large", "small"), also={"timed": "loss"})
    records, events = go(planted, everywhere)
    assert [(record.task, record.model) for record in records] == [
        ("items", "small"), ("items", "large"), ("timed", "small"), ("timed", "large"),
    ]  # fmt: skip
    kinds = [event["kind"] for event in events]
    assert kinds.index("record") < [i for i, kind in enumerate(kinds) if kind == "stage"][1]  # as soon as it is there
    assert kinds[-1] == "recorded"


def test_the_time_left_is_told_from_the_start_and_falls_to_nothing(planted: Planted) -> None:
    _, events = go(planted, check(models=("small", "large")))
    left = [event["seconds"] for event in events if event["kind"] == "estimate"]
    assert left[0] > 200  # 6 runs on the large model at 50 s
    assert left[-1] == 0
    _, events = go(planted, check(models=("small", "large")))
    again = [event["seconds"] for event in events if event["kind"] == "estimate"]
    assert again[0] < 30  # it knows by now how quick they are here


def test_a_broken_arm_fails_its_check_alone(planted: Planted) -> None:
    broken = check("broken", method=Arm("broken", broken=True))
    first, second = sorted(go(planted, broken, check())[0], key=lambda record: record.check.claim)
    assert (first.check.claim, first.status) == ("broken", "failed")
    assert "ValueError: broken" in str(first.error)
    assert second.status == "finished"


def test_only_what_is_wanted_is_repeated(planted: Planted) -> None:
    planted.card = Card(family="quantization", checks=(check(models=("small", "large")),))
    method = run.find_method("planted")
    (one,) = run.chosen(method)
    wanted = [run.Wanted(method, one.check, on=("items", "large"))]
    (record,) = run.run_all(wanted, jobs=1)
    assert record.model == "large"


def test_what_cannot_be_run_is_refused(planted: Planted) -> None:
    with pytest.raises(RunError, match="no scale 'slow'"):
        go(planted, check(), scale="slow")
    with pytest.raises(RunError, match="no check 'two'; it has one"):
        go(planted, check(), claim="two")
    with pytest.raises(RunError, match="baseline"):
        go(planted)
