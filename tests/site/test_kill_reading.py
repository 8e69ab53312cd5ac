"""kill -9 at random moments while a file is imported and while a server is harvested: nothing is lost, nothing is
double, and what is there at the end is what an unbroken reading leaves."""

import itertools
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from local_server import Server, Told, serving

pytestmark = pytest.mark.kill
KILLS = [8, pytest.param(60, marks=pytest.mark.slow)]
HARVEST = """
import sys
from datetime import date
from pathlib import Path
from paperlab.site.start import start
start()
from paperlab.site.store.harvest import harvest
from paperlab.site.store.sources.arxiv_oai import ArxivOai
from paperlab.site.store.sources.http import Polite
harvest(ArxivOai(Polite("arxiv", gap=0.01), base=sys.argv[1], since=date(2024, 2, 1), today=date(2024, 3, 1)))
"""
TABLES = ("paper", "sighting", "entry", "ranking", "setaside")


@pytest.fixture(autouse=True)
def only_sqlite() -> None:
    if os.environ.get("PAPERLAB_DATABASE"):
        pytest.skip("needs a database for every run; those are SQLite's files")


def run(home: Path, *words: str) -> subprocess.Popen[bytes]:
    said = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, *words], env={**os.environ, "PAPERLAB_HOME": str(home)}, **said)


def content(home: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All tables; papers by their own names, without keys, times and revisions."""
    with sqlite3.connect(home / "paperlab.sqlite3") as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        base.row_factory = sqlite3.Row
        rows = {name: [dict(row) for row in base.execute(f"SELECT * FROM catalogue_{name}")] for name in TABLES}
        (revision,) = base.execute("SELECT value FROM catalogue_counter").fetchone()
    assert max(row["revision"] for row in rows["paper"]) == revision
    named = {row["id"]: row["slug"] or row["arxiv"] or row["title"] for row in rows["paper"]}
    assert len(set(named.values())) == len(named)
    for row in itertools.chain(*rows.values()):
        if "paper_id" in row:
            row["paper_id"] = named[row["paper_id"]]
        for name in ("id", "added", "revision", "ranking_id"):
            row.pop(name, None)
    return {name: sorted(tuple(map(str, row.values())) for row in found) for name, found in rows.items()}


def broken(tmp_path: Path, start: Callable[[Path], subprocess.Popen[bytes]], kills: int) -> None:
    """Kill readings until so many kills have landed; each home is read to its end and compared."""
    began = time.monotonic()
    assert start(tmp_path / "unbroken").wait(120) == 0
    whole = time.monotonic() - began
    told = content(tmp_path / "unbroken")
    draw, landed = random.Random(kills), 0
    for number in itertools.count():
        home = tmp_path / f"broken{number}"
        for _ in range(draw.randrange(2, 6)):
            process = start(home)
            try:
                process.wait(draw.uniform(0.25, 0.85) * whole)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                landed += process.wait() == -signal.SIGKILL
        process = start(home)
        assert process.wait(120) == 0
        assert content(home) == told
        if landed >= kills:
            return


@pytest.mark.parametrize("kills", KILLS)
def test_importing_is_killed(kills, tmp_path):
    draw = random.Random(1)
    lines = []
    for number in range(4500):
        row: dict[str, Any] = {"id": f"2401.{number % 3500:05d}", "title": f"Paper {number % 3500}", "upvotes": number}
        row |= {"abstract": f"Abstract {number}. " * 20, "seen_on": [f"2024-02-{draw.randrange(1, 28):02d}"]}
        if number % 3 == 0:  # the second telling of one is no better than the first
            del row["seen_on"]
        if number % 7 == 0:  # joined by title
            del row["id"]
        lines.append(json.dumps(row) if number % 501 else "{broken")
    file = tmp_path / "papers.jsonl"
    file.write_text("\n".join(lines))
    broken(tmp_path, lambda home: run(home, "-m", "paperlab", "import", str(file)), kills)


@pytest.mark.parametrize("kills", KILLS)
def test_harvesting_is_killed(kills, tmp_path):
    with serving(Server([Told(number, deleted=number % 9 == 0) for number in range(1, 50)])) as server:
        broken(tmp_path, lambda home: run(home, "-c", HARVEST, f"{server.url}/oai"), kills)
        assert server.most == 1
