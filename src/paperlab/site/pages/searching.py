"""The search page: words, filters with their counts, and why each paper stands where it stands."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from paperlab.core.paper import FAMILIES
from paperlab.core.standings import MIXED, NOT_RUN
from paperlab.core.verdict import WORDS
from paperlab.site.pages import cards, drawing
from paperlab.site.pages.lists import sidebar
from paperlab.site.people import mine
from paperlab.site.search import query, rank

YEARS = 12  # of the year facet
CATEGORIES = 12
EXAMPLES = ("post-training quantization", "small language models on a phone", "verdict:holds", "is:runnable family:quantization", "author:dettmers")  # fmt: skip  # noqa: E501


def search(request: HttpRequest) -> HttpResponse:
    """What a query finds."""
    given = dict(request.GET.lists())
    try:
        asked, problems = query.read(given), {}
    except query.BadQuery as wrong:
        kept = {name: values for name, values in given.items() if name not in wrong.problems}
        try:
            asked, problems = query.read(kept), wrong.problems
        except query.BadQuery as still:  # a filter inside the words
            asked, problems = query.Query(), {**wrong.problems, **still.problems}
    wanted = mine.read(request)
    empty = not (asked.text or asked.filtered or wanted.active)
    results = query.Results() if problems else rank.search(asked, facets=True, only=wanted.only, without=wanted.without)
    listed = cards.cards([(hit.paper, None, None) for hit in results.hits])
    context = {
        "asked": asked,
        "written": " ".join(given.get("q", []))[: query.TEXT_LIMIT],
        "problems": problems,
        "results": results,
        "cards": cards.with_hits(listed, results.hits),
        "facets": _facets(results.facets, asked),
        "words": [
            drawing.Tick(word, word in asked.verdict, label=cards.Badge(word).label)
            for word in (*WORDS, MIXED, NOT_RUN)
        ],
        "sorts": query.SORTS,
        "active": _active(asked, wanted),
        "mine": wanted,
        "next": _address(replace(asked, offset=asked.offset + asked.limit), wanted) if _more(asked, results) else "",
        "previous": _address(replace(asked, offset=max(0, asked.offset - asked.limit)), wanted) if asked.offset else "",
        "last": asked.offset + len(results.hits),
        "milliseconds": round(results.seconds * 1000),
        "empty": empty,
        "examples": EXAMPLES,
        "atom": "/feeds/search.atom?" + urlencode(_kept(asked)),
        "atom_title": f"Search: {asked.text or 'all papers'}"[:120],
        **(sidebar() if not results.hits else {}),
    }
    return render(request, "pages/search.html", context, status=400 if problems else 200)


def _kept(asked: query.Query) -> list[tuple[str, str]]:
    return [(name, value) for name, value in asked.params() if name not in ("offset", "limit", "sort")]


def _address(asked: query.Query, wanted: mine.Mine) -> str:
    return "/search?" + urlencode([*asked.params(), *wanted.fields])


def _more(asked: query.Query, results: query.Results) -> bool:
    return asked.offset + asked.limit < min(results.total, query.DEPTH + 1) and bool(results.hits)


def _facets(counted: Mapping[str, Mapping[str, int]], asked: query.Query) -> list[dict[str, Any]]:
    """Each facet with its values: those chosen first, then by count."""
    first, last = asked.years
    chosen: dict[str, tuple[str, ...]] = {
        "family": asked.family,
        "category": asked.category,
        "year": (str(first),) if first is not None and first == last else (),
    }
    facets = []
    for name, most in (("family", len(FAMILIES)), ("category", CATEGORIES), ("year", YEARS)):
        values = {str(value): count for value, count in counted.get(name, {}).items() if value not in ("", "0")}
        values |= {value: 0 for value in chosen[name] if value not in values}
        order = sorted(values, key=lambda v: (-int(v) if name == "year" else 0, -values[v], v))
        order = sorted(order, key=lambda v: v not in chosen[name])[:most]
        rows = [drawing.Tick(v, v in chosen[name], values[v]) for v in order]
        if rows:
            facets.append({"name": name, "rows": rows, "one": name == "year", "open": bool(chosen[name])})
    return facets


def _active(asked: query.Query, wanted: mine.Mine) -> list[tuple[str, str]]:
    """Each filter in words, and the address without it."""
    filters = []
    for name in ("family", "category", "author", "verdict"):
        values = getattr(asked, name)
        for value in values:
            rest: dict[str, Any] = {name: tuple(v for v in values if v != value)}
            without = replace(asked, offset=0, **rest)
            filters.append((f"{name}: {value}", _address(without, wanted)))
    if asked.years != (None, None):
        first, last = asked.years
        years_text = f"{first}" if first == last else f"{first or '…'} to {last or '…'}"
        filters.append((f"year: {years_text}", _address(replace(asked, years=(None, None), offset=0), wanted)))
    if asked.code:
        filters.append(("has code", _address(replace(asked, code=False, offset=0), wanted)))
    if asked.runnable:
        filters.append(("has a check", _address(replace(asked, runnable=False, offset=0), wanted)))
    return filters
