"""What `paperlab digest` does."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from paperlab.site.intake import Told, day
from paperlab.site.start import start


def run(on: str | None, to: Path | None, dry: bool) -> dict[str, Any]:
    """Send, write or count the digests of a day; yesterday's by default. Raises Misread, and what sending raises."""
    when = day(on, "--date") or datetime.now(UTC).date() - timedelta(1)
    start()
    from paperlab.site.digest import send

    told = Told()
    counts = send.digest(when, to=to, dry=dry, progress=lambda c: told.line(f"{c.people:,} people, {c.sent:,} digests"))
    told.end()
    return {"date": str(when), **asdict(counts)}


def bounced(report: bytes) -> list[dict[str, Any]]:
    """Read one delivery report; the addresses that it names as gone, and whether they were subscribed."""
    start()
    from paperlab.site.digest import bounces, send

    return [{"address": one, "subscribed": send.suppress(one, "bounced")} for one in bounces.failed(report)]


def sentence(row: dict[str, Any], *, dry: bool) -> str:
    """The counts, for people."""
    said = f"{row['date']}: {row['people']:,} subscribed, {row['sent']:,} {'would be sent' if dry else 'sent'}"
    names = {"nothing": "had nothing new", "before": "sent before", "refused": "refused", "unsure": "unsure"}
    return said + "".join(f", {row[key]:,} {words}" for key, words in names.items() if row[key])
