"""How fast papers come into the store: reading, storing, storing again, the whole command; writes ingest.md.

    python benchmarks/ingest.py [--data FILE] [--papers 50000] [--rounds 3] [--postgres URL]

FILE: JSON lines (id, title, abstract, authors, categories, published), maybe compressed; without it papers are made up,
with abstracts as long as arXiv's. Arms run interleaved, each in a fresh process with a fresh data folder; its own clock
leaves out starting Python, but in the arm that is the whole command. --postgres: an empty database, emptied before
every arm. Peers: sqlite-utils where it is installed (upserting by id: no joining by title, no cleaning, no order of
sources), and bare sqlite3, which is the floor.

Goal: 3,000 papers a second into store and word index.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

READ = """
import sys, time
from paperlab.site.start import start
start()
from paperlab.site.store.sources import files
began = time.perf_counter(), time.process_time()
with open(sys.argv[1], "rb") as stream:
    count = sum(len(page.items) for page in files.source(stream, name=sys.argv[1]).pages({}, {}))
print(count, time.perf_counter() - began[0], time.process_time() - began[1])
"""
STORE = """
import sys, time
from paperlab.site.start import start
start()
from paperlab.site.store.harvest import harvest
from paperlab.site.store.sources import files
for again in range(int(sys.argv[2])):
    began = time.perf_counter(), time.process_time()
    with open(sys.argv[1], "rb") as stream:
        count = harvest(files.source(stream, name=sys.argv[1])).found
print(count, time.perf_counter() - began[0], time.process_time() - began[1])
"""
COMMAND = """
import json, resource, subprocess, sys, time
began = time.perf_counter(), time.process_time()
words = [sys.executable, "-m", "paperlab", "import", sys.argv[1], "--json"]
said = subprocess.run(words, capture_output=True, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.loads(said.stdout)[0]["found"], time.perf_counter() - began[0], used.ru_utime + used.ru_stime)
"""
UTILS = """
import json, os, sys, time
import sqlite_utils
from paperlab.site.store.sources import files
base = sqlite_utils.Database(os.path.join(os.environ["PAPERLAB_HOME"], "peer.db"))
base.enable_wal()
began = time.perf_counter(), time.process_time()
with open(sys.argv[1], "rb") as stream:
    base["papers"].upsert_all(map(json.loads, files._opened(stream)), pk="id")
print(base["papers"].count, time.perf_counter() - began[0], time.process_time() - began[1])
"""
BARE = """
import json, os, sqlite3, sys, time
from paperlab.site.store.sources import files
base = sqlite3.connect(os.path.join(os.environ["PAPERLAB_HOME"], "bare.db"))
base.execute("PRAGMA journal_mode=WAL")
base.execute("CREATE TABLE papers (id TEXT PRIMARY KEY, title TEXT, abstract TEXT, rest TEXT)")
began = time.perf_counter(), time.process_time()
with open(sys.argv[1], "rb") as stream, base:
    rows = map(json.loads, files._opened(stream))
    take = ((row.pop("id"), row.pop("title"), row.pop("abstract"), json.dumps(row)) for row in rows)
    base.executemany("INSERT OR REPLACE INTO papers VALUES (?, ?, ?, ?)", take)
(count,) = base.execute("SELECT count(*) FROM papers").fetchone()
print(count, time.perf_counter() - began[0], time.process_time() - began[1])
"""


def made_up(count: int, file: Path) -> None:
    """Papers of made-up words, of arXiv's lengths: titles of 6 to 14 words, abstracts of 100 to 230."""
    draw = random.Random(0)
    words = [
        "".join(draw.choice("aeiou" if at % 2 else "bdklmnprst") for at in range(draw.randrange(3, 11)))
        for _ in range(20_000)
    ]
    with file.open("w", encoding="utf-8") as out:
        for number in range(count):
            row = {"id": f"{number // 20_000 + 10:02d}01.{number % 20_000:05d}"}
            row |= {"title": " ".join(draw.choices(words, k=draw.randrange(6, 15))).title()}
            row |= {"abstract": " ".join(draw.choices(words, k=draw.randrange(100, 231))) + "."}
            row["authors"] = [f"{draw.choice(words)} {draw.choice(words)}".title() for _ in range(draw.randrange(1, 9))]
            row |= {
                "categories": ["cs.CL", "cs.LG"],
                "published": f"20{draw.randrange(10, 26)}-05-0{draw.randrange(1, 9)}",
            }
            out.write(json.dumps(row) + "\n")


def emptied(url: str) -> None:
    """Drop and make anew what stands in the database."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


def rates(code: str, words: list[str], database: str) -> tuple[float, float]:
    """Papers a second, and a second of processor time, of one run of an arm."""
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "PAPERLAB_HOME": home, "OMP_NUM_THREADS": "1"}
        env.pop("PAPERLAB_DATABASE", None)
        if database:
            emptied(database)
            env["PAPERLAB_DATABASE"] = database
        said = subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, check=True)
    count, seconds, used = map(float, said.stdout.split()[-3:])
    return count / seconds, count / used


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--papers", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgres", default="")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = given.data or Path(folder) / "papers.jsonl"
        if not given.data:
            made_up(given.papers, file)
        arms = {
            "reading the file": (READ, [str(file)], ""),
            "into an empty store, SQLite": (STORE, [str(file), "1"], ""),
            "a second time, nothing changed, SQLite": (STORE, [str(file), "2"], ""),
            "`paperlab import`, the whole command": (COMMAND, [str(file)], ""),
        }
        if given.postgres:
            arms["into an empty store, PostgreSQL"] = (STORE, [str(file), "1"], given.postgres)
        try:
            arms[f"sqlite-utils {version('sqlite-utils')}, upsert"] = (UTILS, [str(file)], "")
        except PackageNotFoundError:
            print("sqlite-utils is not installed: left out")
        arms["sqlite3, bare"] = (BARE, [str(file)], "")
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
        for _ in range(given.rounds):
            for name, arm in arms.items():
                found[name].append(rates(*arm))
                print(f"{name}: {found[name][-1][0]:,.0f} papers/s", flush=True)
        count = sum(1 for line in file.open("rb") if line.strip()) if not given.data else None
    lines = []
    for name, pairs in found.items():
        wall, used = zip(*pairs, strict=True)
        middle = f"{statistics.median(wall):,.0f} | {min(wall):,.0f}-{max(wall):,.0f} | {statistics.median(used):,.0f}"
        lines.append(f"| {name} | {middle} |")
    what = f"{count:,} made-up papers" if count else f"`{file.name}`"
    text = f"""# Papers a second into the store

Written by `benchmarks/ingest.py`: {what}; {given.rounds} rounds, arms interleaved,
a fresh process and data folder each; medians, and the least and most. {os.cpu_count()} cores,
Python {sys.version.split()[0]}, {os.getloadavg()[0]:.0f} processes wanting them at the end. The goal is 3,000
a second into store and word index; the whole command starts Python and fills both. Of processor seconds a process has
as many as there are seconds where nothing else runs.

| what | papers/s | from-to | papers per processor second |
|---|---:|---:|---:|
""" + "\n".join(lines)
    Path(__file__).with_suffix(".md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
