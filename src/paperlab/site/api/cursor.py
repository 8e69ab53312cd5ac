"""Cursors: pages over the store that do not shift when papers arrive between two requests.

A cursor is the last row's place in its order, in plain letters; one that is made up asks for a place, nothing more.

    p2024-05-01.123   by date, newest first: behind paper 123 of that day; p.123 among those without a date
    a123              in the order of arrival
    c17.123           in the order of change: behind paper 123 of revision 17
"""

import re
from datetime import date
from typing import Literal

from django.db.models import Q, QuerySet

from paperlab.site.api.problems import Problem, bad
from paperlab.site.store.models import Paper

Order = Literal["published", "added", "changed"]

_FORMS = {
    "published": re.compile(r"p(\d{4}-\d{2}-\d{2})?\.(\d{1,18})"),
    "added": re.compile(r"a(\d{1,18})"),
    "changed": re.compile(r"c(\d{1,18})\.(\d{1,18})"),
}


def of(row: Paper, order: Order) -> str:
    """The cursor behind a row."""
    if order == "published":
        return f"p{row.published or ''}.{row.pk}"
    return f"a{row.pk}" if order == "added" else f"c{row.revision}.{row.pk}"


def _wrong(cursor: str, order: Order) -> Problem:
    return bad({"cursor": f"{cursor[:60]!r} is no cursor of order={order}; take the one that the page before gave"})


def page(rows: "QuerySet[Paper]", order: Order, cursor: str, limit: int) -> list[Paper]:
    """The next `limit` rows behind a cursor ("" for the first). Raises Problem for one that is none."""
    match = _FORMS[order].fullmatch(cursor) if cursor else None
    if cursor and match is None:
        raise _wrong(cursor, order)
    if order == "added":
        behind = rows.filter(pk__gt=int(match[1])) if match else rows
        return list(behind.order_by("pk")[:limit])
    if order == "changed":
        if match:
            revision, pk = int(match[1]), int(match[2])
            # Two conditions rather than one with OR: the first is a range of the index.
            rows = rows.filter(revision__gte=revision).exclude(revision=revision, pk__lte=pk)
        return list(rows.order_by("revision", "pk")[:limit])
    return _newest(rows, cursor, match, limit)


def _newest(rows: "QuerySet[Paper]", cursor: str, match: "re.Match[str] | None", limit: int) -> list[Paper]:
    """By date, newest first, then those without a date, whose place databases differ about."""
    page: list[Paper] = []
    undated = rows.filter(published=None)
    if match is None or match[1]:
        dated = rows.filter(published__isnull=False)
        if match:
            try:
                day = date.fromisoformat(match[1])
            except ValueError:
                raise _wrong(cursor, "published") from None
            dated = dated.filter(published__lte=day).exclude(Q(published=day) & Q(pk__gte=int(match[2])))
        page = list(dated.order_by("-published", "-pk")[:limit])
    else:
        undated = undated.filter(pk__lt=int(match[2]))
    if len(page) < limit:
        page += undated.order_by("-pk")[: limit - len(page)]
    return page
