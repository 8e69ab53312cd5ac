"""The search where papers lie in PostgreSQL: the tests of SQLite, and one writer for all machines."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BEGIN = """
from paperlab.site.start import start
start()
from paperlab.site.search import engine, index
"""
HOLD = """
with engine.writing(index.folder(), 0):
    print("held", flush=True)
    input()
"""
WRITE = """
try:
    index.refresh(meaning=False, wait=0)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_the_tests_of_sqlite_pass(database, tmp_path):
    told = {
        **os.environ,
        "PAPERLAB_DATABASE": database,
        "PAPERLAB_HOME": str(tmp_path),
        "PAPERLAB_TEST_HOME": str(tmp_path),
    }
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/site/test_search.py",
        "-k",
        "embedded",
    ]
    done = subprocess.run(words, cwd=ROOT, env=told, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_machines_that_share_a_database_write_a_server_one_at_a_time(database, tmp_path):
    """Each has a data folder of its own, so it is not by a file that the second knows of the first."""
    told = {**os.environ, "PAPERLAB_DATABASE": database, "PAPERLAB_SEARCH": "http://127.0.0.1:9"}

    def python(script: str, home: str) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-c", BEGIN + script], env={**told, "PAPERLAB_HOME": home}, **pipes)

    first = python(HOLD, str(tmp_path / "first"))
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    said, _ = python(WRITE, str(tmp_path / "second")).communicate(timeout=60)
    assert said.startswith("Busy another machine")
    first.communicate("\n", timeout=60)
    said, _ = python(WRITE, str(tmp_path / "second")).communicate(timeout=60)
    assert said.startswith("Unreachable PAPERLAB_SEARCH")
