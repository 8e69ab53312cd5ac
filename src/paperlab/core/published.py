"""Published verdicts: for each file of records a small one next to it, so that listings parse no samples.

`<method>.verdicts.json` next to `<method>.jsonl` has a row for each line of it. It is a copy, never the source: a row
carries the hash of the line that it was made from, and `core.verify` recomputes every verdict from the samples.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from paperlab.core import summaries
from paperlab.core.card import Scalar
from paperlab.core.files import write_atomically
from paperlab.core.record import Record, from_json, record_files, records_folder
from paperlab.core.verdict import RULES, data_of, verdict

FORM = 1  # raised when the form of the file changes
SUFFIX = ".verdicts.json"


@dataclass(frozen=True)
class Row:
    """What listings need of a record and its verdict.

    check_hash: of the check as it is read today (slugs in their one spelling). frozen: hashes of the data that the
    record was made on, by the names of `data/frozen.json`. sources: the hash of every file whose code decided the
    samples; {} in schema 1. params: each arm's parameters with defaults; [] in schema 1. The rest: see `Record` and
    `Verdict`.
    """

    id: str
    method: str
    paper: str | None
    claim: str
    role: str
    task: str
    task_version: int
    model: str
    data: str | None
    scale: str
    check_hash: str
    status: str
    started: str
    word: str
    gain: float | None
    low: float | None
    high: float | None
    p: float | None
    reason: str
    metric: str = ""
    expect: str = ""
    margin: float = 0.0
    n: int = 0
    draws: int = 1
    minimum_effect: float | None = None
    p_beyond: float | None = None
    method_value: float | None = None
    baseline_value: float | None = None
    original_value: float | None = None
    likely_ours: bool = False
    machine: str = ""
    seeds: int = 1
    schema: int = 1
    frozen: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    params: list[dict[str, Scalar]] = field(default_factory=list)


INNER = ("schema", "frozen", "sources", "params")  # what outdates a row; shown as the names of what changed
_DEFAULTS = {f.name: f.default for f in fields(Row) if f.default is not MISSING}


@dataclass(frozen=True)
class Place:
    """Where a record lies: one line of a file."""

    file: Path
    offset: int
    length: int


def row(record: Record) -> Row:
    """The record's row; computes its verdict (some hundredths of a second where items are resampled)."""
    found, check = verdict(record), record.check
    given = {name: getattr(record, name) for name in Row.__dataclass_fields__ if hasattr(record, name)}
    given |= {name: getattr(found, name) for name in Row.__dataclass_fields__ if hasattr(found, name)}
    given |= {name: getattr(check, name) for name in ("claim", "role", "expect")}
    sources: dict[str, str] = {}
    for arm in record.arms:
        sources |= arm.sources
    given |= {
        "check_hash": check.hash,
        "data": data_of(record),
        "seeds": len(record.seeds),
        "frozen": frozen_of(record),
        "sources": dict(sorted(sources.items())),
        "params": [arm.params for arm in record.arms] if record.schema >= 2 else [],
    }
    return Row(**given)


def frozen_of(record: Record) -> dict[str, str]:
    """Hashes of the data that a record was made on, by the names of `data/frozen.json`.

    setting["data"] has id and sha256 ("abstracts@512" is abstracts, in windows of 512); other data goes by
    "<name>_sha256" next to its count: "queries-200".
    """
    setting, found = record.setting, {}
    data = setting.get("data")
    if isinstance(data, Mapping) and isinstance(data.get("sha256"), str):
        found[re.sub(r"@\d+$", "", str(data.get("id") or data.get("name")))] = data["sha256"]
    for key, value in setting.items():
        name = key.removesuffix("_sha256")
        if name != key and isinstance(value, str):
            found[f"{name}-{setting[name]}" if isinstance(setting.get(name), int) else name] = value
    return found


def public(row: Row) -> dict[str, Any]:
    """The row without what only serves to see whether it is outdated."""
    return {name: value for name, value in vars(row).items() if name not in INNER}


# Files


def verdicts_file(file: Path) -> Path:
    """Where the verdicts of a file of records are published."""
    return file.with_suffix(SUFFIX)


def read_rows(file: Path) -> list[tuple[str, Row, Place]]:
    """The published rows of a file of records: (hash of the line, row, place) for each line that has one.

    [] where none are, or where another version of the rules made them. Raises ValueError naming the file if it cannot
    be read.
    """
    path = verdicts_file(file)
    try:
        content = json.loads(path.read_bytes())
        if content["form"] != FORM or content["rules"] != RULES:
            return []
        sources = content["sources"]
        found = []
        for line in content["rows"]:
            offset, length, digest = line.pop("line")
            if "sources" in line:
                line["sources"] = dict(sources[i] for i in line["sources"])
            found.append((digest, Row(**line), Place(file, offset, length)))
        return found
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(f"{path}: {error}; delete it, and `paperlab verify` writes it again") from error


def publish_file(file: Path, *, again: bool = False) -> Path:
    """Bring the verdicts of one file of records up to date, and return their path.

    Rows of lines that are known keep their verdict, unless `again`. Raises ValueError naming file and line of what is
    no record.
    """
    known: dict[str, Row] = {}
    if not again:
        with suppress(ValueError):  # a damaged copy is made again
            known = {digest: entry for digest, entry, _ in read_rows(file)}
    entries: list[tuple[str, Row, Place]] = []
    offset = 0
    for number, line in enumerate(file.read_bytes().splitlines(keepends=True), 1):
        digest = line_hash(line)
        try:
            entry = known.get(digest) or row(from_json(line.decode()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file}:{number}: not a record: {error}") from error
        entries.append((digest, entry, Place(file, offset, len(line))))
        offset += len(line)
    path, content = verdicts_file(file), _content(entries)
    if path.exists() and path.read_bytes() == content:
        os.utime(path)  # newer than the records again
    else:
        write_atomically(path, content)
    return path


def line_hash(line: bytes) -> str:
    """What ties a row to the line that it was made from."""
    return hashlib.blake2b(line.rstrip(b"\r\n"), digest_size=8).hexdigest()


def _content(entries: list[tuple[str, Row, Place]]) -> bytes:
    """The file's text: one row a line, fields at their default left out, sources as numbers of a table."""
    table = {pair: i for i, pair in enumerate(sorted({pair for _, e, _ in entries for pair in e.sources.items()}))}
    lines = []
    for digest, entry, place in entries:
        written: dict[str, Any] = {"line": [place.offset, place.length, digest]}
        for name in Row.__dataclass_fields__:
            value = getattr(entry, name)
            if name == "sources":
                value = [table[pair] for pair in value.items()]
            if value not in ({}, []) and not (name in _DEFAULTS and value == _DEFAULTS[name]):
                written[name] = value
        lines.append(json.dumps(written, ensure_ascii=False))
    head = f'{{"form": {FORM}, "rules": {RULES}, "sources": {json.dumps(list(table))}, "rows": [\n'
    return (head + ",\n".join(lines) + "\n]}\n").encode()


def stale(file: Path) -> bool:
    """Whether a file of records changed after its verdicts were published."""
    try:
        return file.stat().st_mtime_ns > verdicts_file(file).stat().st_mtime_ns
    except FileNotFoundError:
        return True


def publish(folder: Path | None = None, *, again: bool = False) -> None:
    """Bring the published verdicts of a folder (this machine's unless named) up to date with its records.

    again: judge every record again, after a change to the rules.
    """
    folder = folder or records_folder()
    _publish(folder, [file for file in record_files(folder) if again or stale(file)], again)


def _publish(folder: Path, files: list[Path], again: bool) -> None:
    if not files:
        return
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs may end at once
        for file in files:
            publish_file(file, again=again)
            summaries.publish(file)
    with suppress(OSError):
        (folder / "verdicts.json").unlink()  # the one copy that earlier versions kept


def published(folder: Path | None = None, *, refresh: bool = False) -> dict[str, Row]:
    """The published rows of a folder by record id. refresh: first publish what changed, or other rules judged.

    Raises ValueError naming a file that cannot be read.
    """
    folder = folder or records_folder()
    if refresh:
        publish(folder)
    found: dict[str, Row] = {}
    for file in record_files(folder):
        entries = read_rows(file)
        if not entries and refresh and file.stat().st_size:
            _publish(folder, [file], False)
            entries = read_rows(file)
        found |= {entry.id: entry for _, entry, _ in entries}
    return found
