"""Papers of a day, a week or a month: those of its daily lists by votes, then those published in it."""

import re
from calendar import monthrange
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Literal

from django.db.models import Exists, F, Max, Min, OuterRef, QuerySet
from django.db.models.functions import Coalesce

from paperlab.site.pages.cards import Place
from paperlab.site.people.mine import EVERYTHING, Mine
from paperlab.site.search.trending import WINDOW, trending
from paperlab.site.store.models import Counter, Paper, Sighting

Kind = Literal["day", "week", "month"]
TRENDING = 200  # places of the trending list


class BadSpan(ValueError):
    """No such day, week or month; the message says what is expected."""


@dataclass(frozen=True)
class Span:
    """Some days, both ends included."""

    kind: Kind
    first: date
    last: date

    @property
    def title(self) -> str:
        """As people say it."""
        if self.kind == "day":
            return f"{self.first:%A} {self.first.day} {self.first:%B %Y}"
        if self.kind == "month":
            return f"{self.first:%B %Y}"
        return f"Week {self.first.isocalendar().week}, {short(self.first)} to {short(self.last)} {self.last.year}"

    @property
    def params(self) -> str:
        """As an address holds it."""
        if self.kind == "day":
            return f"date={self.first}"
        if self.kind == "month":
            return f"month={self.first:%Y-%m}"
        year, week, _ = self.first.isocalendar()
        return f"week={year}-W{week:02d}"


def short(day: date) -> str:
    """A day without its year."""
    return f"{day.day} {day:%b}"


def today() -> date:
    """The day that it is, in UTC."""
    return datetime.now(UTC).date()


def around(day: date, kind: Kind) -> Span:
    """The day, week or month that holds a day."""
    if kind == "day":
        return Span("day", day, day)
    if kind == "month":
        return Span("month", day.replace(day=1), day.replace(day=monthrange(day.year, day.month)[1]))
    monday = day - timedelta(day.weekday())
    return Span("week", monday, monday + timedelta(min(6, (date.max - monday).days)))


def read(params: Mapping[str, str]) -> Span | None:
    """The span that an address asks for; None where it asks for none. Raises BadSpan."""
    given = [name for name in ("date", "week", "month") if params.get(name)]
    if not given:
        return None
    if len(given) > 1:
        raise BadSpan("give one of date, week and month")
    value = params[given[0]].strip()
    forms = {"date": r"(\d{4})-(\d\d)-(\d\d)", "week": r"(\d{4})-W(\d\d)", "month": r"(\d{4})-(\d\d)"}
    looks = {"date": "2026-08-14", "week": "2026-W33", "month": "2026-08"}
    match = re.fullmatch(forms[given[0]], value, re.ASCII)
    try:
        if match is None:
            raise ValueError
        year, part = int(match[1]), int(match[2])
        if given[0] == "date":
            return around(date(year, part, int(match[3])), "day")
        if given[0] == "month":
            return around(date(year, part, 1), "month")
        return around(date.fromisocalendar(year, part, 1), "week")
    except (ValueError, OverflowError):
        raise BadSpan(f"{value[:40]!r} is not a valid {given[0]}; an example is {looks[given[0]]}") from None


def _sighted(span: Span) -> "QuerySet[Sighting]":
    return Sighting.objects.filter(day__range=(span.first, span.last), paper__withdrawn=False)


def _published(span: Span) -> "QuerySet[Paper]":
    listed = Sighting.objects.filter(paper=OuterRef("pk"), day__range=(span.first, span.last))
    return Paper.objects.filter(published__range=(span.first, span.last), withdrawn=False).exclude(Exists(listed))


def places(span: Span, offset: int, limit: int, mine: Mine = EVERYTHING) -> tuple[list[Place], int]:
    """A piece of the span's papers, and how many there are. mine: which of them the reader wants to see."""
    sighted = mine.narrow(_sighted(span), "paper")
    listed = (
        sighted.values("paper")
        .annotate(
            votes=Max(Coalesce("paper__upvotes", "upvotes")), comment_count=Max(Coalesce("paper__comments", "comments"))
        )
        .order_by(F("votes").desc(nulls_last=True), "paper")
    )
    of_lists = sighted.values("paper").distinct().count()
    rest = mine.narrow(_published(span))
    total = of_lists + rest.count()
    page: list[Place] = [
        (row["paper"], row["votes"], row["comment_count"])
        for row in (listed[offset : offset + limit] if offset < of_lists else ())
    ]
    if len(page) < limit and total > of_lists:
        start = max(0, offset - of_lists)
        keys = rest.order_by("-published", "-pk").values_list("pk", flat=True)
        page += [(key, None, None) for key in keys[start : start + limit - len(page)]]
    return page, total


def latest(before: date) -> date | None:
    """The last day before `before` that has papers; None if there is none."""
    days = (
        Sighting.objects.filter(day__lt=before).aggregate(day=Max("day"))["day"],
        Paper.objects.filter(published__lt=before, withdrawn=False).aggregate(day=Max("published"))["day"],
    )
    return max((day for day in days if day), default=None)


def following(after: date) -> date | None:
    """The first day after `after` that has papers."""
    days = (
        Sighting.objects.filter(day__gt=after).aggregate(day=Min("day"))["day"],
        Paper.objects.filter(published__gt=after, withdrawn=False).aggregate(day=Min("published"))["day"],
    )
    return min((day for day in days if day), default=None)


def neighbours(span: Span) -> tuple[Span | None, Span | None]:
    """The nearest spans of this kind before and after, that have papers."""
    before, after = latest(span.first), following(span.last)
    return (around(before, span.kind) if before else None), (around(after, span.kind) if after else None)


def talked_about() -> tuple[date | None, list[Place]]:
    """The trending list: of today, or of the last day that a list was of, where that is long ago."""
    return _talked_about(today(), Counter.objects.filter(name="revision").values_list("value", flat=True).first())


@lru_cache(maxsize=4)
def _talked_about(now: date, revision: int | None) -> tuple[date | None, list[Place]]:
    """It changes with the day and with the store: votes and comments here count there as changes of the paper."""
    last = Sighting.objects.filter(day__lte=now).aggregate(day=Max("day"))["day"]
    if last is None:
        return None, []
    on = now if now - last < timedelta(WINDOW) else last
    ranked = trending(on, TRENDING)
    counts = {
        paper: (votes, comments)
        for paper, votes, comments in Sighting.objects.filter(paper__in=[key for key, _ in ranked])
        .values("paper")
        .annotate(
            votes=Max(Coalesce("paper__upvotes", "upvotes")), comment_count=Max(Coalesce("paper__comments", "comments"))
        )
        .values_list("paper", "votes", "comment_count")
    }
    return on, [(key, *counts.get(key, (None, None))) for key, _ in ranked]
