"""The journal of an unfinished run: every value as soon as it exists, so that a kill at any instant loses one item.

One file per arm and seed, one JSON line per value. Only one process writes a file at a time (it is locked), and only
whole lines count, so that a run goes on behind the last one wherever it was stopped.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from paperlab.core.files import write_atomically
from paperlab.core.home import home
from paperlab.lab.errors import RunError

WAIT = 5.0  # seconds that the processes of a killed run are given to end


@dataclass
class Writer:
    """The open file of one arm and seed. done: items that it holds. tuned: what was chosen on the first seed."""

    descriptor: int
    done: int
    tuned: dict[str, Any] | None

    def write(self, row: dict[str, Any]) -> None:
        """Add one line. It survives the process at once; the disk has it when the arm ends (a flush per item
        would cost more than many items do)."""
        line = json.dumps(row).encode() + b"\n"
        if os.write(self.descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # what follows must not join a torn line
        if "item" not in row:
            os.fsync(self.descriptor)


@dataclass(frozen=True)
class Journal:
    """The values of an unfinished run.

    folder: home/runs/<key>, the key being a hash of everything that decides the values: the task and its version, the
    setting, the arms with the code that makes them. An arm goes by a key that tells it from the run's other arms.
    """

    folder: Path

    @classmethod
    def open(cls, identity: Mapping[str, Any]) -> "Journal":
        """The journal of this very run, new or as it was left."""
        text = json.dumps(identity, sort_keys=True, default=str)
        folder = home() / "runs" / hashlib.sha256(text.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "run.json").exists():
            started = datetime.now(UTC).isoformat(timespec="microseconds")
            write_atomically(folder / "run.json", json.dumps({**identity, "started": started}, default=str).encode())
        return cls(folder)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While this lasts no other process runs the same. Raises RunError where one does."""
        with open(self.folder / "lock", "w") as lock:
            deadline = time.monotonic() + WAIT
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise RunError("this very run is under way in another process; wait for its end") from None
                    time.sleep(0.05)
            yield

    @property
    def started(self) -> datetime:
        """When the run began, however often it was resumed: with the check it makes a record's id."""
        return datetime.fromisoformat(json.loads((self.folder / "run.json").read_text())["started"])

    @property
    def rows(self) -> int:
        """Whole lines that are there."""
        return sum(file.read_bytes().count(b"\n") for file in self.folder.glob("*.jsonl"))

    def _file(self, key: str, seed: int) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:12]}-{seed}.jsonl"

    def lines(self, key: str, seed: int) -> list[dict[str, Any]]:
        """Whole lines of an arm and seed, up to the torn end that a kill or a power cut may leave."""
        file = self._file(key, seed)
        return [row for row, _ in _whole(file.read_bytes() if file.exists() else b"")]

    @contextmanager
    def writing(self, key: str, seed: int) -> Iterator[Writer | None]:
        """The file of an arm and seed, locked, without a torn line or an error; None if all its values are there."""
        descriptor = os.open(self._file(key, seed), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # a killed run's process may still be ending
            kept, end = [], 0
            for row, after in _whole(self._file(key, seed).read_bytes()):
                if "error" in row:
                    break  # is made again
                kept.append(row)
                end = after
            if any("end" in row for row in kept):
                yield None
                return
            os.ftruncate(descriptor, end)
            tuned = [row["tuned"] for row in kept if "tuned" in row]
            yield Writer(descriptor, sum("item" in row for row in kept), tuned[0] if tuned else None)
        finally:
            os.close(descriptor)

    def forget(self, key: str, seed: int) -> None:
        """Remove what there is of an arm and seed."""
        self._file(key, seed).unlink(missing_ok=True)

    def ended(self, key: str, seed: int) -> bool:
        """Whether an arm and seed has all its values."""
        return any("end" in row for row in self.lines(key, seed))

    def tuned(self, key: str, seed: int) -> dict[str, Any] | None:
        """What was chosen for an arm on this seed; None where nothing was."""
        return next((row["tuned"] for row in self.lines(key, seed) if "tuned" in row), None)

    def seconds(self, key: str, seed: int) -> float:
        """How long an arm and seed took to build and score; 0 where it has not ended."""
        return sum(row["end"]["build"] + row["end"]["score"] for row in self.lines(key, seed) if "end" in row)

    def decided(self, name: str, decide: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """A decision of the run, made once: a resumed run decides the same."""
        file = self.folder / f"{name}.json"
        if not file.exists():
            write_atomically(file, json.dumps(decide()).encode())
        return json.loads(file.read_bytes())

    def result(self, key: str, seeds: tuple[int, ...]) -> dict[str, Any]:
        """What an arm left over all seeds, under the names of `core.record.ArmResult`."""
        samples: dict[str, dict[str, list[float]]] = {}
        ends, errors, tuned = [], [], None
        for seed in seeds:
            rows = self.lines(key, seed)
            columns: dict[str, list[float]] = {}
            for row in rows:
                for name, value in row.get("item", {}).items():
                    columns.setdefault(name, []).append(value)
            samples[str(seed)] = columns
            ends += [row["end"] for row in rows if "end" in row]
            errors += [row["error"] for row in rows if "error" in row]
            tuned = next((row["tuned"] for row in rows if "tuned" in row), tuned)
        totals = ends[0]["totals"] if ends else {}
        return {
            "samples": samples,
            "totals": {name: sum(end["totals"][name] for end in ends) / len(ends) for name in totals},
            "seconds": {what: [end[what] for end in ends] for what in ("build", "score")},
            "peak_memory": max((end["peak_memory"] for end in ends), default=0),
            "error": "; ".join(dict.fromkeys(errors)) or None,
            "tuned": tuned,
        }

    def close(self) -> None:
        """The records are written: the journal is no longer needed. It goes at once or not at all."""
        self.folder.rename(self.folder.with_name(f".done-{self.folder.name}-{os.getpid()}"))
        for done in self.folder.parent.glob(".done-*"):
            shutil.rmtree(done, ignore_errors=True)


def _whole(raw: bytes) -> Iterator[tuple[dict[str, Any], int]]:
    """Rows that were written whole, each with the place where its line ends."""
    end = 0
    for line in raw.split(b"\n")[:-1]:
        try:
            row = json.loads(line)
        except ValueError:
            return
        end += len(line) + 1
        yield row, end
