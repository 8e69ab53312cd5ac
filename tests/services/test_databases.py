"""The store on a real PostgreSQL: the tests that SQLite passes; and on both, several processes that write at once."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def environment(database: str, home: Path) -> dict[str, str]:
    return {**os.environ, "PAPERLAB_DATABASE": database, "PAPERLAB_HOME": str(home), "PAPERLAB_TEST_HOME": str(home)}


@pytest.mark.parametrize(
    "module",
    ["test_store.py", "test_sources.py", "test_runs.py", "test_people.py", "test_digest.py", "test_at_once.py"],
)
def test_the_tests_of_sqlite_pass(module, database, tmp_path):
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/site/{module}"]
    done = subprocess.run(
        words, cwd=ROOT, env=environment(database, tmp_path), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_two_processes_import_at_once(kind, tmp_path, request):
    """What both bring is one paper each, and the first start's migration happens once."""
    home = tmp_path / "home"
    database = request.getfixturevalue("database") if kind == "postgres" else f"sqlite://{tmp_path}/store.sqlite3"
    files = []
    for number in range(2):
        file = tmp_path / f"{number}.jsonl"
        rows = [{"title": f"Paper {at}", "id": f"2401.{at:05d}", "upvotes": at} for at in range(number * 300, 1500)]
        file.write_text("\n".join(map(json.dumps, rows)))
        files.append(file)
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "paperlab", "import", str(file), "--json"],
            env=environment(database, home),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for file in files
    ]
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    counts = [json.loads(out)[-1] for out, _ in said]
    assert sum(count["new"] for count in counts) == 1500
    asked = "SELECT count(*), count(DISTINCT arxiv) FROM catalogue_paper WHERE slug IS NULL"
    if kind == "postgres":
        import psycopg

        with psycopg.connect(database) as connection:
            assert connection.execute(asked).fetchone() == (1500, 1500)
    else:
        with sqlite3.connect(tmp_path / "store.sqlite3") as base:
            assert base.execute(asked).fetchone() == (1500, 1500)
