"""Progress of a run, read from the events that its process appends to a file (`paperlab.cli.events` lists them)."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHUNK = 1_000_000  # bytes read at once
LONGEST = 200  # characters of a name or a phase that are kept
MOST_ARMS = 200
MOST = 10**9  # steps


class EventFile:
    """Follows a file of events; `read` takes in what is new.

    stage: task, model and scale in words. arms: {name: [phase, done, total]} of this stage. before: the same of the
    stages before it, by stage. waiting: names of this stage's that have not begun. ends: when the run is estimated to
    end, in seconds since 1970, or None. records: the ids, once all of them are on the disk, else None. error: what
    ended the last process, or "".
    """

    def __init__(self, path: Path) -> None:
        self.path, self.offset = path, 0
        self.stage, self.error = "", ""
        self.arms: dict[str, list[str | int]] = {}
        self.before: dict[str, dict[str, list[str | int]]] = {}
        self.waiting: list[str] = []
        self.ends: float | None = None
        self.records: list[str] | None = None

    def read(self) -> bool:
        """Take in the whole lines that were appended since the last call; whether there were any.

        A line without its end waits for the next call; one that is no event, as a killed process leaves it, is skipped.
        """
        before = self.offset
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                while chunk := file.read(CHUNK):
                    whole = chunk.rfind(b"\n") + 1
                    if not whole:  # torn, or longer than any event
                        if len(chunk) == CHUNK:
                            self.offset += len(chunk)
                            continue
                        break
                    for line in chunk[:whole].splitlines():
                        self._take(line)
                    self.offset += whole
                    file.seek(self.offset)
        except OSError:
            pass
        return self.offset != before

    def progress(self) -> dict[str, Any]:
        """What the store keeps: {stage, arms, before, waiting, ends}."""
        return {name: getattr(self, name) for name in ("stage", "arms", "before", "waiting", "ends")}

    def _take(self, line: bytes) -> None:
        try:
            event = json.loads(line)
            take = _TAKE.get(event["kind"])
            if take is not None:
                take(self, event)
            seconds = event["seconds"] if event["kind"] == "estimate" else event.get("eta")
            if seconds is not None and math.isfinite(seconds):
                self.ends = float(event["time"]) + max(0.0, seconds)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            return

    def _begin(self, event: dict[str, Any]) -> None:
        """A process starts, perhaps one that goes on: what the last one finished stays, the rest starts over."""
        self.before = {stage: {name: step for name, step in arms.items() if ended(step)}
                       for stage, arms in {**self.before, self.stage: self.arms}.items()}  # fmt: skip
        self.before = {stage: arms for stage, arms in self.before.items() if arms}
        self.stage, self.error, self.arms, self.waiting, self.ends = "", "", {}, [], None

    def _stage(self, event: dict[str, Any]) -> None:
        model = f" on {event['model']}" if event.get("model") else ""
        if self.arms:
            self.before[self.stage] = self.arms
        self.stage = _text(f"{event['task']}{model}, {event['scale']}")
        self.arms = self.before.pop(self.stage, {})
        self.waiting = [name for name in map(_text, event.get("arms", ())[:MOST_ARMS]) if name not in self.arms]

    def _step(self, event: dict[str, Any]) -> None:
        phase = event["what"] if event["kind"] == "build" else "scored"
        self._set(event, phase, min(int(event["done"]), MOST), min(int(event["total"]), MOST))

    def _broken(self, event: dict[str, Any]) -> None:
        _, done, total = self.arms.get(_arm(event), ("", 0, 0))
        self._set(event, "failed", done, total)

    def _set(self, event: dict[str, Any], phase: str, done: int | str, total: int | str) -> None:
        name = _arm(event)
        if name in self.arms or len(self.arms) + sum(map(len, self.before.values())) < MOST_ARMS:
            self.waiting = [one for one in self.waiting if one != _text(event["arm"])]
            self.arms[name] = [_text(phase), done, total]

    def _recorded(self, event: dict[str, Any]) -> None:
        self.records = [_text(name) for name in event["records"]]

    def _failed(self, event: dict[str, Any]) -> None:
        self.error = _text(event["message"], 2000)


_TAKE: dict[str, Callable[[EventFile, dict[str, Any]], None]] = {
    "begin": EventFile._begin,
    "stage": EventFile._stage,
    "build": EventFile._step,
    "item": EventFile._step,
    "error": EventFile._broken,
    "recorded": EventFile._recorded,
    "failed": EventFile._failed,
}


def ended(step: list[Any]) -> bool:
    """Whether [phase, done, total] is of an arm that is finished, or that broke."""
    phase, done, total = step
    return phase == "failed" or (phase == "scored" and done >= total)


def _arm(event: dict[str, Any]) -> str:
    return _text(f"{event['arm']}, seed {event['seed']}" if event.get("seed") else event["arm"])


def _text(value: object, most: int = LONGEST) -> str:
    """Text that the database and a page can hold: no control characters, no lone surrogates."""
    return "".join(c for c in str(value)[:most] if c.isprintable())
