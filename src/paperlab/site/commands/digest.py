"""`paperlab digest`: send, write or count the digests of a day, and read delivery reports."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from paperlab.site.commands.terminal import ProgressLine, parse_day
from paperlab.site.start import start


def run(on: str | None, to: Path | None, dry: bool) -> dict[str, Any]:
    """Send, write or count the digests of a day; yesterday's by default. Raises BadArgument and Away."""
    when = parse_day(on, "--date") or datetime.now(UTC).date() - timedelta(1)
    start()
    from paperlab.site.digest import send

    line = ProgressLine()
    counts = send.digest(when, to=to, dry=dry, progress=lambda c: line.show(f"{c.people:,} people, {c.sent:,} digests"))
    line.close()
    return {"date": str(when), **asdict(counts)}


def bounced(report: bytes) -> list[dict[str, Any]]:
    """Read one delivery report; the addresses that it reports as gone, and whether they were subscribed, and a letter
    of this site comes back with it."""
    start()
    from paperlab.site.digest import bounces, send

    return [{"address": one, "subscribed": send.bounced(one, report)} for one in bounces.failed(report)]


def sentence(row: dict[str, Any], *, dry: bool) -> str:
    """The counts as a sentence."""
    counts = f"{row['date']}: {row['people']:,} subscribed, {row['sent']:,} {'would be sent' if dry else 'sent'}"
    names = {"nothing": "had nothing new", "before": "sent before", "refused": "refused", "unsure": "unsure"}
    said = f"; the relay said: {row['reason']}" if row["reason"] else ""
    return counts + "".join(f", {row[key]:,} {words}" for key, words in names.items() if row[key]) + said
