"""Records: one JSON line for one execution of a check, append-only, never half written.

Schema 2 keeps samples as float32 (base64 of little-endian values), and for each arm the code that made it. Lines of
schema 1 are never rewritten and stay readable.
"""

import base64
import fcntl
import hashlib
import json
import os
import sys
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from paperlab.core.card import Arm, Check, Scalar, arm_from, check_from, plain
from paperlab.core.files import write_atomically
from paperlab.core.home import BUNDLED, home
from paperlab.core.task import Metric

SCHEMA = 2
READABLE = (1, 2)

Samples = dict[str, dict[str, list[float]]]
Status = Literal["finished", "failed", "interrupted"]


@dataclass(frozen=True)
class ArmResult:
    """What one arm left behind.

    samples: per seed (as text, JSON keys), per key of the task's items, one value per item.
    totals: bits per weight, bytes and the like, mean over seeds where they differ.
    seconds: {"build": …, "score": …} per seed, in the order of the seeds. peak_memory: bytes, the process's
    highest resident size while this arm was built and scored.
    params: every parameter with its default filled in (`core.methods.filled`). sources: the hash of every file whose
    code decided the samples (`core.sources.arm_sources`); {} in schema 1: unknown. drawn: whether anything was drawn
    for this arm; if not, samples hold one seed, which stands for all. shift: what was added to each seed.
    tuned: what was chosen on the first seed's validation data.
    """

    arm: Arm
    samples: Samples
    totals: dict[str, float]
    seconds: dict[str, list[float]]
    peak_memory: int
    error: str | None = None
    params: dict[str, Scalar] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    drawn: bool = True
    shift: int = 0
    tuned: dict[str, Any] | None = None


@dataclass(frozen=True)
class Record:
    """One execution of one check on one model at one scale.

    arms[0] is the method, arms[1] the baseline, then the other arms of the check. setting: what the task's `describe`
    gave (model and data with hashes, counts). card_sources: what was read to write the method file (`Card.sources`).
    A record has everything that a verdict needs. In schema 2 samples are rounded to float32, as they are on disk.
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
    card_sources: tuple[str, ...] = ()
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema >= 2:
            rounded = [replace(arm, samples=_rounded(arm.samples)) for arm in self.arms]
            object.__setattr__(self, "arms", rounded)


def _rounded(samples: Samples) -> Samples:
    return {seed: {key: list(array("f", values)) for key, values in keys.items()} for seed, keys in samples.items()}


def pack(values: Sequence[float]) -> str:
    """Values as base64 of little-endian float32."""
    packed = array("f", values)
    if sys.byteorder == "big":
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode()


def unpack(values: str | list[float]) -> list[float]:
    """Values as `pack` wrote them; a list (schema 1) stays as it is. Raises ValueError for any other text."""
    if not isinstance(values, str):
        return values
    packed = array("f")
    packed.frombytes(base64.b64decode(values, validate=True))
    if sys.byteorder == "big":
        packed.byteswap()
    return list(packed)


def unpack_samples(arm: Mapping[str, Any]) -> Samples:
    """The samples of an arm as its record's line holds them, as numbers."""
    return {seed: {key: unpack(found) for key, found in keys.items()} for seed, keys in arm["samples"].items()}


def to_json(record: Record) -> str:
    """The record as one line. Values are written so that they read back bit for bit."""
    row = asdict(record)
    row["check"] = plain(record.check)
    if record.schema >= 2:
        for arm in row["arms"]:
            arm["samples"] = {
                seed: {key: pack(values) for key, values in keys.items()} for seed, keys in arm["samples"].items()
            }
    return json.dumps(row, sort_keys=True, ensure_ascii=False)


def from_json(line: str) -> Record:
    """Read a line that `to_json` wrote. Raises ValueError for another schema or a broken line."""
    return from_row(json.loads(line))


def from_row(row: dict[str, Any]) -> Record:
    """A record from its JSON form, which is left alone. Raises ValueError, KeyError or TypeError for any other row."""
    if row.get("schema") not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise ValueError(f"record schema {row.get('schema')!r}, this paperlab reads {known}")
    arms = [ArmResult(**{**arm, "arm": arm_from(arm["arm"]), "samples": unpack_samples(arm)}) for arm in row["arms"]]
    given = {
        **row,
        "check": check_from(row["check"]),
        "metrics": {name: Metric(**metric) for name, metric in row["metrics"].items()},
        "arms": arms,
        "card_sources": tuple(row.get("card_sources", ())),
    }
    return Record(**given)


def written_check_hash(row: Mapping[str, Any]) -> str:
    """The hash of the check as its line has it. A check that is read has today's spelling of slugs, another hash."""
    return hashlib.sha256(json.dumps(row["check"], sort_keys=True).encode()).hexdigest()[:12]


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


def remove(ids: Collection[str], folder: Path | None = None) -> int:
    """Delete the records with these ids from a folder (this machine's unless named); how many there were.

    Every other line is kept byte for byte. Verdicts and figures that stand beside a file are left to `publish`, or go
    with the file where no line is left.
    """
    removed = 0
    for file in record_files(folder or records_folder()):
        with open(file.parent / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lines = file.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if json.loads(line)["id"] not in ids]
            removed += len(lines) - len(kept)
            if kept and len(kept) < len(lines):
                write_atomically(file, b"".join(kept))
            elif not kept:
                for path in (file, *file.parent.glob(f"{file.stem}.*.json")):
                    path.unlink()
    return removed


def record_files(folder: Path) -> Iterator[Path]:
    """Files of records in a folder, sorted."""
    for machine in _folders(folder):
        for task in _folders(machine):
            names = sorted(entry.name for entry in os.scandir(task) if entry.name.endswith(".jsonl"))
            yield from (Path(task, name) for name in names)


def _folders(folder: str | Path) -> list[str]:
    try:
        return sorted(entry.path for entry in os.scandir(folder) if entry.is_dir())
    except FileNotFoundError:
        return []


def read(folders: tuple[Path, ...] | None = None) -> Iterator[Record]:
    """All records, the bundled ones first, then this machine's. A line that cannot be read raises ValueError
    naming file and line: no record is skipped in silence."""
    for folder in folders or (BUNDLED / "records", records_folder()):
        for file in record_files(folder):
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                try:
                    yield from_json(line)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise ValueError(f"{file}:{number}: not a record: {error}") from error
