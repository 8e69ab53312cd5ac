"""Papers of the daily lists of a day, a week or a month."""

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.db.models import Max, Min
from django.db.models.functions import Coalesce

from paperlab.site import records
from paperlab.site.api import shapes
from paperlab.site.api.params import DailyParams
from paperlab.site.api.problems import bad
from paperlab.site.search.trending import trending
from paperlab.site.store.models import Sighting

PLACES = 1_000  # of the trending list


def span(asked: DailyParams) -> tuple[date, date]:
    """First and last day of what is asked for. Raises Problem."""
    given = [name for name in ("date", "week", "month") if getattr(asked, name)]
    if len(given) > 1:
        raise bad(dict.fromkeys(given, "give one of date, week and month"))
    if asked.week:
        year, week = int(asked.week[:4]), int(asked.week[6:])
        try:
            monday = date.fromisocalendar(year, week, 1)
        except ValueError:
            raise bad({"week": f"{year} has no week {week}"}) from None
        return monday, monday + timedelta(6)
    if asked.month:
        year, month = int(asked.month[:4]), int(asked.month[5:])
        return date(year, month, 1), date(year, month, monthrange(year, month)[1])
    day = asked.date or datetime.now(UTC).date()
    return day, day


def papers(asked: DailyParams) -> tuple[list[dict[str, Any]], int]:
    """A page of them, and how many there are."""
    first, last = span(asked)
    if asked.sort == "trending":
        return _trending(last, asked)
    seen = (
        Sighting.objects.filter(day__range=(first, last))
        .values("paper")
        .annotate(
            first=Min("day"),
            votes=Max(Coalesce("paper__upvotes", "upvotes")),
            comment_count=Max("comments"),
            published=Max("paper__published"),
        )
    )
    places = list(seen)
    newest = asked.sort == "publishedAt"
    places.sort(key=lambda p: (p["published"] or date.min) if newest else (p["votes"] or 0, p["paper"]), reverse=True)
    page = places[asked.p * asked.limit :][: asked.limit]
    rows, known = shapes.by_key(place["paper"] for place in page), records.record_index()
    listed = []
    for place in page:
        row = rows.get(place["paper"])
        if row is None:
            continue  # joined with another row between the two queries
        shaped = shapes.paper(row, known)
        shaped["upvotes"] = place["votes"]
        listed.append(shapes.listed(shaped, day=place["first"], comments=row.comments or place["comment_count"]))
    return listed, len(places)


def _trending(on: date, asked: DailyParams) -> tuple[list[dict[str, Any]], int]:
    talked = [key for key, _ in trending(on, PLACES)]
    keys = talked[asked.p * asked.limit :][: asked.limit]
    rows, known = shapes.by_key(keys), records.record_index()
    days = dict(Sighting.objects.filter(paper__in=keys, day__lte=on).values_list("paper").annotate(Max("day")))
    listed = [shapes.listed(shapes.paper(rows[key], known), day=days.get(key)) for key in keys if key in rows]
    return listed, len(talked)
