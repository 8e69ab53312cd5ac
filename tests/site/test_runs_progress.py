"""Reading the events of a run: new bytes only, torn and strange lines, estimates, a process that starts again."""

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def events(tmp_path: Path) -> Any:
    from paperlab.site.runs.progress import EventFile

    return EventFile(tmp_path / "events.jsonl")


def append(events: Any, *rows: dict[str, Any], torn: str = "") -> None:
    with open(events.path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps({"time": 1000.0, **row}) + "\n" for row in rows)
        file.write(torn)


def stage(**more: Any) -> dict[str, Any]:
    return {"kind": "stage", "task": "lm", "model": "smol", "scale": "quick", "arms": ["a", "b"], **more}


def item(done: int, arm: str = "a", **more: Any) -> dict[str, Any]:
    return {"kind": "item", "arm": arm, "seed": 0, "done": done, "total": 8, **more}


def test_a_file_that_is_not_there_yet_has_no_progress(events: Any) -> None:
    assert not events.read()
    assert events.progress() == {"stage": "", "arms": {}, "before": {}, "waiting": [], "ends": None}
    assert events.records is None


def test_stage_arms_records_and_error(events: Any) -> None:
    append(events, {"kind": "begin"}, stage(), {**item(1), "kind": "build", "what": "blocks", "total": 3})
    assert events.read()
    assert (events.stage, events.arms) == ("lm on smol, quick", {"a": ["blocks", 1, 3]})
    assert events.waiting == ["b"]
    append(events, item(2), item(4, seed=1), item(1, "b"), {"kind": "error", "arm": "b", "seed": 0, "message": "no"})
    assert events.read()
    assert events.arms == {"a": ["scored", 2, 8], "a, seed 1": ["scored", 4, 8], "b": ["failed", 1, 8]}
    append(events, {"kind": "record", "record": "x"})
    events.read()
    assert events.records is None  # one of them is not all
    append(events, stage(model=None, task="train"), {"kind": "recorded", "records": ["x", "y"]})
    append(events, {"kind": "failed", "message": "the disk is full"})
    events.read()
    assert (events.stage, events.arms, events.waiting) == ("train, quick", {}, ["a", "b"])
    assert events.before["lm on smol, quick"]["b"] == ["failed", 1, 8]  # what an earlier stage did stays
    assert (events.records, events.error) == (["x", "y"], "the disk is full")
    assert not events.read()


def test_only_new_bytes_are_read_and_a_torn_line_waits(events: Any) -> None:
    append(events, item(1), torn='{"kind": "item", "arm": "a", "se')
    assert events.read()
    assert events.arms == {"a": ["scored", 1, 8]}
    assert not events.read()
    reached = events.offset
    with open(events.path, "r+b") as file:
        file.write(b"#" * reached)  # what was read is not read again
    append(events, torn='ed": 0, "done": 5, "total": 8, "time": 1}\n')
    assert events.read()
    assert events.arms == {"a": ["scored", 5, 8]}


def test_lines_that_are_no_events_are_skipped(events: Any) -> None:
    append(events, item(1))
    with open(events.path, "ab") as file:
        file.write(b'{"kind": "ite\n\xff\xfe\n[]\n7\nnull\n{}\n{"kind": []}\n{"kind": "item", "arm": "a"}\n')
        file.write(b'{"kind": "item", "arm": "a", "seed": 0, "done": "x", "total": 8}\n' + b"[" * 100_000 + b"\n")
        file.write(b'{"kind": "recorded", "records": null}\n{"kind": "estimate"}\n{"kind": "new kind", "arm": "a"}\n')
    append(events, item(2))
    events.read()
    assert events.arms == {"a": ["scored", 2, 8]}
    assert events.records is None


def test_a_line_longer_than_any_event_does_not_stop_the_reading(events: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from paperlab.site.runs import progress

    monkeypatch.setattr(progress, "CHUNK", 500)
    append(events, torn="x" * 5000 + "\n")
    append(events, *[item(done) for done in range(1, 9)])
    events.read()
    assert events.arms == {"a": ["scored", 8, 8]}


def test_text_is_what_a_database_and_a_page_can_hold(events: Any) -> None:
    append(events, item(1, "a\0b\x1b[31m\ud800" + "x" * 1000), item(10**30, "b", total=10**30))
    events.read()
    name = next(iter(events.arms))
    assert name.startswith("ab[31mxxx")
    assert len(name) <= 200
    assert events.arms["b"][1:] == [10**9, 10**9]


def test_a_process_that_starts_again_keeps_what_was_finished_and_starts_the_rest_over(events: Any) -> None:
    append(events, {"kind": "begin"}, stage(), item(8), item(7, "b"), {"kind": "estimate", "seconds": 60})
    append(events, {"kind": "failed", "message": "no"})
    append(events, {"kind": "begin"})
    events.read()
    assert (events.stage, events.arms, events.ends, events.error) == ("", {}, None, "")
    assert events.before == {"lm on smol, quick": {"a": ["scored", 8, 8]}}
    append(events, stage())
    events.read()
    assert (events.before, events.arms, events.waiting) == ({}, {"a": ["scored", 8, 8]}, ["b"])
    append(events, item(1, "b"), stage(model="other"), item(2))
    events.read()
    assert events.before == {"lm on smol, quick": {"a": ["scored", 8, 8], "b": ["scored", 1, 8]}}
    assert (events.stage, events.arms) == ("lm on other, quick", {"a": ["scored", 2, 8]})


def test_a_run_of_many_stages_keeps_a_bounded_number(events: Any) -> None:
    for n in range(60):
        append(events, stage(model=f"m{n}"), *[item(8, f"arm {i}") for i in range(10)])
    events.read()
    assert sum(map(len, events.before.values())) + len(events.arms) == 200


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "soon", None])
def test_an_estimate_gives_the_end(events: Any, bad: Any) -> None:
    append(events, {"kind": "estimate", "seconds": 90.0}, item(1))
    events.read()
    assert events.ends == 1090.0
    append(events, {**item(2), "eta": 30.0, "time": 1010.0})
    events.read()
    assert events.ends == 1040.0
    append(events, {"kind": "estimate", "seconds": bad})
    events.read()
    assert events.ends == 1040.0


def test_the_page_tells_what_is_left_while_it_runs(store: None) -> None:
    from django.utils import timezone

    from paperlab.site.runs import queue
    from paperlab.site.runs.models import Run
    from paperlab.site.runs.views import _live

    arms = {"a": ["scored", 1, 8]}
    run = Run.objects.create(
        once="1", method="gptq", scale="quick", state="running",
        progress={"stage": "lm, quick", "arms": arms, "ends": time.time() + 200},
    )  # fmt: skip
    assert "left" not in _live(run)["state"]  # nobody works on it
    assert "it continues when a worker is started" in _live(run)["html"]
    queue.beat()
    for seconds, said in ((200, "about 4 minutes left"), (5, "about 1 minute left"), (3700, "about 1 h 2 min left"),
                          (7200, "about 2 h left"), (-5, "longer than estimated")):  # fmt: skip
        run.progress["ends"] = time.time() + seconds - 0.5
        assert said in _live(run)["state"], seconds
        assert "lm, quick" in _live(run)["html"]
    for state, ends in (("done", time.time() + 200), ("running", None)):
        run.state, run.progress["ends"] = state, ends
        assert "left" not in _live(run)["state"]
    run.progress = {"stage": "lm, quick", "arms": arms}  # as an older version wrote it
    assert "left" not in _live(run)["state"]
    # Where the process tells nothing, the same run before does; one with other settings does not.
    now = timezone.now()
    for n, (params, took) in enumerate((({}, 300), ({}, 360), ({}, 900), ({"bits": 2}, 9000))):
        Run.objects.create(once=f"b{n}", method="gptq", scale="quick", state="done", params=params, starts=1)
        Run.objects.filter(once=f"b{n}").update(started=now, ended=now + timedelta(seconds=took))
    run.started = now
    assert "about 6 minutes left" in _live(run)["state"]
    run.state = "queued"
    assert "took 6 minutes last time" in _live(run)["state"]


def test_finished_configurations_stay_on_the_page(store: None) -> None:
    from paperlab.site.runs.models import Run
    from paperlab.site.runs.views import _live

    run = Run.objects.create(
        once="1", method="gptq", scale="quick", state="running",
        progress={
            "stage": "lm on small", "before": {"lm on big": {"gptq": ["scored", 8, 8], "awq": ["failed", 2, 8]}},
            "arms": {"gptq": ["blocks", 1, 4]}, "waiting": ["awq", "rtn"], "ends": None,
        },
    )  # fmt: skip
    said = _live(run)["html"]
    assert said.index("lm on big") < said.index("✓ finished") < said.index("✗ failed") < said.index("lm on small")
    assert said.index("blocks") < said.index("rtn")
    assert "2 finished, 2 not started" in said
    run.state = "cancelled"
    assert "not started" not in _live(run)["html"]
