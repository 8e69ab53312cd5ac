"""The papers of the daily lists of a day, a week or a month."""

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.db.models import Max, Min
from django.db.models.functions import Coalesce

from paperlab.site import evidence
from paperlab.site.api import shapes
from paperlab.site.api.params import DailyParams
from paperlab.site.api.problems import bad
from paperlab.site.catalogue.models import Sighting


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
    seen = (
        Sighting.objects.filter(day__range=span(asked))
        .values("paper")
        .annotate(
            first=Min("day"),
            votes=Max(Coalesce("paper__upvotes", "upvotes")),
            said=Max("comments"),
            published=Max("paper__published"),
        )
    )
    places = list(seen)
    newest = asked.sort == "publishedAt"
    places.sort(key=lambda p: (p["published"] or date.min) if newest else (p["votes"] or 0, p["paper"]), reverse=True)
    page = places[asked.p * asked.limit :][: asked.limit]
    rows, known = shapes.by_key(place["paper"] for place in page), evidence.evidence()
    found = []
    for place in page:
        row = rows.get(place["paper"])
        if row is None:
            continue  # joined with another row between the two queries
        said = shapes.paper(row, known)
        said["upvotes"] = place["votes"]
        found.append(shapes.listed(said, day=place["first"], comments=row.comments or place["said"]))
    return found, len(places)
