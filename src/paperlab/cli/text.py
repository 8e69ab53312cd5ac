"""How the command line writes: plain text for people, one JSON array for programs. No colour, nothing cut in a pipe."""

import csv
import json
import math
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from paperlab.core.words import columns_that_fit

INDENT = "  "


def width() -> int | None:
    """Columns of the terminal, or None where the output goes into a file or pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def write_json(rows: Iterable[dict[str, Any]]) -> None:
    """One JSON array of objects on standard output. Infinite and missing numbers become null: JSON has none."""
    print(json.dumps([_finite(row) for row in rows], ensure_ascii=False, allow_nan=False))


def read_csv(file: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file that we wrote, its numbers as numbers and its empty cells as None."""
    with open(file, encoding="utf-8", newline="") as stream:
        return [{name: _cell(cell) for name, cell in row.items()} for row in csv.DictReader(stream)]


def _cell(cell: str) -> str | float | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        return cell


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inside) for inside in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, fit: int | None = None, drop: Sequence[str] = ()
) -> str:
    """Columns padded to their widest cell, as wide as that takes.

    fit: columns of the terminal, if there is one. Where the table is wider, its last column is cut with an ellipsis as
    long as 16 characters of it stay; then the columns named in `drop` go, one after another; and where that is not
    enough, each row becomes a paragraph: its first cell on a line, below it the others, and the last one cut.
    """
    if fit is None:
        return _aligned(headers, rows)
    kept = columns_that_fit(headers, rows, fit, drop=drop, flexible=len(headers) - 1)
    names, cells = [headers[i] for i in kept], [[row[i] for i in kept] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(names, *cells, strict=True)]
    room = fit - sum(widths[:-1]) - 2 * (len(widths) - 1)
    if room >= min(16, widths[-1]):
        return _aligned([*names[:-1], cut(names[-1], room)], [[*row[:-1], cut(row[-1], room)] for row in cells])
    return "\n".join(
        line
        for row in rows
        for line in (row[0], wrap(" · ".join(filter(None, row[1:-1]))), INDENT + cut(row[-1], fit - len(INDENT)))
        if line.strip()
    )


def _aligned(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(headers, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)) for row in [headers, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def cut(text: str, room: int) -> str:
    """At most `room` characters."""
    return text if len(text) <= room else text[: max(0, room - 1)].rstrip() + "…"


def wrap(text: str, indent: str = INDENT, first: str | None = None) -> str:
    """A paragraph of at most 80 columns, fewer in a narrower terminal; words, links and slugs stay whole."""
    return textwrap.fill(
        text,
        min(80, width() or 80),
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def percent(share: float, *, signed: bool = True) -> str:
    """A fraction as a percentage of three figures: "+2.1 %", "-0.034 %"."""
    if not math.isfinite(share):
        return "unbounded" if math.isinf(share) else "undefined"
    return f"{share * 100:{'+' if signed else ''}.3g} %"


def amount(count: float) -> str:
    """Bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError
