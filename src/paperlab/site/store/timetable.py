"""PAPERLAB_FETCH: which sources the worker reads by itself, and how often."""

import re

from paperlab.site.store.item import SourceError

DEFAULT = "daily@1h, oai:cs@1d"
OFF = ("off", "none", "no", "never")
UNITS = {"m": 60, "h": 3600, "d": 86_400}
LEAST, MOST = 600, 30 * 86_400  # seconds between two readings: polite, and a life sign


class BadTimetable(ValueError):
    """A timetable that cannot be meant; the message says what is expected."""


def parse(text: str | None) -> dict[str, int]:
    """{source: seconds between two readings} of "daily@1h, oai:cs@1d"; {} of "off", the default of nothing.

    Sources are named as `paperlab fetch` names them; one without a time is read once a day. Raises BadTimetable.
    """
    text = (text or "").strip() or DEFAULT
    if text.lower() in OFF:
        return {}
    from paperlab.site.store.sources import named

    found: dict[str, int] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, every = part.rpartition("@") if re.search(r"@\s*\d+\s*\w?$", part) else (part, "", "1d")
        match = re.fullmatch(r"\s*(\d{1,5})\s*([mhd])\s*", every)
        seconds = int(match[1]) * UNITS[match[2]] if match else 0
        if not LEAST <= seconds <= MOST:
            raise BadTimetable(f"{part!r}: expected SOURCE@TIME with a time from 10m to 30d, such as {DEFAULT}, or off")
        try:
            named.source(name.strip())
        except SourceError as error:
            raise BadTimetable(str(error)) from error
        found[name.strip()] = seconds
    return found


def words(seconds: int) -> str:
    """A time between two readings, behind "every": "hour", "3 days"."""
    for unit, name in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % unit == 0:
            return name if seconds == unit else f"{seconds // unit} {name}s"
    return f"{seconds} seconds"
