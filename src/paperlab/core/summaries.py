"""Records without their samples: what tables of arms need, computed once and kept in a file next to each records file.

`<method>.figures.json` next to `<method>.jsonl` is a copy that saves time, never the source: each of its rows carries
the hash of the line that it was computed from, so a row of another line is not used, and without the file everything is
computed from the samples.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paperlab.core.figures import ArmFigures, arm_rows, read_arm
from paperlab.core.files import write_atomically
from paperlab.core.home import BUNDLED
from paperlab.core.record import Record, from_json, records_folder
from paperlab.core.verdict import data_of, floor

VERSION = 3  # of the rows and of the estimator behind them; rows of another version are computed again
SUFFIX = ".figures.json"

Stamp = tuple[str, int, int]  # of a file: path, time of change in nanoseconds, size


@dataclass(frozen=True)
class Summary:
    """A record without its samples. better: by metric, the good direction. floors: by metric, the worst figure of an
    arm that still works, where that is known. setting: hash of the record's setting."""

    id: str
    method: str
    paper: str | None
    claim: str
    role: str
    task: str
    task_version: int
    metric: str
    better: dict[str, str]
    floors: dict[str, float]
    model: str
    data: str | None
    setting: str
    scale: str
    machine: str
    seeds: tuple[int, ...]
    status: str
    started: str
    check_hash: str
    arms: tuple[ArmFigures, ...]


def summary(record: Record) -> Summary:
    """What is kept of a record."""
    return _read(row(record))


def row(record: Record) -> dict[str, Any]:
    """A record's summary as JSON holds it."""
    setting = hashlib.sha256(json.dumps(record.setting, sort_keys=True).encode()).hexdigest()[:16]
    same = {name: getattr(record, name) for name in Summary.__dataclass_fields__ if hasattr(record, name)}
    return {
        **same,
        "check_hash": record.check.hash,  # of its one spelling: older records have "_" for "-" in slugs
        "claim": record.check.claim,
        "role": record.check.role,
        "better": {name: metric.better for name, metric in record.metrics.items()},
        "floors": {name: limit for name in record.metrics if (limit := floor(record, name)) is not None},
        "data": data_of(record),
        "setting": setting,
        "arms": arm_rows(record),
    }


def _read(row: Mapping[str, Any]) -> Summary:
    arms = tuple(read_arm(arm) for arm in row["arms"])
    return Summary(**{**row, "seeds": tuple(row["seeds"]), "arms": arms})


@dataclass(frozen=True)
class _File:
    """A records file as it was last read.

    arms: slugs of all methods in it, as arms or as the records' own. wrong: a message for each line that is no record.
    """

    stamp: Stamp
    summaries: tuple[Summary, ...]
    arms: frozenset[str]
    wrong: tuple[str, ...]


_files: dict[str, _File] = {}
_lock = threading.Lock()


def folders() -> tuple[Path, Path]:
    """Where records lie: the bundled ones, then this machine's."""
    return BUNDLED / "records", records_folder()


def read(of: Iterable[str] | None = None, where: Sequence[Path] | None = None, *, strict: bool = True) -> list[Summary]:
    """Summaries of all records, or of those files that have an arm of the methods `of`; the bundled ones first.

    A file is read again only when it has changed. Raises ValueError naming file and line of what is not a record,
    unless `strict` is false: then it is skipped.
    """
    files = _known(None, where)
    if strict and (wrong := [one for file in files for one in file.wrong]):
        raise ValueError(wrong[0])
    wanted = None if of is None else frozenset(of)
    return [summary for file in files if wanted is None or wanted & file.arms for summary in file.summaries]


def mark(of: Iterable[str] | None = None, where: Sequence[Path] | None = None) -> tuple[Stamp, ...]:
    """What changes whenever a file with an arm of the methods `of` does."""
    return tuple(file.stamp for file in _known(of, where))


def _known(of: Iterable[str] | None, where: Sequence[Path] | None) -> list[_File]:
    wanted = None if of is None else frozenset(of)
    found = []
    for stamp in stamps(where):
        with _lock:
            known = _files.get(stamp[0])
        if known is None or known.stamp != stamp:
            try:
                known = _load(stamp)
            except FileNotFoundError:
                continue  # taken away since it was listed
            with _lock:
                _files[stamp[0]] = known
        if wanted is None or wanted & known.arms:
            found.append(known)
    return found


def stamps(where: Sequence[Path] | None = None) -> list[Stamp]:
    """Every records file with its time of change and size, sorted within each folder."""
    return [stamp for folder in where or folders() for stamp in sorted(_walk(str(folder), 2))]


def _walk(folder: str, deep: int) -> Iterator[Stamp]:
    """Files <machine>/<task>/<method>.jsonl under a folder; a listing costs a third of `Path.glob`."""
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if deep and entry.is_dir():
            yield from _walk(entry.path, deep - 1)
        elif not deep and entry.name.endswith(".jsonl"):
            try:
                stat = entry.stat()
            except FileNotFoundError:
                continue  # replaced this instant: it is there again under the same name
            yield entry.path, stat.st_mtime_ns, stat.st_size


def _load(stamp: Stamp) -> _File:
    file = Path(stamp[0])
    wrong: list[str] = []
    try:
        found = [_read(row) for _, row in _rows(file, _kept(file), wrong)]
    except (KeyError, TypeError, AttributeError, ValueError):  # the kept rows are not what `publish` writes
        wrong.clear()
        found = [_read(row) for _, row in _rows(file, {}, wrong)]
    arms = {part.method for one in found for arm in one.arms for part in arm.arm.chain} | {one.method for one in found}
    return _File(stamp, tuple(found), frozenset(arms), tuple(wrong))


def _rows(file: Path, kept: Mapping[str, dict[str, Any]], wrong: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """Each line's hash and row: the kept one where its hash is known, else computed.

    A line that is no record adds a message to `wrong`.
    """
    found = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        name = hashlib.blake2b(line, digest_size=12).hexdigest()
        known = kept.get(name)
        if known is None:
            try:
                known = row(from_json(line.decode()))
            except (ValueError, KeyError, TypeError) as error:
                wrong.append(f"{file}:{number}: not a record: {error}")
                continue
        found.append((name, known))
    return found


def _kept(file: Path) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(file.with_suffix(SUFFIX).read_bytes())
        return dict(found["rows"]) if found["version"] == VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def publish(file: Path) -> Path:
    """Write <file>.figures.json next to a records file, computing what it lacks; leave it alone where it is right.

    Returns its path. Raises OSError where the folder cannot be written.
    """
    rows = _rows(file, _kept(file), [])
    into = file.with_suffix(SUFFIX)
    lines = [f"{json.dumps(name)}: {json.dumps(row, sort_keys=True, ensure_ascii=False)}" for name, row in rows]
    content = (f'{{"version": {VERSION}, "rows": {{\n' + ",\n".join(lines) + "\n}}\n").encode()
    if not into.exists() or into.read_bytes() != content:
        write_atomically(into, content)
    return into


def problems(file: Path) -> list[str]:
    """What the kept rows of a records file say that its samples do not; [] without kept rows."""
    kept = _kept(file)
    wrong = []
    for name, now in _rows(file, {}, []):
        if name in kept and not _alike(kept[name], json.loads(json.dumps(now))):
            wrong.append(f"{file.with_suffix(SUFFIX).name}: the figures of record {now['id']} are not its samples'")
    return wrong


def _alike(a: Any, b: Any) -> bool:
    """Whether two rows say the same, numbers to nine digits: mathematical libraries differ in the last ones."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or abs(a - b) <= 1e-9 * max(abs(a), abs(b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(a[name], b[name]) for name in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_alike, a, b))
    return bool(a == b)


def publish_all(where: Sequence[Path] | None = None) -> None:
    """`publish` every records file of this machine, or of the folders named, that is newer than its rows."""
    for path, changed, _ in stamps(where or (records_folder(),)):
        kept = Path(path).with_suffix(SUFFIX)
        if not kept.exists() or kept.stat().st_mtime_ns < changed:
            publish(Path(path))
