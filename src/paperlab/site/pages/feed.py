"""Papers of a day, a week or a month: those of its daily lists by votes, then those published in it."""

import re
from calendar import monthrange
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

from django.db.models import Count, Exists, F, Max, OuterRef, QuerySet
from django.db.models.functions import Coalesce

from paperlab.site.pages.cards import Place
from paperlab.site.people.mine import EVERYTHING, Mine
from paperlab.site.search.trending import WINDOW, trending
from paperlab.site.store.models import Paper, Sighting
from paperlab.site.store.prepared import Prepared
from paperlab.site.store.revision import revision

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


def _sighted(first: date, last: date, mine: Mine) -> "QuerySet[Sighting]":
    return mine.narrow(Sighting.objects.filter(day__range=(first, last), paper__withdrawn=False), "paper")


def _published(first: date, last: date, mine: Mine) -> "QuerySet[Paper]":
    """The papers that were published in these days and are in no list of them."""
    listed = Sighting.objects.filter(paper=OuterRef("pk"), day__range=(first, last))
    rows = Paper.objects.filter(published__range=(first, last), withdrawn=False).exclude(Exists(listed))
    return mine.narrow(rows).order_by("-published", "-pk")


def _by_votes(first: date, last: date, user: int | None, *, show: str, hide: bool, offset: int, limit: int) -> Any:
    listed = _sighted(first, last, Mine(user, show, hide)).values("paper")
    counted = listed.annotate(
        votes=Max(Coalesce("paper__upvotes", "upvotes")), comment_count=Max(Coalesce("paper__comments", "comments"))
    ).order_by(F("votes").desc(nulls_last=True), "paper")
    return counted.values_list("paper", "votes", "comment_count")[offset : offset + limit]


def _others(first: date, last: date, user: int | None, *, show: str, hide: bool, offset: int, limit: int) -> Any:
    return _published(first, last, Mine(user, show, hide)).values_list("pk")[offset : offset + limit]


def _listed_count(first: date, last: date, user: int | None, *, show: str, hide: bool) -> Any:
    rows = _sighted(first, last, Mine(user, show, hide)).order_by()
    return rows.values("paper__withdrawn").annotate(count=Count("paper", distinct=True)).values_list("count")


def _other_count(first: date, last: date, user: int | None, *, show: str, hide: bool) -> Any:
    rows = _published(first, last, Mine(user, show, hide)).order_by()
    return rows.values("withdrawn").annotate(count=Count("pk")).values_list("count")


_PAGE, _REST = Prepared(_by_votes), Prepared(_others)
_COUNT, _REST_COUNT = Prepared(_listed_count), Prepared(_other_count)


def places(span: Span, offset: int, limit: int, mine: Mine = EVERYTHING) -> tuple[list[Place], int]:
    """A piece of the span's papers, and how many there are. mine: which of them the reader wants to see."""
    given = (span.first, span.last, mine.user if mine.active else None)
    which = {"show": mine.show, "hide": mine.hide}
    of_lists = sum(_COUNT.column(*given, **which))
    total = of_lists + sum(_REST_COUNT.column(*given, **which))
    page: list[Place] = []
    if offset < of_lists:
        page = [tuple(row) for row in _PAGE.rows(*given, **which, offset=offset, limit=limit)]
    if len(page) < limit and total > of_lists:
        place = {"offset": max(0, offset - of_lists), "limit": limit - len(page)}
        page += [(key, None, None) for key in _REST.column(*given, **which, **place)]
    return page, total


_LISTED_BEFORE = Prepared(lambda day: Sighting.objects.filter(day__lt=day).order_by("-day").values_list("day")[:1])
_LISTED_AFTER = Prepared(lambda day: Sighting.objects.filter(day__gt=day).order_by("day").values_list("day")[:1])
_BEFORE = Prepared(
    lambda day: (
        Paper.objects.filter(published__lt=day, withdrawn=False).order_by("-published").values_list("published")[:1]
    )
)
_AFTER = Prepared(
    lambda day: (
        Paper.objects.filter(published__gt=day, withdrawn=False).order_by("published").values_list("published")[:1]
    )
)


def latest(before: date) -> date | None:
    """The last day before `before` that has papers; None if there is none."""
    return max([*_LISTED_BEFORE.column(before), *_BEFORE.column(before)], default=None)


def following(after: date) -> date | None:
    """The first day after `after` that has papers."""
    return min([*_LISTED_AFTER.column(after), *_AFTER.column(after)], default=None)


def neighbours(span: Span) -> tuple[Span | None, Span | None]:
    """The nearest spans of this kind before and after, that have papers."""
    before, after = latest(span.first), following(span.last)
    return (around(before, span.kind) if before else None), (around(after, span.kind) if after else None)


def talked_about() -> tuple[date | None, list[Place]]:
    """The trending list: of today, or of the last day that a list was of, where that is long ago."""
    return _talked_about(today(), revision())


@lru_cache(maxsize=4)
def _talked_about(now: date, mark: int) -> tuple[date | None, list[Place]]:
    """It changes with the day and with the store, where votes and comments here are changes of the paper. mark: the
    store's revision."""
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
