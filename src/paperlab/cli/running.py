"""How `paperlab run` shows itself: a live table on a terminal, plain lines elsewhere, then the records' verdicts."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paperlab.cli import text
from paperlab.cli.events import events_to
from paperlab.cli.progress import duration
from paperlab.cli.verbosity import note
from paperlab.core.log import quiet

if TYPE_CHECKING:
    from rich.table import Table

    from paperlab.core.record import Record

EVERY = 5.0  # seconds between two plain lines on the same arm
TIMES = 20.0  # seconds between two plain lines on how long the rest takes


def run(slug: str, *, events: Path | None = None, **options: Any) -> "list[Record]":
    """`lab.run.run_checks` with its progress shown on standard error, and written to `events` as JSON lines."""
    from paperlab.lab.run import run_checks

    with _progress(events) as progress:
        return run_checks(slug, progress=progress, **options)


def run_family(family: str, *, events: Path | None = None, **options: Any) -> "list[Record]":
    """Run all checks of a family, arms that several have once."""
    from paperlab.lab.run import of_family, run_all

    with _progress(events) as progress:
        return run_all(of_family(family), progress=progress, **options)


def run_outdated(what: str | None, *, events: Path | None = None, **options: Any) -> "list[Record]":
    """Repeat the checks whose current verdict is outdated; none if there are none."""
    from paperlab.lab.run import outdated, run_all

    with _progress(events) as progress:
        return [
            record
            for scale, wanted in outdated(what).items()
            for record in run_all(wanted, scale=scale, progress=progress, **options)
        ]


@contextmanager
def _progress(events: Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A `progress` callable that shows each event and appends it to `events`."""
    with _shown() as show, events_to(events) as write:

        def progress(event: dict[str, Any]) -> None:
            write(event)
            show(event)

        yield progress


@contextmanager
def _shown() -> Iterator[Callable[[dict[str, Any]], None]]:
    """A `progress` callable: the live table on a terminal, else plain lines; with -q nothing."""
    if quiet():
        yield lambda event: None
        return
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.live import Live

    state: dict[str, Any] = {"title": "getting ready", "arms": {}}
    console = Console(stderr=True)
    with Live(console=console, get_renderable=lambda: _table(state), refresh_per_second=4, transient=True):

        def progress(event: dict[str, Any]) -> None:
            if event["kind"] in ("left", "skipped", "note", "record", "error"):
                console.print(_line_of(event), markup=False, highlight=False)
            _follow(state, event)

        yield progress


def _follow(state: dict[str, Any], event: dict[str, Any]) -> None:
    """Bring the table's state up to date with one event of the run. began: by seed, for those that are at work."""
    if event["kind"] == "stage":
        state["title"] = _stage(event)
        state["arms"] = {arm: {"state": "waits", "share": "", "began": {}, "spent": 0.0} for arm in event["arms"]}
        return
    if event["kind"] == "estimate":
        state["ends"] = time.monotonic() + event["seconds"]
        return
    row = state["arms"].get(event.get("arm"))
    if row is None:
        return
    now = time.monotonic()
    began = row["began"].setdefault(event["seed"], now)
    done, total = event.get("done", 0), event.get("total", 0)
    row["share"] = f"{done}/{total}" if total else ""
    again = f" (seed {event['seed']})" if event.get("seed") else ""
    if event["kind"] == "build":
        row["state"] = f"builds: {event['what']}{again}"
    elif event["kind"] == "item":
        row["state"] = f"{'done' if done == total else 'is scored'}{again}"
    elif event["kind"] == "error":
        row["state"], row["share"] = f"failed{again}", ""
    if event["kind"] == "error" or (event["kind"] == "item" and done == total):
        row["spent"] += now - began
        del row["began"][event["seed"]]


def _table(state: dict[str, Any]) -> "Table":
    from rich import box
    from rich.table import Table

    left = f", {duration(state['ends'] - time.monotonic())} left" if "ends" in state else ""
    table = Table(title=state["title"] + left, box=box.SIMPLE, title_justify="left", expand=False)
    for header in ("configuration", "state", "items", "seconds"):
        table.add_column(header, justify="right" if header in ("items", "seconds") else "left", overflow="fold")
    for arm, row in state["arms"].items():
        took = row["spent"] + sum(time.monotonic() - began for began in row["began"].values())
        table.add_row(arm, row["state"], row["share"], f"{took:.0f}" if took else "")
    return table


def _lines() -> Callable[[dict[str, Any]], None]:
    """Plain lines on standard error: each stage, what each arm does, its end, and a sign of life every while."""
    last: dict[tuple[str, int], tuple[str, float]] = {}
    timed = -math.inf

    def progress(event: dict[str, Any]) -> None:
        nonlocal timed
        if event["kind"] == "estimate":
            if time.monotonic() - timed > TIMES:
                timed = time.monotonic()
                print(f"{duration(event['seconds'])} left", file=sys.stderr, flush=True)
            return
        if event["kind"] not in ("build", "item"):
            if line := _line_of(event):
                print(line, file=sys.stderr, flush=True)
            return
        phase = event["what"] if event["kind"] == "build" else "scored"
        key, now = (event["arm"], event["seed"]), time.monotonic()
        before, when = last.setdefault(key, ("scored", now))
        ended = phase == "scored" and event["done"] == event["total"]
        begins = phase not in ("scored", before)
        if begins or ended or now - when > EVERY:
            last[key] = (phase, now)
            seed = f", seed {event['seed']}" if event["seed"] else ""
            print(f"  {event['arm']}{seed}: {phase} {event['done']}/{event['total']}", file=sys.stderr, flush=True)

    return progress


def _line_of(event: dict[str, Any]) -> str:
    """One line for an event that is worth one; "" for the others."""
    match event["kind"]:
        case "stage":
            return _stage(event)
        case "left" | "skipped" | "note":
            return f"note: {event['message']}"
        case "recorded":
            return f"recorded: {' '.join(record.id for record in event['records'])}"
        case "record":
            return _verdict(event["record"])
        case "error":
            return f"  {event['arm']}: failed: {event['message']}"
    return ""


def _stage(event: dict[str, Any]) -> str:
    model = f" on {event['model']}" if event.get("model") else ""
    return f"{event['task']}{model}, {event['scale']}: {len(event['arms'])} configurations"


def _verdict(record: "Record") -> str:
    """The verdict of a record that has just been made, in one line."""
    from paperlab.core.verdict import verdict

    found = verdict(record)
    percent = lambda x: "?" if x is None else f"{100 * x:+.1f}"  # noqa: E731
    gain = f": {percent(found.gain)} % [{percent(found.low)}, {percent(found.high)}]" if found.gain is not None else ""
    return f"{record.method}, {record.check.claim} on {record.model}: {found.word}{gain}"


def print_records(records: "list[Record]", *, as_json: bool) -> None:
    """Print what a run came to: a table and a sentence for each record; or their verdicts as one JSON array."""
    if as_json:
        from paperlab.core.published import public, row

        return text.write_json({**public(row(r)), "command": r.command, "error": r.error} for r in records)
    from rich.console import Console

    from paperlab.lab.report import run_summary

    # Without a terminal rich assumes 80 columns and folds; a file has room.
    console = Console(width=text.width() or 120, highlight=False)
    console.print(run_summary(records, console.width))
    note("`paperlab report` draws this; `paperlab verify` recomputes it from the samples")
