"""How `paperlab run` shows itself: a live table on a terminal, plain lines elsewhere, then the records' verdicts."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from paperlab.cli import text
from paperlab.cli.verbosity import note
from paperlab.core.log import quiet

if TYPE_CHECKING:
    from rich.table import Table

    from paperlab.core.record import Record

EVERY = 5.0  # seconds between two plain lines on the same arm


def run(slug: str, **options: Any) -> "list[Record]":
    """`lab.run.run_checks` with its progress shown on standard error."""
    from paperlab.lab.run import run_checks

    with _shown() as progress:
        return run_checks(slug, progress=progress, **options)


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
            if event["kind"] in ("left", "skipped", "error"):
                console.print(_line_of(event), markup=False, highlight=False)
            _follow(state, event)

        yield progress


def _follow(state: dict[str, Any], event: dict[str, Any]) -> None:
    """Bring the table's state up to date with one event of the run. began: None while an arm is not at work."""
    if event["kind"] == "stage":
        state["title"] = _stage(event)
        state["arms"] = {arm: {"state": "waits", "share": "", "began": None, "spent": 0.0} for arm in event["arms"]}
        return
    row = state["arms"].get(event.get("arm"))
    if row is None:
        return
    now = time.monotonic()
    if row["began"] is None:
        row["began"] = now
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
        row["spent"] += now - row["began"]
        row["began"] = None


def _table(state: dict[str, Any]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(title=state["title"], box=box.SIMPLE, title_justify="left", expand=False)
    for header in ("arm", "state", "items", "seconds"):
        table.add_column(header, justify="right" if header in ("items", "seconds") else "left", overflow="fold")
    for arm, row in state["arms"].items():
        took = row["spent"] + (time.monotonic() - row["began"] if row["began"] is not None else 0.0)
        table.add_row(arm, row["state"], row["share"], f"{took:.0f}" if took else "")
    return table


def _lines() -> Callable[[dict[str, Any]], None]:
    """Plain lines on standard error: each stage, what each arm does, its end, and a sign of life every while."""
    last: dict[tuple[str, int], tuple[str, float]] = {}

    def progress(event: dict[str, Any]) -> None:
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
        case "left" | "skipped":
            return f"note: {event['message']}"
        case "recorded":
            return f"recorded: {' '.join(record.id for record in event['records'])}"
        case "error":
            return f"  {event['arm']}: failed: {event['message']}"
    return ""


def _stage(event: dict[str, Any]) -> str:
    model = f" on {event['model']}" if event.get("model") else ""
    return f"{event['task']}{model}, {event['scale']}: {len(event['arms'])} arms"


def print_records(records: "list[Record]", *, as_json: bool) -> None:
    """Print what a run came to: a table and a sentence for each record; or their verdicts as one JSON array."""
    if as_json:
        from dataclasses import asdict

        from paperlab.core.verdict import row

        return text.write_json({**asdict(row(r)), "command": r.command, "error": r.error} for r in records)
    from rich.console import Console

    from paperlab.lab.report import run_summary

    # Without a terminal rich assumes 80 columns and folds; a file has room.
    console = Console(width=text.width() or 120, highlight=False)
    console.print(run_summary(records, console.width))
    note("`paperlab report` draws this; `paperlab verify` recomputes it from the samples")
