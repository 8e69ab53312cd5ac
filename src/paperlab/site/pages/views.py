"""The plain pages: the newest papers, and one paper."""

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render

from paperlab.site import evidence
from paperlab.site.api import cursor, shapes
from paperlab.site.api.problems import Problem
from paperlab.site.catalogue.models import Paper

PAGE = 50


def papers(request: HttpRequest) -> HttpResponse:
    """The newest papers, page by page."""
    rows = Paper.objects.defer(*shapes.UNREAD)
    try:
        found = cursor.page(rows, "published", request.GET.get("cursor", ""), PAGE + 1)
    except Problem as problem:
        raise Http404(problem.detail) from problem
    page = found[:PAGE]
    behind = cursor.of(page[-1], "published") if len(found) > PAGE else ""
    known = evidence.evidence()
    return render(request, "pages/papers.html", {"papers": [shapes.paper(row, known) for row in page], "next": behind})


def paper(request: HttpRequest, name: str) -> HttpResponse:
    """One paper: what it says, and what running it said."""
    row = None if "\0" in name else shapes.find(name)
    if row is None:
        raise Http404(f"no paper {name[:120]!r}")
    known = evidence.evidence()
    said = shapes.detail(row, known)
    verdicts = [v for v in known.by_paper.get(row.slug or "", []) if v["state"] == "current" and v["role"] == "claim"]
    return render(request, "pages/paper.html", {"paper": said, "verdicts": verdicts})
