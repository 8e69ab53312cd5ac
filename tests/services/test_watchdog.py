"""A worker that hangs is replaced, whatever hangs in it; one that works for long is left alone. Real processes."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.services.test_up import wait

pytestmark = pytest.mark.kill
PATIENCE = 20

# What keeps the worker, as `paperlab up` and `python -m paperlab.site.worker` do, with less patience than they have.
KEEPER = """
import sys
from paperlab.site.commands import up
up.SILENT, up.GRACE = 12.0, 2.0
child = up.worker()
child.command = [sys.executable, *sys.argv[1:3]]
up.keep([child], lambda line: print(line, flush=True))
"""
# The worker with one more job among those of its second loop; what it does is in the second argument.
WORKER = """
import json, os, re, sys, time
from pathlib import Path
from paperlab.site import alive
from paperlab.site.commands import worker
from paperlab.site.start import configure
configure()
from paperlab.site.runs import runner

home, kind = Path(os.environ["PAPERLAB_HOME"]), sys.argv[1]
long = 1.7 * float(os.environ["PAPERLAB_WORKER_PATIENCE"])
count = lambda: (home / "began").open("a").write(f"{os.getpid()}\\n")

def extra():
    if (home / "over").exists() or kind == "idle":
        return False
    count()
    if kind == "loop":
        while True:
            pass
    if kind == "lock":  # holds Python's lock: no other thread of the process gets a turn
        re.match("(a+)+$", "a" * 60 + "b")
    until = time.monotonic() + long
    while time.monotonic() < until:  # works, and shows it
        alive.sign()
        time.sleep(0.2)
    (home / "over").touch()
    return True

def command(run):
    return [sys.executable, "-c", f"import time; time.sleep({long}); print('[]')"]

runner.command = command
jobs = worker.light
worker.light = lambda: [worker.Job("mill", extra), *jobs()]
worker.child(int(sys.argv[2]), json.loads(sys.argv[3]) if len(sys.argv) > 3 else [])
"""


class Kept:
    """A worker that is kept, its data folder and its database."""

    def __init__(self, place: Path, kind: str) -> None:
        self.home, self.said = place / "home", place / "said"
        script = place / "worker.py"
        script.write_text(WORKER)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PAPERLAB_", "DJANGO_"))}
        self.environment = {
            **kept, "PAPERLAB_HOME": str(self.home), "PAPERLAB_ENCODER": "none", "PAPERLAB_FETCH": "off",
            "PAPERLAB_WORKER_PATIENCE": str(PATIENCE), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        with open(self.said, "w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-c", KEEPER, str(script), kind], env=self.environment, stdin=subprocess.DEVNULL,
                stdout=stream, stderr=stream,
            )  # fmt: skip

    def text(self) -> str:
        return self.said.read_text()

    def worker(self) -> psutil.Process | None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children():
                if child.status() != psutil.STATUS_ZOMBIE and "worker.py" in " ".join(child.cmdline()):
                    return child
        return None

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of the database; none where there is none yet."""
        with contextlib.suppress(sqlite3.OperationalError):
            base = sqlite3.connect(self.home / "paperlab.sqlite3", timeout=30)
            try:
                with base:
                    return base.execute(query, values).fetchall()
            finally:
                base.close()
        return []

    def beat(self) -> str:
        """When the worker was last at its runs."""
        return str((self.ask("SELECT at FROM runs_beat") or [("",)])[0][0])

    def hangs(self) -> dict[str, int]:
        return {str(name): int(times) for name, times in self.ask("SELECT name, times FROM catalogue_hang")}


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Callable[[str], Kept]]:
    running: list[Kept] = []

    def go(kind: str) -> Kept:
        (tmp_path / "home").mkdir()
        running.append(Kept(tmp_path, kind))
        return running[-1]

    yield go
    for one in running:
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(one.process.pid).children(recursive=True)
            one.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.process.wait(20)
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            one.process.kill()


def test_a_worker_that_is_stopped_is_replaced(kept: Callable[[str], Kept]) -> None:
    up = kept("idle")
    wait(up.beat, up.text)
    first = up.worker()
    assert first is not None
    first.suspend()
    before = up.beat()
    second = wait(lambda: (now := up.worker()) is not None and now.pid != first.pid and now, up.text)
    wait(lambda: up.beat() > before, up.text)  # it has the lock, and works
    assert "the worker does not answer" in up.text()
    assert not first.is_running()
    time.sleep(3)
    now = up.worker()
    assert now is not None
    assert now.pid == second.pid


@pytest.mark.parametrize("kind", ["loop", "lock"])
def test_a_job_that_hangs_is_counted_and_set_aside(kept: Callable[[str], Kept], kind: str) -> None:
    up = kept(kind)
    assert wait(lambda: up.hangs().get("mill"), up.text) == 1
    assert "the worker does not answer" in up.text()
    assert "mill" in up.text()
    if kind == "loop":  # where it was is said
        assert "in extra" in up.text()
    wait(lambda: len((up.home / "began").read_text().split()) >= 2, up.text)  # and it is tried again
    up.ask("UPDATE catalogue_hang SET times = 2 WHERE name = 'mill'")
    wait(lambda: up.hangs().get("mill") == 3, up.text)
    tries = len((up.home / "began").read_text().split())
    last = up.worker()
    assert last is not None
    before = wait(up.beat)
    time.sleep(PATIENCE + 10)
    now = up.worker()
    assert now is not None
    assert now.pid == last.pid
    assert up.beat() > before
    assert len((up.home / "began").read_text().split()) == tries
    doctor = [sys.executable, "-m", "paperlab", "doctor", "--json"]
    said = subprocess.run(doctor, env=up.environment, capture_output=True, text=True)
    rows = {row["name"]: row for row in json.loads(said.stdout)}
    assert rows["worker: mill"]["ok"] is False
    assert "hung 3 times in a row" in rows["worker: mill"]["value"]
    assert "set aside until" in rows["worker: mill"]["value"]


def test_long_work_that_gets_on_is_left_alone(kept: Callable[[str], Kept]) -> None:
    """A job that takes longer than the patience, and a run that does."""
    up = kept("slow")
    wait(up.beat, up.text)
    first = up.worker()
    run = {
        "once": "x", "method": "easyquant", "paper": "", "claim": "", "scale": "quick", "params": "{}", "stop": 0,
        "state": "queued", "worker": "", "starts": 0, "progress": "{}", "log": "", "records": "[]", "error": "",
        "asked": "2026-01-01 00:00:00",
    }  # fmt: skip
    up.ask(f"INSERT INTO runs_run ({', '.join(run)}) VALUES ({', '.join('?' * len(run))})", *run.values())
    wait(lambda: up.ask("SELECT state FROM runs_run") == [("done",)], up.text)
    wait(lambda: (up.home / "over").exists(), up.text)
    assert up.ask("SELECT starts FROM runs_run") == [(1,)]
    assert up.hangs() == {}
    assert up.worker() == first
    assert "does not answer" not in up.text()
