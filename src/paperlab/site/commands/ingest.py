"""`paperlab fetch` and `paperlab import`: read sources or a file into the store, and report counts."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paperlab.site.commands.terminal import BadArgument, ProgressLine, parse_day
from paperlab.site.start import start


def fetch(names: Sequence[str], since: str | None, until: str | None) -> list[dict[str, Any]]:
    """Read sources by name, one after the other; one row of counts each, and a last one over all.

    Raises SourceError of the first that could not be read to its end, after the others were read.
    """
    first, last = parse_day(since, "--since"), parse_day(until, "--until")
    if first and last and first > last:
        raise BadArgument(f"--since {first} is after --until {last}")
    start()
    from paperlab.site.commands.following import following
    from paperlab.site.store.harvest import harvest
    from paperlab.site.store.item import SourceError
    from paperlab.site.store.sources import named

    sources = [named.source(name, first, last) for name in names or named.DEFAULTS]
    rows: list[dict[str, Any]] = []
    failed, line = None, ProgressLine()
    for source in sources:
        try:
            with following(line) as progress:
                counts = harvest(source, progress)
        except SourceError as error:
            failed = failed or error
            rows.append({"source": source.name, "error": str(error)})
            continue
        finally:
            line.close()
        rows.append({"source": source.name, **asdict(counts)})
    _index()
    if failed is not None and len(rows) == 1:
        raise failed
    columns = ("found", "new", "changed", "set_aside")
    rows.append({"source": "all", **{name: sum(row.get(name, 0) for row in rows) for name in columns}})
    return rows


def import_file(file: str, form: str | None, on: str | None) -> list[dict[str, Any]]:
    """Read one file, or standard input for "-"; one row of counts. Raises NotAFile, SourceError, OSError."""
    when = parse_day(on, "--date")
    from paperlab.site.store.sources import files as formats

    if form is not None and form not in formats.FORMATS:
        raise BadArgument(f"--format {form!r}: one of: {', '.join(formats.FORMATS)}")
    start()
    from paperlab.site.commands.following import following
    from paperlab.site.store.harvest import harvest

    with contextlib.closing(formats.spool(sys.stdin.buffer) if file == "-" else open(file, "rb")) as stream:
        source = formats.source(stream, name="" if file == "-" else str(Path(file)), form=form, day=when)
        line = ProgressLine()
        try:
            with following(line) as progress:
                counts = harvest(source, progress)
        finally:
            line.close()
    _index()
    return [{"source": source.name, "file": file, **asdict(counts)}]


def _index() -> None:
    """Index the words of new papers at once; their vectors, which take longer, are left to the worker."""
    from paperlab.site.search import index

    line = ProgressLine()
    with contextlib.suppress(index.Busy):  # who writes the index now reads on until nothing is new
        index.refresh(
            meaning=False, wait=5, progress=lambda _, done, total: line.show(f"indexed: {done:,} of {total:,}")
        )
    line.close()


def sentence(row: dict[str, Any]) -> str:
    """One row of counts as a sentence, or the error that there was instead."""
    if "error" in row:
        return f"{row['source']}: {row['error']}"
    rejected = f", {row['set_aside']:,} set aside" if row["set_aside"] else ""
    return f"{row['source']}: {row['found']:,} found, {row['new']:,} new, {row['changed']:,} changed{rejected}"
