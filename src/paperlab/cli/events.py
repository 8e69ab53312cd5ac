"""Progress of a run as JSON lines, for programs that follow it: `paperlab run --events FILE`, or PAPERLAB_EVENTS.

One object on each line, written at once. All have `kind` and `time`, seconds since 1970:

    begin      the process has started; a resumed run appends to the same file
    stage      task, model, scale, arms: the arms that are run next
    build      arm, seed, what, done, total: steps of making a model
    item       arm, seed, done, total: scores so far
    estimate   seconds: how long what is left takes
    error      arm, seed, message: one arm broke, the others go on
    skipped, left, note    message
    record     record: the id of one that is on the disk
    recorded   records: the ids of all that were to be made, once all are on the disk
    failed     message: the run ended with this error

Of `build` and `item` at most five a second are written for each arm and seed, the first and the last of a phase always.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EVERY = 0.2  # seconds between two events of one phase of an arm

Progress = Callable[[dict[str, Any]], None]


@contextmanager
def events_to(file: Path | None) -> Iterator[Progress]:
    """A `progress` callable for `lab.run.run_checks` that appends to a file; one that does nothing for None.

    An error that ends the run is written too, except a missing package: what to install is for the reader of the log.
    Raises OSError if the file cannot be written.
    """
    if file is None:
        yield lambda event: None
        return
    writer = EventWriter(file)
    try:
        writer({"kind": "begin"})
        yield writer
    except ImportError:
        raise
    except Exception as error:
        writer({"kind": "failed", "message": " ".join(str(error).split()) or type(error).__name__})
        raise
    finally:
        writer.close()


class EventWriter:
    """Appends events to a file, each as one line and by one system call, so that a killed process tears at most one."""

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._last: dict[tuple[str, int], tuple[tuple[str, str], float]] = {}
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            os.write(self._descriptor, b"\n")  # a process that was killed left a torn line

    def __call__(self, event: dict[str, Any]) -> None:
        """Write one event, or drop it where the last of its arm was a moment ago."""
        if event["kind"] in ("build", "item") and not self._due(event):
            return
        row = {"kind": event["kind"], "time": round(time.time(), 3), **_plain(event)}
        os.write(self._descriptor, json.dumps(row, default=str).encode() + b"\n")

    def _due(self, event: dict[str, Any]) -> bool:
        arm, phase, now = (event["arm"], event["seed"]), (event["kind"], event.get("what", "")), time.monotonic()
        before = self._last.get(arm)
        if before and before[0] == phase and event["done"] != event["total"] and now - before[1] < EVERY:
            return False
        self._last[arm] = phase, now
        return True

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _plain(event: dict[str, Any]) -> dict[str, Any]:
    """An event without the samples, and with records by their ids."""
    plain = {name: value for name, value in event.items() if name != "values"}
    if "record" in plain:
        plain["record"] = plain["record"].id
    if "records" in plain:
        plain["records"] = [record.id for record in plain["records"]]
    return plain
