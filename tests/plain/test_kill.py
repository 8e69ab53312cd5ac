"""kill -9 at random moments: no half record, nothing lost, and the resumed run ends with the same bits."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.kill

RUN = """
import json, random, sys, time, types
from paperlab.core.card import Arm, Card, Check
from paperlab.core.methods import Method
from paperlab.core.task import Metric
from paperlab.lab import run

ITEMS = 30
task = types.SimpleNamespace(
    VERSION=1, SCORES=(), TIMED=TIMED, METRICS={"loss": Metric("lower", "loss")}, PAIRED_BY="items",
    COST={}, MODELS=(), SEEDS={"quick": 2}, DATA={},
    make=lambda seed, scale, model, data: seed,
    describe=lambda setting: {"model": "planted"},
    items=lambda setting: ITEMS,
    totals=lambda arm, setting: {"size": 0.1},
)

def score(arm, setting, start=0):
    arm = arm() if callable(arm) else arm
    for item in range(start, ITEMS):
        time.sleep(0.002)
        yield {"loss": random.Random(f"{arm} {setting} {item}").gauss(3, 1)}

task.score = score
check = Check(claim="planted", says="", task="planted", metric="loss", expect="lower", margin=0.01,
              method=Arm("planted"), baseline=Arm("planted", bits=4), gap="")
run.load_task = lambda name: task
card = Card(family="quantization", checks=(check,))
run.find_method = lambda name: Method("planted", card, None, "", (), {}, {}, {})
run.check_arms = lambda check, task: None
run.build_arm = lambda arm, task, setting, seed, progress: f"{arm} {seed}"
run.run_checks("planted", resume=True)
"""


def start(home: Path, timed: bool) -> subprocess.Popen[bytes]:
    code = RUN.replace("TIMED=TIMED", f"TIMED={timed}")
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PAPERLAB_HOME": str(home)})


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
    return [arm["samples"] for arm in record["arms"]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("kills", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path: Path, kills: int, timed: bool) -> None:
    assert start(tmp_path / "unbroken", timed).wait(120) == 0
    began = time.monotonic()
    assert start(tmp_path / "again", timed).wait(120) == 0
    whole = time.monotonic() - began
    draw, landed, homes = random.Random(kills), 0, (tmp_path / f"broken{i}" for i in itertools.count())
    home = next(homes)
    while landed < kills:
        process = start(home, timed)
        try:
            process.wait(draw.uniform(0, 1.2 * whole))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            landed += 1
        if records(home):  # it came through: the samples must be right, and the next kills get a fresh home
            assert samples(home) == samples(tmp_path / "unbroken")
            home = next(homes)
    assert start(home, timed).wait(120) == 0
    assert samples(home) == samples(tmp_path / "unbroken")
    assert not list(home.glob("runs/*"))


STAGES = RUN.replace("TIMED=TIMED", "TIMED=False").replace(
    'check = Check(claim="planted"', 'check = Check(also={"planted_too": "loss"}, claim="planted"'
)


def test_a_resumed_run_of_two_stages_does_the_first_one_once(tmp_path: Path) -> None:
    """The first stage's record is there when the second is killed: the same command, resumed, adds only the second."""
    environment = {**os.environ, "PAPERLAB_HOME": str(tmp_path)}
    draw = random.Random(5)
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", STAGES], env=environment)
        deadline = time.monotonic() + 20
        while not records(tmp_path) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.1))
        process.kill()
        process.wait()
        if not list(tmp_path.glob("runs/*")):
            break
    before = records(tmp_path)
    assert before
    if list(tmp_path.glob("runs/*")):
        assert subprocess.run([sys.executable, "-c", STAGES], env=environment, timeout=60).returncode == 0
    after = records(tmp_path)
    assert sorted(str(row["task"]) for row in after) == ["planted", "planted_too"]
    assert {row["id"] for row in before} <= {row["id"] for row in after}
