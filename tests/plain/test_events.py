"""The events of a run as JSON lines: what is written, how often, and that a torn line spoils only itself."""

import json
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from paperlab.cli import app, events


@dataclass
class Record:
    id: str


def read(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def item(done, total=1000, arm="a", seed=0, kind="item", **more):
    return {"kind": kind, "arm": arm, "seed": seed, "done": done, "total": total, **more}


def test_every_kind_is_written_without_samples_and_with_records_by_their_ids(tmp_path):
    file = tmp_path / "events.jsonl"
    with events.events_to(file) as write:
        write({"kind": "stage", "task": "t", "model": None, "scale": "quick", "arms": ["a"]})
        write(item(1, 1, values={"loss": float("nan")}))
        write({"kind": "estimate", "seconds": 12.5})
        write({"kind": "record", "record": Record("one")})
        write({"kind": "recorded", "records": [Record("one"), Record("two")]})
        assert len(read(file)) == 6  # each is there at once, not when the file is closed
    rows = read(file)
    assert [row["kind"] for row in rows] == ["begin", "stage", "item", "estimate", "record", "recorded"]
    assert all(row.pop("time") > 1.7e9 for row in rows)
    assert rows[2] == {"kind": "item", "arm": "a", "seed": 0, "done": 1, "total": 1}
    assert (rows[4]["record"], rows[5]["records"]) == ("one", ["one", "two"])


def test_items_are_thinned_but_the_first_and_the_last_of_a_phase_stay(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(events.time, "monotonic", lambda: now[0])
    file = tmp_path / "events.jsonl"
    with events.events_to(file) as write:
        for done in range(1, 1001):  # in ten seconds
            now[0] += 0.01
            write(item(done))
            write(item(done, arm="b"))
        write(item(1, 3, kind="build", what="blocks"))
        write(item(2, 3, kind="build", what="blocks"))
        write(item(3, 3, kind="build", what="blocks"))
        write(item(1, seed=1))
    steps = [row for row in read(file) if row["kind"] == "item" and row["arm"] == "a" and row["seed"] == 0]
    assert 45 <= len(steps) <= 52  # five a second
    assert (steps[0]["done"], steps[-1]["done"]) == (1, 1000)
    assert len([row for row in read(file) if row.get("arm") == "b"]) == len(steps)
    assert [row["done"] for row in read(file) if row["kind"] == "build"] == [1, 3]
    assert len([row for row in read(file) if row.get("seed") == 1]) == 1


def test_a_resumed_run_goes_on_behind_a_torn_line(tmp_path):
    file = tmp_path / "events.jsonl"
    with events.events_to(file) as write:
        write(item(1))
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"kind": "ite')
    with events.events_to(file) as write:
        write(item(2))
    lines = file.read_text().splitlines()
    assert lines[2] == '{"kind": "ite'
    assert [json.loads(line)["kind"] for line in (*lines[:2], *lines[3:])] == ["begin", "item", "begin", "item"]


@pytest.mark.parametrize("error", [ValueError("no\nsuch model"), RuntimeError("")])
def test_what_ends_a_run_is_written(tmp_path, error):
    file = tmp_path / "events.jsonl"
    with pytest.raises(type(error)), events.events_to(file):
        raise error
    assert read(file)[-1]["message"] == (" ".join(str(error).split()) or type(error).__name__)


def test_a_missing_package_is_left_to_the_log(tmp_path):
    file = tmp_path / "events.jsonl"
    with pytest.raises(ImportError), events.events_to(file):
        raise ImportError("No module named 'torch'")
    assert [row["kind"] for row in read(file)] == ["begin"]


def test_nothing_is_written_unless_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with events.events_to(None) as write:
        write(item(1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["option", "environment"])
def test_the_command_writes_them(tmp_path, monkeypatch, how):
    import paperlab.lab.run

    def run_checks(slug, *, progress, **options):
        assert "events" not in options
        progress(item(1, 2, values={}))
        raise paperlab.lab.run.RunError("nothing to run here")

    monkeypatch.setattr(paperlab.lab.run, "run_checks", run_checks)
    file = tmp_path / "events.jsonl"
    words = ["--events", str(file)] if how == "option" else []
    if how == "environment":
        monkeypatch.setenv("PAPERLAB_EVENTS", str(file))
    done = CliRunner().invoke(app, ["run", "easyquant", *words])
    assert done.exit_code == 2
    assert [row["kind"] for row in read(file)] == ["begin", "item", "failed"]
    assert read(file)[-1]["message"] == "nothing to run here"


def test_a_file_that_cannot_be_written_stops_the_run_before_any_work(tmp_path, monkeypatch):
    import paperlab.lab.run

    monkeypatch.setattr(paperlab.lab.run, "run_checks", lambda *_, **__: pytest.fail("it ran"))
    done = CliRunner().invoke(app, ["run", "easyquant", "--events", str(tmp_path / "none" / "events.jsonl")])
    assert done.exit_code == 1
    assert "No such file" in done.output
