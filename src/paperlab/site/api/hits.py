"""Search results and related papers as the API returns them."""

from typing import Any

from django.http import HttpRequest

from paperlab.site import records
from paperlab.site.api import shapes
from paperlab.site.search import query, rank
from paperlab.site.store.models import Paper


def search(request: HttpRequest, *, facets: bool) -> tuple[dict[str, Any], str | None]:
    """(results of a request's search, address of the next page). facets: with counts by value. Raises BadQuery."""
    asked = query.read(dict(request.GET.lists()))
    results = rank.search(asked, facets=facets)
    body = {
        "hits": _listed(results.hits),
        "total": results.total,
        "facets": results.facets,
        "suggestion": results.suggestion,
        "notes": list(results.notes),
    }
    offset = asked.offset + asked.limit
    if offset >= min(results.total, query.DEPTH + 1):
        return body, None
    following = request.GET.copy()
    following["offset"] = str(offset)
    return body, f"{request.path}?{following.urlencode()}"


def related(row: Paper, limit: int) -> list[dict[str, Any]]:
    """Papers near a paper."""
    return _listed(rank.related(row.pk, limit))


def _listed(hits: tuple[query.Hit, ...]) -> list[dict[str, Any]]:
    rows, known = shapes.by_key(hit.paper for hit in hits), records.record_index()
    listed = []
    for hit in hits:
        row = rows.get(hit.paper)
        if row is None:
            continue  # gone from the store, not yet from the index
        shaped = shapes.listed(shapes.paper(row, known))
        shaped["paperlab"] = {
            "score": hit.score,
            "why": str(hit.why),
            "titleHtml": query.html(hit.title),
            "snippetHtml": query.html(hit.snippet),
        }
        listed.append(shaped)
    return listed
