"""Pages that list papers: the feed by day, week and month, trending, the newest, a family."""

from collections import Counter
from functools import cache, lru_cache
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from paperlab.core.paper import FAMILIES
from paperlab.core.paper import papers as catalogue
from paperlab.site.api import cursor, shapes
from paperlab.site.api.problems import Problem
from paperlab.site.pages import addresses, cards, feed, text
from paperlab.site.pages.refused import refused
from paperlab.site.people import mine
from paperlab.site.records import record_index, runnable
from paperlab.site.store.models import Paper

PAGE = 30
FURTHEST = 10_000  # places from which a list can be read on
CHECKED = 6  # papers under "Recently checked"


def offset(request: HttpRequest) -> int:
    """Where the page begins; 0 for what is no number."""
    given = request.GET.get("from", "")
    return min(int(given), FURTHEST) if given.isascii() and given.isdigit() and len(given) < 9 else 0


def further(request: HttpRequest, start: int, shown: int, total: int) -> str:
    """The address of the next page, or ""."""
    if start + shown >= min(total, FURTHEST) or not shown:
        return ""
    params = request.GET.copy()
    params["from"] = str(start + shown)
    return f"{request.path}?{params.urlencode()}"


def home(request: HttpRequest) -> HttpResponse:
    """The feed. Without a date: the latest day that has papers; without any such day, the bundled catalogue."""
    try:
        span = feed.read(request.GET.dict())
    except feed.BadSpan as problem:
        return refused(request, 400, "No such day", str(problem))
    now = feed.today()
    asked = span is not None
    if span is None:
        day = now if feed.places(feed.around(now, "day"), 0, 1)[1] else feed.latest(now)
        if day is None:
            return bundled(request)
        span = feed.around(day, "day")
    start, wanted = offset(request), mine.read(request)
    places, total = feed.places(span, start, PAGE, wanted)
    before, after = feed.neighbours(span)
    context = {
        "span": span,
        "is_today": span == feed.around(now, "day"),
        "late": not asked and span.first != now,
        "now": {kind: feed.around(span.first if asked else now, kind) for kind in ("day", "week", "month")},
        "mine": wanted,
        "today": now,
        "cards": cards.cards(places),
        "total": total,
        "before": before,
        "after": after,
        "next": further(request, start, len(places), total),
        "start": start,
        "atom": f"/feeds/daily.atom?{span.params}" if asked else "/feeds/daily.atom",
        "atom_title": f"Papers of {span.title}" if asked else "Daily papers",
        **sidebar(),
    }
    return render(request, "pages/feed.html", context)


def bundled(request: HttpRequest) -> HttpResponse:
    """The first page of a site that has nothing but the catalogue: what was checked last first, then the newest."""
    start, wanted = offset(request), mine.read(request)
    last = last_checked()
    rows = wanted.narrow(Paper.objects.filter(slug__isnull=False, withdrawn=False).defer(*shapes.UNREAD))
    checked = sorted(rows.filter(slug__in=last), key=lambda row: (last[row.slug or ""], row.slug or ""), reverse=True)
    others = rows.exclude(slug__in=last).order_by("-year", "-arxiv", "-pk")
    total = len(checked) + others.count()
    shown = checked[start : start + PAGE]
    if room := PAGE - len(shown):
        begin = max(0, start - len(checked))
        shown += others[begin : begin + room]
    context = {
        "mine": wanted,
        "cards": cards.of_rows(shown),
        "total": total,
        "checked": len(last),
        "papers": len(catalogue()),
        "next": further(request, start, len(shown), total),
        "start": start,
        "atom": "/feeds/new.atom",
        "atom_title": "Newest papers",
        **sidebar(),
    }
    return render(request, "pages/bundled.html", context)


def trending(request: HttpRequest) -> HttpResponse:
    """What is talked about."""
    on, places = feed.talked_about()
    start, wanted = offset(request), mine.read(request)
    if wanted.active:
        kept = set(wanted.keep(key for key, _, _ in places))
        places = [place for place in places if place[0] in kept]
    page = places[start : start + PAGE]
    context = {
        "mine": wanted,
        "on": on,
        "cards": cards.cards(page),
        "next": further(request, start, len(page), len(places)),
        "start": start,
        "atom": "/feeds/trending.atom",
        "atom_title": "Trending papers",
        **sidebar(),
    }
    return render(request, "pages/trending.html", context)


def papers(request: HttpRequest) -> HttpResponse:
    """Every paper, the newest first."""
    wanted = mine.read(request)
    rows = wanted.narrow(Paper.objects.defer(*shapes.UNREAD).filter(withdrawn=False))
    try:
        one_more = cursor.page(rows, "published", request.GET.get("cursor", ""), PAGE + 1)
    except Problem as problem:
        return refused(request, 400, "No such page", problem.detail)
    page = one_more[:PAGE]
    behind = cursor.of(page[-1], "published") if len(one_more) > PAGE else ""
    context = {
        "cards": cards.of_rows(page),
        "mine": wanted,
        "next": f"/papers?cursor={behind}{wanted.more}" if behind else "",
        "start": 0,
        "atom": "/feeds/new.atom",
        "atom_title": "Newest papers",
        **sidebar(),
    }
    return render(request, "pages/papers.html", context)


def last_checked() -> dict[str, str]:
    """When each paper whose main claim has a verdict today was last run, by slug."""
    known = record_index()
    return {
        slug: max(row["started"] for row in rows)
        for slug, rows in known.by_paper.items()
        if slug in catalogue() and known.mains.get(slug)
    }


def recently_checked(limit: int = CHECKED) -> list[dict[str, Any]]:
    """The papers whose claims were checked last, with what came out and when; titles from the catalogue."""
    known, listed, last = record_index(), [], last_checked()
    for slug in sorted(last, key=lambda slug: (last[slug], slug), reverse=True)[:limit]:
        paper = catalogue()[slug]
        listed.append(
            {
                "url": f"/papers/{slug}",
                "title": text.rich(paper.title, drawn=False),
                "method": paper.method,
                "badges": cards.badges(slug, known),
                "day": last[slug][:10],
            }
        )
    return listed


@cache
def _families() -> list[tuple[str, int]]:
    """The families with how many bundled papers each has."""
    counted = Counter(paper.family for paper in catalogue().values())
    return [(name, counted[name]) for name in FAMILIES if counted[name]]


def sidebar() -> dict[str, Any]:
    """The template variables of the sidebar that every list has."""
    return {"recent": _recent(record_index().mark), "families": _families()}


@lru_cache(maxsize=4)
def _recent(mark: str) -> SafeString:
    """The sidebar's lists, which change only with the records. mark: of the record index."""
    return render_to_string("pages/parts/recent.html", {"checked": recently_checked(), "families": _families()})


def families(request: HttpRequest) -> HttpResponse:
    """The families, with how far each is checked."""
    from paperlab.site.records import coverage

    covered = coverage()["families"]
    rows = [(family, covered[family]) for family in FAMILIES if family in covered]
    return render(request, "pages/families.html", {"rows": rows})


def family(request: HttpRequest, name: str) -> HttpResponse:
    """One family's papers, the newest first."""
    if name not in FAMILIES:
        raise Http404(f"no family {name[:40]!r}")
    start, wanted = offset(request), mine.read(request)
    rows = wanted.narrow(Paper.objects.filter(family=name, withdrawn=False).order_by("-year", "-published", "-pk"))
    total = rows.count()
    shown = list(rows.defer(*shapes.UNREAD)[start : start + PAGE])
    context = {
        "name": name,
        "mine": wanted,
        "cards": cards.of_rows(shown),
        "total": total,
        "runnable": sum(1 for slug in runnable() if slug in catalogue() and catalogue()[slug].family == name),
        "next": further(request, start, len(shown), total),
        "start": start,
        "atom": f"/feeds/family/{name}.atom",
        "atom_title": f"Papers of {name}",
        "find": addresses.search(family=name),
        **sidebar(),
    }
    return render(request, "pages/family.html", context)
