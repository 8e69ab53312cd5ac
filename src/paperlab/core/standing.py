"""Where each paper stands: the current verdicts of its checks, as listings show them, without resampling any."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from paperlab.core.home import BUNDLED
from paperlab.core.methods import methods
from paperlab.core.record import records_folder
from paperlab.core.verdict import FILE, Row, Standings, counts, current, publish, published

MIXED = "mixed"  # the word over claims whose verdicts differ
NOT_RUN = "not run"  # there is a check, and no record of it


def refresh(folder: Path) -> None:
    """Publish the verdicts of a folder's records if a record is newer than they are."""
    files = list(folder.glob("*/*/*.jsonl"))
    then = (folder / FILE).stat().st_mtime_ns if (folder / FILE).exists() else 0
    if any(file.stat().st_mtime_ns > then for file in files):
        publish(folder)


@cache
def standings() -> Standings[Row]:
    """The bundled verdicts and this machine's, sorted by what they are today.

    Raises ValueError naming the file (and line) of a verdict or record that cannot be read.
    """
    refresh(records_folder())
    rows = {**published(BUNDLED / "records"), **published(records_folder())}
    return current(rows.values(), methods())


def forget() -> None:
    """Read the verdicts again when next asked: for a process that outlives the runs."""
    standings.cache_clear()
    _counts.cache_clear()


def of_paper(slug: str) -> list[Row]:
    """The current verdicts of a paper's checks."""
    return [row for row in standings().current if row.paper == slug]


def of_method(slug: str) -> list[Row]:
    """The current verdicts of a method file's checks."""
    return [row for row in standings().current if row.method == slug]


def count(slug: str) -> dict[str, int]:
    """How many of a paper's claims have which word, over tasks and models; broken runs count as errors."""
    return _counts().get(slug, {})


@cache
def _counts() -> dict[str, dict[str, int]]:
    return counts(standings())


def one_word(words: Iterable[str]) -> str | None:
    """The verdict that all share, "mixed", or None for none."""
    different = set(words)
    return MIXED if len(different) > 1 else next(iter(different), None)
