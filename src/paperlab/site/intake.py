"""What `paperlab fetch` and `paperlab import` do, and tell while they do it."""

import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path
from typing import Any

from paperlab.core.log import quiet
from paperlab.site.start import start


class Misread(ValueError):
    """A word on the command line that is not what it should be; the message says what is expected."""


def day(value: str | None, option: str) -> date | None:
    """A day as YYYY-MM-DD. Raises Misread."""
    if value is None:
        return None
    try:
        return datetime.strptime(value.strip(), "%Y-%m-%d").date()
    except ValueError as error:
        raise Misread(f"{option} {value!r}: expected a day as YYYY-MM-DD") from error


class Told:
    """Progress on standard error: one line that is written over on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self.live, self.last = sys.stderr.isatty(), 0.0

    def __call__(self, source: str, counts: Any, total: int | None) -> None:
        """Show how far a source is."""
        of = f" of {total:,}" if total else ""
        self.line(f"{source}: {counts.found:,}{of} found, {counts.new:,} new, {counts.changed:,} changed")

    def line(self, text: str) -> None:
        """Show a line in place of the last, at most five times a second; every five seconds in a file."""
        if quiet() or time.monotonic() - self.last < (0.2 if self.live else 5.0):
            return
        self.last = time.monotonic()
        print(f"\r\x1b[K{text}" if self.live else text, end="" if self.live else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clear the line."""
        if self.live and self.last:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def fetch(names: Sequence[str], since: str | None, until: str | None) -> list[dict[str, Any]]:
    """Read sources by name, one after the other; one row of counts each, and a last one over all.

    Raises SourceError of the first that could not be read to its end, after the others were read.
    """
    first, last = day(since, "--since"), day(until, "--until")
    if first and last and first > last:
        raise Misread(f"--since {first} is after --until {last}")
    start()
    from paperlab.site.catalogue.harvest import harvest
    from paperlab.site.catalogue.item import SourceError
    from paperlab.site.catalogue.sources import named

    sources = [named.source(name, first, last) for name in names or named.DEFAULTS]
    rows: list[dict[str, Any]] = []
    failed, told = None, Told()
    for source in sources:
        try:
            counts = harvest(source, told)
        except SourceError as error:
            failed = failed or error
            rows.append({"source": source.name, "error": str(error)})
            continue
        finally:
            told.end()
        rows.append({"source": source.name, **asdict(counts)})
    _index()
    if failed is not None and len(rows) == 1:
        raise failed
    names_ = ("found", "new", "changed", "set_aside")
    rows.append({"source": "all", **{name: sum(row.get(name, 0) for row in rows) for name in names_}})
    return rows


def read(file: str, form: str | None, on: str | None) -> list[dict[str, Any]]:
    """Import one file, or standard input for "-"; one row of counts. Raises NotAFile, SourceError, OSError."""
    when = day(on, "--date")
    from paperlab.site.catalogue.sources import files as formats

    if form is not None and form not in formats.FORMATS:
        raise Misread(f"--format {form!r}: one of: {', '.join(formats.FORMATS)}")
    start()
    from paperlab.site.catalogue.harvest import harvest

    with contextlib.closing(formats.spool(sys.stdin.buffer) if file == "-" else open(file, "rb")) as stream:
        source = formats.source(stream, name="" if file == "-" else str(Path(file)), form=form, day=when)
        told = Told()
        try:
            counts = harvest(source, told)
        finally:
            told.end()
    _index()
    return [{"source": source.name, "file": file, **asdict(counts)}]


def _index() -> None:
    """Make what came in findable by its words at once; vectors take longer: the site's worker or `paperlab index`."""
    from paperlab.site.search import index

    told = Told()
    with contextlib.suppress(index.Busy):  # who writes the index now reads on until nothing is new
        index.refresh(
            meaning=False, wait=5, progress=lambda _, done, total: told.line(f"indexed: {done:,} of {total:,}")
        )
    told.end()


def sentence(row: dict[str, Any]) -> str:
    """One row of counts, or why there is none, for people."""
    if "error" in row:
        return f"{row['source']}: {row['error']}"
    aside = f", {row['set_aside']:,} set aside" if row["set_aside"] else ""
    return f"{row['source']}: {row['found']:,} found, {row['new']:,} new, {row['changed']:,} changed{aside}"
