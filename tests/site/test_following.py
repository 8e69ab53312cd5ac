"""The process that indexes words while papers are stored: it has all of them when it ends, and ends with its parent."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PAPERS = 3_500
STORED = """
import sys
from paperlab.site.start import start
start()
from paperlab.site.commands.following import following
from paperlab.site.commands.terminal import ProgressLine
from paperlab.site.search import index
from paperlab.site.store.harvest import harvest
from paperlab.site.store.sources import files
with open(sys.argv[1], "rb") as stream, following(ProgressLine()) as progress:
    harvest(files.source(stream), progress)
    if sys.argv[2] == "waits":
        print("stored", flush=True)
        sys.stdin.read()
print(index.behind(), index.engine().size)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    if os.environ.get("PAPERLAB_DATABASE"):
        pytest.skip("needs a database of its own")
    rows = [{"id": f"2401.{n:05d}", "title": f"Paper {n}", "abstract": "Words. " * 9} for n in range(PAPERS)]
    (tmp_path / "papers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def begun(home: Path, how: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", STORED, str(home / "papers.jsonl"), how],
        env={**os.environ, "PAPERLAB_HOME": str(home)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_words_are_indexed_by_the_time_all_is_stored(home: Path) -> None:
    with begun(home, "goes on") as process:
        said, _ = process.communicate(timeout=300)
    left, size = map(int, said.split())
    assert left == 0
    assert size > PAPERS  # those of the catalogue too


def test_it_ends_with_a_parent_that_is_killed_and_leaves_an_index_that_is_whole(home: Path) -> None:
    import filelock

    with begun(home, "waits") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stored\n"
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not (home / "search" / "state.json").exists():
        time.sleep(0.1)
    with filelock.FileLock(home / "search" / "write.lock", timeout=100):
        pass
    with begun(home, "goes on") as process:
        said, _ = process.communicate(timeout=300)
    assert next(map(int, said.split())) == 0
