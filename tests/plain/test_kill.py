"""kill -9 at random moments: no half record, nothing lost, and the resumed run ends with the same bits.

In one process and in a pool; of the whole run and of one process of the pool.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.kill

# Found by every Python that has its folder on its path, the pool's processes too: a task and a method without torch.
PLANTED = """
import os, random, signal, time, types

import paperlab.core.methods, paperlab.core.sources, paperlab.core.task
from paperlab.core.card import Arm, Card, Check
from paperlab.core.methods import Method
from paperlab.core.task import Metric

ITEMS = 30
task = types.SimpleNamespace(
    VERSION=1, SCORES=(), TIMED=bool(os.environ.get("TIMED")), METRICS={"loss": Metric("lower", "loss")},
    PAIRED_BY="seeds", COST={"quick": 1}, MODELS=(), SEEDS={"quick": 2}, DATA={},
    make=lambda seed, scale, model, data: seed,
    describe=lambda setting: {"model": "planted"},
    items=lambda setting: ITEMS,
    totals=lambda arm, setting: {"size": 0.1},
)

def score(arm, setting, start=0):
    arm = arm() if callable(arm) else arm
    for item in range(start, ITEMS):
        time.sleep(float(os.environ.get("ITEM_SECONDS", "0.002")))
        if "bits=5" in arm and item == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        yield {"loss": random.Random(f"{arm} {setting} {item}").gauss(3, 1)}

task.score = score
deadly = (Arm("planted", bits=5),) if os.environ.get("DEADLY") else ()
also = {"planted_too": "loss"} if os.environ.get("STAGES") else {}
check = Check(claim="planted", says="", task="planted", metric="loss", expect="lower", margin=0.01,
              method=Arm("planted"), baseline=Arm("planted", bits=4), beside=deadly, also=also, gap="")
card = Card(family="quantization", checks=(check,))
paperlab.core.task.load_task = lambda name: task
paperlab.core.methods.find_method = lambda name: Method("planted", card, None, "", (), {}, {}, {})
paperlab.core.sources.arm_sources = lambda arm, task: {}

import paperlab.lab.arms

def tune_arm(arm, task, setting, seed, progress):
    return {"rate": seed + 0.5}

def build_arm(arm, task, setting, seed, progress, tuned):
    assert tuned == {"rate": 0.5}, tuned  # what the first seed chose
    return f"{arm} {seed}"

paperlab.lab.arms.check_arms = lambda check, task: None
paperlab.lab.arms.tune_arm = tune_arm
paperlab.lab.arms.build_arm = build_arm
"""
RUN = "from paperlab.lab.run import run_checks; run_checks('planted', resume=True, jobs={jobs})"


@pytest.fixture(autouse=True)
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "sitecustomize.py").write_text(PLANTED)
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "planted"), *filter(None, [before])]))


def start(home: Path, jobs: int = 1, **environment: str) -> subprocess.Popen[bytes]:
    variables = {**os.environ, "PAPERLAB_HOME": str(home), **environment}
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # where the tests run in the background it is ignored
    return subprocess.Popen([sys.executable, "-c", RUN.format(jobs=jobs)], env=variables, preexec_fn=heard)


def records(home: Path) -> list[dict[str, object]]:
    """All lines of all record files; fails on half a line."""
    return [
        json.loads(line)
        for file in home.glob("records/*/*/*.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]


def samples(home: Path) -> object:
    (record,) = records(home)
    assert record["status"] == "finished"
    return [(arm["samples"], arm["tuned"]) for arm in record["arms"]]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("jobs", "timed"), [(1, False), (2, False), (1, True)])
@pytest.mark.parametrize("kills", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path: Path, kills: int, jobs: int, timed: bool) -> None:
    more = {"TIMED": "1"} if timed else {}
    assert start(tmp_path / "unbroken", **more).wait(120) == 0
    began = time.monotonic()
    assert start(tmp_path / "again", jobs, **more).wait(120) == 0
    assert samples(tmp_path / "again") == samples(tmp_path / "unbroken")
    whole = time.monotonic() - began
    draw, landed, homes = random.Random(kills), 0, (tmp_path / f"broken{i}" for i in itertools.count())
    home = next(homes)
    while landed < kills:
        process = start(home, jobs, **more)
        try:
            process.wait(draw.uniform(0, 1.2 * whole))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            landed += 1
        if records(home):  # it came through: the samples must be right, and the next kills get a fresh home
            assert samples(home) == samples(tmp_path / "unbroken")
            home = next(homes)
    assert start(home, jobs, **more).wait(120) == 0
    assert samples(home) == samples(tmp_path / "unbroken")
    assert not list(home.glob("runs/*"))


def test_a_resumed_run_of_two_stages_does_the_first_one_once(tmp_path: Path) -> None:
    """The first stage's record is there when the second is killed: the same command, resumed, adds only the second."""
    home, draw = tmp_path / "home", random.Random(5)
    for _ in range(6):
        process = start(home, STAGES="1")
        deadline = time.monotonic() + 20
        while not records(home) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.1))
        process.kill()
        process.wait()
        if not list(home.glob("runs/*")):
            break
    before = records(home)
    assert before
    if list(home.glob("runs/*")):
        assert start(home, STAGES="1").wait(60) == 0
    after = records(home)
    assert sorted(str(row["task"]) for row in after) == ["planted", "planted_too"]
    assert {row["id"] for row in before} <= {row["id"] for row in after}


def workers_of(process: subprocess.Popen[bytes], count: int) -> list[psutil.Process]:
    """The pool's processes, once there are so many."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            found = psutil.Process(process.pid).children()
        except psutil.NoSuchProcess:
            break
        found = [one for one in found if "paperlab.lab.pool" in " ".join(one.cmdline())]
        if len(found) >= count:
            return found
        time.sleep(0.005)
    raise AssertionError("the pool did not start")


def test_a_killed_process_of_the_pool_costs_only_its_arm(tmp_path: Path) -> None:
    assert start(tmp_path / "unbroken").wait(120) == 0
    draw = random.Random(1)
    for number in range(4):
        home = tmp_path / f"home{number}"
        process = start(home, 2)
        workers = workers_of(process, 2)
        while not list(home.glob("runs/*/*.jsonl")):  # both have started
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.1))
        workers[number % 2].kill()
        assert process.wait(60) == 0
        assert samples(home) == samples(tmp_path / "unbroken")


def test_an_arm_that_ends_its_process_twice_has_broken_and_the_others_are_kept(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert start(home, 2, DEADLY="1").wait(120) == 0
    (record,) = records(home)
    method, baseline, deadly = record["arms"]  # type: ignore[misc]
    assert record["status"] == "finished"  # it is neither method nor baseline
    assert not method["error"]
    assert not baseline["error"]
    assert "ended 2 times" in deadly["error"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_pool_ends_with_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    process = start(tmp_path / "home", 2, ITEM_SECONDS="1")  # it must not end by itself first
    workers = workers_of(process, 2)
    time.sleep(0.3)
    process.send_signal(how)
    assert process.wait(30) != 0
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive


def test_the_same_run_twice_at_once_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = start(home, TIMED="1")
    while not list(home.glob("runs/*/*.jsonl")):
        time.sleep(0.005)
    first.send_signal(signal.SIGSTOP)
    try:
        variables = {**os.environ, "PAPERLAB_HOME": str(home), "TIMED": "1"}
        code = [sys.executable, "-c", RUN.format(jobs=1)]
        second = subprocess.run(code, env=variables, capture_output=True, text=True, timeout=60)
        assert second.returncode != 0
        assert "under way in another process" in second.stderr
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.wait(60) == 0
    assert len(records(home)) == 1
