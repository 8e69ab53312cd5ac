"""How long the commands take that look at every method and record, on a copy of the package with 375 methods and
2,000 records.

    python benchmarks/scale.py [--methods 375] [--records 2000] [--keep FOLDER]

About two minutes on two cores; writes benchmarks/scale.md. Every figure is CPU seconds of a process and its children,
the least of a few runs. The copies' records are of schema 2: they say which code made them, so that listings have to
see whether it changed.
"""

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

from paperlab.core.card import Arm
from paperlab.core.methods import Method, filled
from paperlab.core.methods import methods as all_methods
from paperlab.core.paper import papers
from paperlab.core.record import Record, read, to_json
from paperlab.core.sources import arm_sources

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "paperlab"
FAMILIES = 15  # over which the methods are spread

# What is measured: name, command, runs, seconds measured before (a copy of 364 methods and 1,690 records), goal.
PUBLISH = "from paperlab.core import home, published; published.publish(home.BUNDLED / 'records')"
SITE = "from paperlab.site import records; records.record_index()"
MEASURED = [
    ("paperlab papers", ["-m", "paperlab", "papers"], 5, "1.4", 0.6),
    ("paperlab show", ["-m", "paperlab", "show", "baq"], 5, "", None),
    ("import paperlab", ["-c", "import paperlab"], 5, "", None),
    ("all records and verdicts read for the site", ["-c", SITE], 3, "", None),
    ("paperlab verify", ["-m", "paperlab", "verify"], 1, "175", 60.0),
]


def grow(folder: Path, methods: int, records: int) -> int:
    """A copy of the package in `folder`/paperlab with so many runnable methods and records; the number of records."""
    shutil.copytree(PACKAGE, folder / "paperlab", ignore=shutil.ignore_patterns("__pycache__", "*.so", "models"))
    copy = folder / "paperlab"
    own = [method for method in all_methods().values() if method.card.paper and method.card.checks]
    lines: dict[str, list[Record]] = {}
    for record in read((PACKAGE / "data" / "records",)):
        lines.setdefault(record.method, []).append(record)
    own = [method for method in own if method.slug in lines]
    taken = {method.card.paper for method in own}
    free = [paper for paper in papers().values() if paper.slug not in taken]
    wanted = methods - len(own)
    count = sum(map(len, lines.values()))
    share = (records - count) / wanted
    for i, (method, paper) in enumerate(islice(zip(cycle(own), free, strict=False), wanted)):
        family = f"family{i % FAMILIES:02d}"
        source = method.path.read_text(encoding="utf-8")
        source = re.sub(rf'(["\'])({re.escape(method.slug)})\1', f'"{paper.slug}"', source)
        source = re.sub(r'family="[^"]*"', f'family="{family}"', source)
        file = copy / "methods" / family / f"{paper.slug.replace('-', '_')}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(source, encoding="utf-8")
        made: dict[Path, list[str]] = {}
        for j in range(round((i + 1) * share) - round(i * share)):
            one = lines[method.slug][j % len(lines[method.slug])]
            row = renamed(one, method, paper.slug, f"methods/{family}/{file.name}")
            row = replace(row, id=f"{i:06x}{j:06x}")
            into = copy / "data" / "records" / one.machine / one.task / f"{paper.slug}.jsonl"
            made.setdefault(into, []).append(to_json(row))
            count += 1
        for into, rows in made.items():
            into.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return count


def renamed(record: Record, method: Method, slug: str, name: str) -> Record:
    """A record of `method` as one of schema 2 of its copy `slug`, whose file is `name` in the package."""
    check = next((c for c in method.card.checks if c.claim == record.check.claim), record.check)
    results = {str(found.arm): found for found in record.arms}
    arms = []
    for arm in check.arms:
        sources = arm_sources(arm, record.task)
        own = f"methods/{method.card.family}/{method.path.name}"
        if own in sources:  # the copy's code differs from its original's only in its card
            sources[name] = sources.pop(own)
        found = results.get(str(arm), record.arms[0])
        sources = dict(sorted(sources.items()))
        arms.append(replace(found, arm=other(arm, method.slug, slug), params=filled(arm).params, sources=sources))
    sides = {side: other(getattr(check, side), method.slug, slug) for side in ("method", "baseline")}
    check = replace(check, **sides, beside=tuple(other(arm, method.slug, slug) for arm in check.beside))
    return replace(record, method=slug, paper=slug, check=check, check_hash=check.hash, arms=arms, schema=2)


def other(arm: Arm, old: str, new: str) -> Arm:
    """The arm with another method's name."""
    return Arm(new if arm.method == old else arm.method, arm.params)


def seconds(command: list[str], environment: dict[str, str], runs: int) -> tuple[float, float]:
    """(CPU, wall-clock) seconds of a command, the least of `runs`."""
    found = []
    for _ in range(runs):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            sys.exit(f"{' '.join(command)}: {done.stderr[-2000:]}")
        found.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall))
    return min(found)


def main() -> None:
    """Make the copy, measure, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", type=int, default=375)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--keep", type=Path, help="make the copy here and leave it")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        count = grow(folder, asked.methods, asked.records)
        environment = {
            **os.environ,
            "PYTHONPATH": str(folder),
            "PAPERLAB_HOME": str(folder / "home"),
            "OMP_NUM_THREADS": "1",
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling the package is no part of a command
        python = sys.executable
        made = seconds([python, "-c", PUBLISH], environment, 1)
        rows = []
        for name, words, runs, before, goal in MEASURED:
            command = [python, *words]
            seconds(command, environment, 1) if runs > 1 else None  # indices and the disk's cache
            cpu, wall = seconds(command, environment, runs)
            rows.append((name, before, f"{cpu:.2f}", f"{wall:.2f}", "" if goal is None else f"{goal:g}"))
            print(*rows[-1], sep="\t", flush=True)
        listed = subprocess.run(
            [python, "-m", "paperlab", "papers", "--runnable", "--json"],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        runnable = json.loads(listed.stdout)
        outdated = sum(bool(verdict["outdated"]) for row in runnable for verdict in row["verdicts"])
        current = sum(len(row["verdicts"]) for row in runnable)
        size = sum(file.stat().st_size for file in (folder / "paperlab" / "data" / "records").rglob("*.jsonl"))
        small = sum(file.stat().st_size for file in (folder / "paperlab" / "data" / "records").rglob("*.verdicts.json"))
    table = [
        "# The package at 375 methods and 2,000 records",
        "",
        f"`python benchmarks/scale.py`: a copy with {len(runnable)} runnable papers and {count:,} records "
        f"({size / 1e6:.1f} MB; their verdicts {small / 1e6:.1f} MB), {current:,} current verdicts, of which "
        f"{outdated:,} are outdated. CPU seconds of a process and its children, the least of a few runs. Before: as "
        "measured on a copy with 364 methods and 1,690 records, when all verdicts lay in one file.",
        "",
        "| | before | CPU s | wall s | goal |",
        "|---|---:|---:|---:|---:|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        f"Judging all of them once, when their verdicts are first published: {made[0]:.1f} CPU s.",
        "",
    ]
    (ROOT / "benchmarks" / "scale.md").write_text("\n".join(table), encoding="utf-8")


if __name__ == "__main__":
    main()
