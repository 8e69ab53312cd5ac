"""Reading the events of a run: new bytes only, torn and strange lines, estimates, a process that starts again."""

import json
import time
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
    assert events.progress() == {"stage": "", "arms": {}, "ends": None}
    assert events.records is None


def test_stage_arms_records_and_error(events: Any) -> None:
    append(events, {"kind": "begin"}, stage(), {**item(1), "kind": "build", "what": "blocks", "total": 3})
    assert events.read()
    assert events.progress() == {"stage": "lm on smol, quick", "arms": {"a": ["blocks", 1, 3]}, "ends": None}
    append(events, item(2), item(4, seed=1), item(1, "b"), {"kind": "error", "arm": "b", "seed": 0, "message": "no"})
    assert events.read()
    assert events.arms == {"a": ["scored", 2, 8], "a, seed 1": ["scored", 4, 8], "b": ["failed", 1, 8]}
    append(events, {"kind": "record", "record": "x"})
    events.read()
    assert events.records is None  # one of them is not all
    append(events, stage(model=None, task="train"), {"kind": "recorded", "records": ["x", "y"]})
    append(events, {"kind": "failed", "message": "the disk is full"})
    events.read()
    assert (events.stage, events.arms) == ("train, quick", {})
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


def test_a_process_that_starts_again_starts_its_progress_over(events: Any) -> None:
    append(events, {"kind": "begin"}, stage(), item(7), {"kind": "estimate", "seconds": 60})
    append(events, {"kind": "failed", "message": "no"})
    append(events, {"kind": "begin"})
    events.read()
    assert events.progress() == {"stage": "", "arms": {}, "ends": None}
    assert events.error == ""


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
    from paperlab.site.runs.models import Run
    from paperlab.site.runs.views import _live

    arms = {"a": ["scored", 1, 8]}
    run = Run.objects.create(
        once="1", method="gptq", scale="quick", state="running",
        progress={"stage": "lm, quick", "arms": arms, "ends": time.time() + 200},
    )  # fmt: skip
    assert "lm, quick; about 4 minutes left" in _live(run)["html"]
    run.progress["ends"] = time.time() + 5
    assert "about 1 minute left" in _live(run)["html"]
    for state, ends in (("running", time.time() - 5), ("done", time.time() + 200), ("running", None)):
        run.state, run.progress["ends"] = state, ends
        assert "left" not in _live(run)["html"]
    run.progress = {"stage": "lm, quick", "arms": arms}  # as an older version wrote it
    assert "left" not in _live(run)["html"]
