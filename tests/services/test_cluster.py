"""Runs on a Ray cluster: the samples of a run on this machine; a lost worker costs what it was at."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from paperlab.core.card import Arm
from paperlab.core.sources import arm_sources
from paperlab.lab.cluster import Cluster, Remote
from paperlab.lab.errors import RunError
from paperlab.lab.execute import Job, Place

if not os.environ.get("PAPERLAB_REQUIRE_SERVICES"):
    pytest.importorskip("ray")

from tests.plain.test_kill import PLANTED, records, samples

RUN = """
import sys
from paperlab.lab.run import run_checks
run_checks("planted", resume=True, jobs=2, on={on!r}, progress=lambda event: print(event, flush=True))
"""


@pytest.fixture(autouse=True)
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "sitecustomize.py").write_text(PLANTED)
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "planted"), *filter(None, [before])]))


def start(home: Path, on: str | None, **environment: str) -> subprocess.Popen[str]:
    variables = {**os.environ, "PAPERLAB_HOME": str(home), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", RUN.format(on=on)], env=variables, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def actors(of: int) -> list[psutil.Process]:
    """The workers of a run's own cluster."""
    return [
        process
        for process in psutil.Process(of).children(recursive=True)
        if "ray::Remote" in " ".join(process.cmdline()[:1])
    ]


def test_the_samples_are_those_of_this_machine(tmp_path: Path) -> None:
    for name, on in (("here", None), ("there", "local")):
        process = start(tmp_path / name, on)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert samples(tmp_path / "there") == samples(tmp_path / "here")
    (here,), (there,) = records(tmp_path / "here"), records(tmp_path / "there")
    for one in (here, there):
        for own in ("started", "finished", "id", "code_hash", "arms"):  # arms hold seconds too
            del one[own]
    assert here == there


def test_a_lost_worker_costs_what_it_was_at(tmp_path: Path) -> None:
    assert start(tmp_path / "here", None).wait(120) == 0
    process = start(tmp_path / "there", "local", ITEM_SECONDS="0.05")
    assert process.stdout is not None
    lines: list[str] = []
    killed = False
    for line in process.stdout:
        lines.append(line)
        if not killed and "'kind': 'item'" in line and "'done': 1" in line:
            killed = True
            time.sleep(0.3)
            actors(process.pid)[0].kill()
    assert process.wait(120) == 0, "".join(lines)
    assert killed
    assert any("is lost" in line and "goes on elsewhere" in line for line in lines), "".join(lines)
    assert samples(tmp_path / "there") == samples(tmp_path / "here")


def test_a_cluster_that_is_not_there_is_named() -> None:
    for address, why in (("ray://127.0.0.1:1", "refused"), ("127.0.0.1:x", "invalid literal"), ("rays", "HOST:PORT")):
        with pytest.raises(RunError, match=f"no Ray cluster .*{address}.*{why}"):
            Cluster(address)


def test_a_worker_with_other_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path))
    arm = Arm("task-arithmetic", scale=0.3)
    job = Job(Place("merge", None, "quick", None), arm, "one", "one", 0, 0, None, tmp_path)
    worker, sources = Remote(), arm_sources(arm, "merge")
    said: dict[str, Any] = worker.run(job.to_json(), [], {**sources, "kit/merging.py": "other"})
    assert said["type"] == "RunError"
    assert "other code than this machine" in said["message"]
    assert worker.run(job.to_json(), [], sources) == {"kind": "done"}
    lines = [one["line"] for one in worker.news() if "line" in one]
    assert [set(line) for line in lines] == [{"item"}] * 100 + [{"end"}]
    assert worker.run(job.to_json(), lines[:40], sources) == {"kind": "done"}  # goes on behind what there is
    again = [one["line"] for one in worker.news() if "line" in one]
    assert again[:-1] == lines[40:-1]
