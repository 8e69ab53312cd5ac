"""Index of records and verdicts for the site: read from their files, and read again when a file changed.

The site never resamples: the worker publishes the verdicts of new records, and the site shows what is published.
"""

import json
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from paperlab.core import standings, verdict
from paperlab.core.card import Check
from paperlab.core.home import BUNDLED
from paperlab.core.methods import methods
from paperlab.core.paper import papers
from paperlab.core.published import Row, line_hash, public, read_rows, verdicts_file
from paperlab.core.record import Samples, record_files, records_folder, unpack_samples
from paperlab.core.words import figures

logger = logging.getLogger(__name__)

STATES = ("current", "unfinished", "repeated", "superseded")  # the lists of verdict.Standings


@dataclass(frozen=True)
class Place:
    """Position of a record: one line of a file. offset, length: in bytes. row: its published verdict; None until the
    worker publishes it."""

    id: str
    started: str
    paper: str | None
    file: Path
    offset: int
    length: int
    row: Row | None


@dataclass
class RecordIndex:
    """All records and verdicts at one moment, oldest first.

    mark: changes when a file does. modified: seconds since 1970. mains: today's verdicts on each paper's main claim.
    where, counts, words: on which models, and on how many, that claim has which word, and the one word for all of them.
    unreadable: files and lines that could not be read, with the reason.
    """

    mark: str = ""
    modified: float = 0.0
    places: dict[str, Place] = field(default_factory=dict)
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)
    by_paper: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    mains: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    where: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    words: dict[str, str | None] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)


_lock = threading.Lock()
_now = RecordIndex()
_files: dict[Path, tuple[tuple[int, ...], list[Place], list[str]]] = {}


def _folders() -> tuple[Path, Path]:
    return BUNDLED / "records", records_folder()


def mark() -> tuple[str, float]:
    """(a string that changes whenever a record is added or a verdict published, when that last was). Files are replaced
    whole, so the times of the folders suffice."""
    parts, latest = [], 0
    for folder in _folders():
        paths = [str(folder)]
        for depth in range(3):
            inside = []
            for path in paths:
                try:
                    changed = os.stat(path).st_mtime_ns
                    if depth < 2:  # not by pathlib: every page asks several times
                        inside += sorted(one.path for one in os.scandir(path) if one.is_dir())
                except OSError:
                    continue
                parts.append(f"{changed:x}")
                latest = max(latest, changed)
            paths = inside
    return ".".join(parts), latest / 1e9


def record_index() -> RecordIndex:
    """The index as the files are now."""
    global _now
    current, modified = mark()
    with _lock:
        if current != _now.mark:
            standings.forget()
            _now = _read(current, modified)
        return _now


def _read(current: str, modified: float) -> RecordIndex:
    new = RecordIndex(current, modified)
    places: list[Place] = []
    for folder in _folders():
        for file in record_files(folder):
            lines, errors = _places(file)
            places += lines
            new.unreadable += errors
    new.places = {place.id: place for place in sorted(places, key=lambda place: (place.started, place.id))}
    rows = {place.id: place.row for place in new.places.values() if place.row is not None}
    today = standings.current(rows.values(), methods())
    adjusted = standings.adjusted(today.current)
    outdated = standings.outdated_by_id([*today.current, *today.repeated], methods())
    stated = [(row, state) for state in STATES for row in getattr(today, state)]
    checks = _checks()
    for row, state in sorted(stated, key=lambda pair: (pair[0].started, pair[0].id)):
        p = adjusted.get(row.id) if state == "current" else None
        check = checks.get(row.check_hash)
        shown = {
            **public(row),
            "figures": figures(public(row)),
            "state": state,
            "outdated": list(outdated.get(row.id, ())),
            "adjusted_p": p,
            "survives": None if p is None else standings.survives(row.word, p),
            "says": check.says if check else None,
            "gap": check.gap if check else None,
        }
        new.verdicts[row.id] = shown
        new.by_paper.setdefault(row.paper or row.method, []).append(shown)
    mains = standings.mains(today, methods())
    new.mains = {slug: [new.verdicts[row.id] for row in rows] for slug, rows in mains.items()}
    new.where = {slug: standings.places(rows) for slug, rows in mains.items()}
    new.counts = {slug: standings.counts(rows) for slug, rows in mains.items()}
    new.words = {slug: standings.one_word(counted) for slug, counted in new.counts.items()}
    for problem in new.unreadable:
        logger.error("%s", problem)
    return new


def _places(file: Path) -> tuple[list[Place], list[str]]:
    """The lines of a file of records, read only if it or its verdicts changed, and what is wrong with it.

    A line with a published row is not parsed.
    """
    try:
        stats = [path.stat() for path in (file, verdicts_file(file)) if path.exists()]
        key = tuple(number for stat in stats for number in (stat.st_mtime_ns, stat.st_size))
        if file not in _files or _files[file][0] != key:
            places, errors, offset = [], [], 0
            known: dict[str | tuple[int, int], Row] = {}
            try:
                for digest, row, place in read_rows(file):
                    known[digest] = known[place.offset, place.length] = row
            except ValueError as error:
                errors.append(str(error))
            with open(file, "rb") as stream:
                for number, line in enumerate(stream, 1):
                    published = known.get((offset, len(line))) or known.get(line_hash(line))
                    try:
                        found = vars(published) if published else json.loads(line)
                        name, started, paper = (found[what] for what in ("id", "started", "paper"))
                        places.append(Place(name, started, paper, file, offset, len(line), published))
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
    for arm in row["arms"]:
        arm["samples"] = _spelled(unpack_samples(arm)) if samples else None
    row["verdict"] = known.verdicts.get(place.id)
    return row


def _spelled(samples: Samples) -> dict[str, dict[str, list[Any]]]:
    """Samples with the words "NaN", "Infinity" and "-Infinity" for the values that JSON does not know."""
    words = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    return {
        seed: {key: [words.get(str(x), x) for x in values] for key, values in keys.items()}
        for seed, keys in samples.items()
    }


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
            "verdicts": dict.fromkeys((*verdict.WORDS, standings.MIXED), 0),
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
