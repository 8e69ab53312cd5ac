"""Records: one JSON line for one execution of a check, append-only, never half written."""

import fcntl
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from paperlab.core.card import Arm, Check, arm_from, check_from
from paperlab.core.files import write_atomically
from paperlab.core.home import BUNDLED, home
from paperlab.core.task import Metric

SCHEMA = 1

Status = Literal["finished", "failed", "interrupted"]


@dataclass(frozen=True)
class ArmResult:
    """What one arm left behind.

    samples: per seed (as text, JSON keys), per key of the task's items, one value per item.
    totals: bits per weight, bytes and the like, mean over seeds where they differ.
    seconds: {"build": …, "score": …} per seed, in the order of the seeds. peak_memory: bytes, the process's
    highest resident size while this arm was built and scored.
    """

    arm: Arm
    samples: dict[str, dict[str, list[float]]]
    totals: dict[str, float]
    seconds: dict[str, list[float]]
    peak_memory: int
    error: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    drawn: bool = True
    shift: int = 0
    tuned: dict[str, Any] | None = None


@dataclass(frozen=True)
class Record:
    """One execution of one check on one model at one scale.

    arms[0] is the method, arms[1] the baseline, the rest stand beside. setting: what the task's `describe`
    said (model and data with hashes, counts). A record says everything that a verdict needs.
    """

    id: str
    method: str
    paper: str | None
    check: Check
    check_hash: str
    task: str
    task_version: int
    metric: str
    metrics: dict[str, Metric]
    paired_by: Literal["items", "seeds"]
    model: str
    setting: dict[str, Any]
    scale: str
    seeds: list[int]
    arms: list[ArmResult]
    status: Status
    code_hash: str
    commit: str | None
    dirty: bool
    packages: dict[str, str]
    machine: str
    command: str
    started: str
    finished: str
    error: str | None = None
    schema: int = SCHEMA


def to_json(record: Record) -> str:
    """The record as one line. Floats are written so that they read back bit for bit."""
    return json.dumps(asdict(record), sort_keys=True, ensure_ascii=False)


def from_json(line: str) -> Record:
    """Read a line that `to_json` wrote. Raises ValueError for another schema or a broken line."""
    row = json.loads(line)
    if row.get("schema") != SCHEMA:
        raise ValueError(f"record schema {row.get('schema')!r}, this paperlab reads {SCHEMA}")
    row["check"] = check_from(row["check"])
    row["metrics"] = {name: Metric(**metric) for name, metric in row["metrics"].items()}
    row["arms"] = [ArmResult(**{**arm, "arm": arm_from(arm["arm"])}) for arm in row["arms"]]
    return Record(**row)


def records_folder() -> Path:
    """Where this machine's own records lie."""
    return home() / "records"


def append(record: Record, folder: Path | None = None) -> Path:
    """Add a record to <folder>/<machine>/<task>/<method>.jsonl. The file is replaced whole, so that a kill at
    any instant leaves either the old file or the new one."""
    file = (folder or records_folder()) / record.machine / record.task / f"{record.method}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file.parent / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs may end at once
        before = file.read_bytes() if file.exists() else b""
        if f'"id": "{record.id}"'.encode() in before:
            return file  # the run was killed after this line was written, and resumed
        write_atomically(file, before + to_json(record).encode() + b"\n")
    return file


def read(folders: tuple[Path, ...] | None = None) -> Iterator[Record]:
    """All records, the bundled ones first, then this machine's. A line that cannot be read raises ValueError
    naming file and line: records are evidence and are never skipped in silence."""
    for folder in folders or (BUNDLED / "records", records_folder()):
        for file in sorted(folder.glob("*/*/*.jsonl")):
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                try:
                    yield from_json(line)
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(f"{file}:{number}: not a record: {error}") from error
