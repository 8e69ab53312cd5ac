"""A Daily Papers API: /api/daily_papers?date=YYYY-MM-DD, one request a day."""

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

from paperlab.site.store.item import Malformed, Page, SourceError
from paperlab.site.store.sources import rows
from paperlab.site.store.sources.http import Answer, Polite

BASE = "https://huggingface.co/api/daily_papers"
FIRST = date(2023, 5, 4)  # the first Daily Papers


class DailyPapers:
    """The lists of the days from `since` to `until`, each kept in its order.

    Without `since` it goes on from the last day that was read, which is read again: votes rise during a day.
    """

    name = rows.DAILY

    def __init__(
        self,
        client: Polite,
        *,
        base: str = BASE,
        since: date | None = None,
        until: date | None = None,
        today: date | None = None,
    ) -> None:
        self.client, self.base, self.since = client, base, since
        self.today = today or datetime.now(UTC).date()
        self.until = min(until or self.today, self.today)
        span = f":{since or ''}:{until or ''}" if since or until else ""
        self.key = f"daily-papers:{base}{span}"[:200]
        self.reached: dict[str, Any] = {}

    def pages(self, resume: dict[str, Any], reached: dict[str, Any]) -> Iterator[Page]:
        """A page a day; `day` in resume is the last one stored."""
        self.reached = dict(reached)
        last_day = resume.get("day") or reached.get("day")
        begin = self.since or (date.fromisoformat(last_day) if last_day else self.today - timedelta(1))
        if resume.get("day"):
            begin = max(begin, date.fromisoformat(resume["day"]) + timedelta(1))
        for day in rows.days(max(begin, FIRST), self.until):
            answer = self.client.get(self.base, {"date": str(day)}, wrong=_broken)
            if answer.status == 404:  # no list on that day
                page = Page()
            elif answer.status != 200:
                body = answer.content[:200].decode("utf-8", "replace")
                raise SourceError(f"daily-papers: status {answer.status} for {day}: {' '.join(body.split())}")
            else:
                page = rows.daily_page(rows.loads(answer.content), day, f"daily-papers:{day}")
            page.resume = {"day": str(day)}
            page.total = None
            yield page
            self.reached = {"day": max(str(day), str(reached.get("day", "")))}


def _broken(answer: Answer) -> str:
    try:
        value = rows.loads(answer.content)
    except Malformed as error:
        return str(error)
    return "" if isinstance(value, list) else f"a JSON {type(value).__name__} instead of a list"


def base() -> str:
    """The API's address: PAPERLAB_DAILY_PAPERS, else Hugging Face's."""
    return os.environ.get("PAPERLAB_DAILY_PAPERS") or BASE
