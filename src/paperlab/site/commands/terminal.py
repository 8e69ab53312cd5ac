"""Shared by the site's commands: parsing days given as options, and a progress line."""

import sys
import time
from datetime import date, datetime
from typing import Any

from paperlab.core.log import quiet


class BadArgument(ValueError):
    """An argument of the command line that cannot be used; the message says what is expected."""


def parse_day(value: str | None, option: str) -> date | None:
    """A day given as YYYY-MM-DD; None if the option was not given. Raises BadArgument naming the option."""
    if value is None:
        return None
    try:
        return datetime.strptime(value.strip(), "%Y-%m-%d").date()
    except ValueError as error:
        raise BadArgument(f"{option} {value!r}: expected a day as YYYY-MM-DD") from error


class ProgressLine:
    """Progress on standard error: one line that is overwritten on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self.live, self.last = sys.stderr.isatty(), 0.0

    def __call__(self, source: str, counts: Any, total: int | None) -> None:
        """Show how far a source has been read; `store.harvest` calls this after each page."""
        of = f" of {total:,}" if total else ""
        self.show(f"{source}: {counts.found:,}{of} found, {counts.new:,} new, {counts.changed:,} changed")

    def show(self, text: str) -> None:
        """Show a line in place of the last, at most five times a second; every five seconds in a file."""
        if quiet() or time.monotonic() - self.last < (0.2 if self.live else 5.0):
            return
        self.last = time.monotonic()
        print(f"\r\x1b[K{text}" if self.live else text, end="" if self.live else "\n", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Clear the line."""
        if self.live and self.last:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
