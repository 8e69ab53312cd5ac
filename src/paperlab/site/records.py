"""Index of records and verdicts for the site: read from their files, and read again when a file changed.

The site never resamples: the worker publishes the verdicts of new records, and the site shows what is published.
"""

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from paperlab.core import standing, verdict
from paperlab.core.card import Check
from paperlab.core.home import BUNDLED
from paperlab.core.methods import methods
from paperlab.core.paper import papers
from paperlab.core.record import records_folder

logger = logging.getLogger(__name__)

STATES = ("current", "unfinished", "repeated", "superseded")  # the lists of verdict.Standings


@dataclass(frozen=True)
class Place:
    """Position of a record: one line of a file. offset, length: in bytes."""

    id: str
    started: str
    paper: str | None
    file: Path
    offset: int
    length: int


@dataclass
class RecordIndex:
    """All records and verdicts at one moment, oldest first.

    mark: changes when a file does. modified: seconds since 1970. counts, words: how many verdicts of each word a paper
    has, and the one word for all of them. unreadable: files and lines that could not be read, with the reason.
    """

    mark: str = ""
    modified: float = 0.0
    places: dict[str, Place] = field(default_factory=dict)
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)
    by_paper: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    words: dict[str, str | None] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)


_lock = threading.Lock()
_now = RecordIndex()
_files: dict[Path, tuple[tuple[int, int], list[Place], list[str]]] = {}


def _folders() -> tuple[Path, Path]:
    return BUNDLED / "records", records_folder()


def mark() -> tuple[str, float]:
    """(a string that changes whenever a record is added or a verdict published, when that last was). Files are replaced
    whole, so the times of the folders and of verdicts.json suffice."""
    parts, latest = [], 0
    for folder in _folders():
        for path in (folder / verdict.FILE, folder, *folder.glob("*"), *folder.glob("*/*")):
            if path.is_dir() or path.name == verdict.FILE:
                try:
                    changed = path.stat().st_mtime_ns
                except OSError:
                    continue
                parts.append(f"{changed:x}")
                latest = max(latest, changed)
    return ".".join(parts), latest / 1e9


def record_index() -> RecordIndex:
    """The index as the files are now."""
    global _now
    current, modified = mark()
    with _lock:
        if current != _now.mark:
            standing.forget()
            _now = _read(current, modified)
        return _now


def _read(current: str, modified: float) -> RecordIndex:
    new = RecordIndex(current, modified)
    rows: dict[str, verdict.Row] = {}
    places: list[Place] = []
    for folder in _folders():
        try:
            rows |= verdict.published(folder)
        except ValueError as error:
            new.unreadable.append(str(error))
        for file in sorted(folder.glob("*/*/*.jsonl")):
            lines, errors = _places(file)
            places += lines
            new.unreadable += errors
    new.places = {place.id: place for place in sorted(places, key=lambda place: (place.started, place.id))}
    standings = verdict.current(rows.values(), methods())
    adjusted = verdict.adjusted(standings.current)
    stated = [(row, state) for state in STATES for row in getattr(standings, state)]
    checks = _checks()
    for row, state in sorted(stated, key=lambda pair: (pair[0].started, pair[0].id)):
        p = adjusted.get(row.id) if state == "current" else None
        check = checks.get(row.check_hash)
        shown = {
            **asdict(row),
            "state": state,
            "adjusted_p": p,
            "survives": None if p is None else verdict.survives(row.word, p),
            "says": check.says if check else None,
            "gap": check.gap if check else None,
        }
        new.verdicts[row.id] = shown
        new.by_paper.setdefault(row.paper or row.method, []).append(shown)
    new.counts = verdict.counts(standings)
    new.words = {slug: standing.one_word(counted) for slug, counted in new.counts.items()}
    for problem in new.unreadable:
        logger.error("%s", problem)
    return new


def _places(file: Path) -> tuple[list[Place], list[str]]:
    """The lines of a file of records, read only if it changed, and what is wrong with it."""
    try:
        stat = file.stat()
        key = (stat.st_mtime_ns, stat.st_size)
        if file not in _files or _files[file][0] != key:
            places, errors, offset = [], [], 0
            with open(file, "rb") as stream:
                for number, line in enumerate(stream, 1):
                    try:
                        row = json.loads(line)
                        places.append(Place(row["id"], row["started"], row["paper"], file, offset, len(line)))
                    except (ValueError, KeyError, TypeError) as error:
                        errors.append(f"{file.name}:{number}: not a record: {error}")
                    offset += len(line)
            _files[file] = key, places, errors
    except OSError as error:
        return [], [f"{file.name}: {error.strerror}"]
    return _files[file][1:]


@cache
def _checks() -> dict[str, Check]:
    return {check.hash: check for method in methods().values() for check in method.card.checks}


@cache
def runnable() -> frozenset[str]:
    """Slugs of the papers that have a check."""
    return frozenset(m.card.paper for m in methods().values() if m.card.paper and m.card.checks)


def read(name: str, *, samples: bool = False) -> dict[str, Any] | None:
    """One record with its verdict, without the samples unless asked for; None if there is no such record."""
    known = record_index()
    place = known.places.get(name)
    return None if place is None else _load(place, known, samples)


def _load(place: Place, known: RecordIndex, samples: bool) -> dict[str, Any] | None:
    with open(place.file, "rb") as stream:
        stream.seek(place.offset)
        line = stream.read(place.length)
    try:
        # JSON knows no NaN: a diverged arm's values go out as the words "NaN" and "Infinity".
        row: dict[str, Any] = json.loads(line, parse_constant=str)
    except ValueError:  # replaced by a longer file since the offsets were read
        row = {}
    if row.get("id") != place.id:
        return None
    if not samples:
        for arm in row["arms"]:
            arm["samples"] = None
    row["verdict"] = known.verdicts.get(place.id)
    return row


def read_all(after: str | None = None, *, samples: bool = False) -> Iterator[dict[str, Any]]:
    """All records one after the other, oldest first; those behind `after`, the id of one."""
    known = record_index()
    names = list(known.places)
    for name in names[names.index(after) + 1 if after else 0 :]:
        row = _load(known.places[name], known, samples)
        if row is not None:
            yield row


def coverage() -> dict[str, Any]:
    """Counts of papers, checks and verdicts, by family and in all.

    papers: runnable (a check is written), planned (none yet), nothing_to_run. claims: checks that are written;
    tried: with a run of the check as it is today; finished: with a finished one; held: where every verdict of today
    is "holds". verdicts: how many say which word, over tasks and models. Controls are left out.
    """
    known = record_index()
    families: dict[str, dict[str, Any]] = {}

    def counts_of(family: str) -> dict[str, Any]:
        empty = {
            "papers": {"all": 0, "runnable": 0, "planned": 0, "nothing_to_run": 0},
            "claims": {"written": 0, "tried": 0, "finished": 0, "held": 0},
            "verdicts": dict.fromkeys(verdict.WORDS, 0),
        }
        return families.setdefault(family, empty)

    for paper in papers().values():
        counted = counts_of(paper.family)["papers"]
        counted["all"] += 1
        kind = "runnable" if paper.slug in runnable() else "nothing_to_run" if paper.plan is None else "planned"
        counted[kind] += 1
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in known.verdicts.values():
        if row["state"] != "superseded" and row["role"] == "claim":
            runs.setdefault((row["method"], row["claim"]), []).append(row)
    for method in methods().values():
        for check in method.card.checks:
            if check.role != "claim":
                continue
            here, its = counts_of(method.card.family), runs.get((method.slug, check.claim), [])
            now = [row for row in its if row["state"] == "current"]
            here["claims"]["written"] += 1
            here["claims"]["tried"] += bool(its)
            here["claims"]["finished"] += any(row["status"] == "finished" for row in its)
            here["claims"]["held"] += bool(now) and all(row["word"] == "holds" for row in now)
            for row in now:
                here["verdicts"][row["word"]] += 1
    total: dict[str, Any] = {}
    for counted in families.values():
        for part, numbers in counted.items():
            into = total.setdefault(part, dict.fromkeys(numbers, 0))
            for name, number in numbers.items():
                into[name] += number
    return {"families": dict(sorted(families.items())), "total": total, "unreadable": known.unreadable}
