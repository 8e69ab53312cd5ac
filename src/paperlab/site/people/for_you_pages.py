"""The page "For you", its Atom feed and its JSON: personal, so never kept by a cache, and never open to other sites."""

from datetime import date
from typing import Any

from django.contrib.auth.models import User
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from paperlab.site.api import shapes
from paperlab.site.pages import atom, cards, feed
from paperlab.site.pages.lists import FURTHEST, PAGE, further, offset, sidebar
from paperlab.site.people import for_you, links, mine, who
from paperlab.site.people.models import Choice
from paperlab.site.records import record_index

SPANS = {1: "A day", 7: "A week", 30: "A month"}
FEED = "for-you"  # the kind of its links
ENTRIES = 30


def _days(request: HttpRequest) -> int:
    given = request.GET.get("days", "")
    return int(given) if given in map(str, SPANS) else 7


def _span(request: HttpRequest) -> tuple[date, date]:
    return for_you.span(_days(request), feed.today())


@never_cache
@require_GET
@who.person
def page(request: HttpRequest) -> HttpResponse:
    """The new papers in the order in which this reader is likely to want them; what to do while nothing is known."""
    user, (first, last), start = int(request.user.pk), _span(request), offset(request)
    ready = for_you.ready(user)
    listed, total = for_you.ranked(user, first, last, start, PAGE) if ready else ([], 0)
    reasons = {pick.paper: pick.reasons for pick in listed}
    number = mine.choice(user).feed
    shown = cards.cards([(pick.paper, None, None) for pick in listed])
    context: dict[str, Any] = {
        "ready": ready,
        "enough": for_you.ENOUGH,
        "cards": shown,
        "rows": [(card, reasons[card.key]) for card in shown],
        "total": total,
        "first": first,
        "last": last,
        "days": _days(request),
        "spans": SPANS,
        "start": start,
        "next": further(request, start, len(listed), min(total, FURTHEST)),
        "link": f"{_site(request)}/feeds/for-you/{links.token(FEED, number)}.atom" if number else "",
        **sidebar(),
    }
    if not ready:
        on, places = feed.talked_about()
        context |= {"on": on, "cards": cards.cards(places[:PAGE])}
    return render(request, "people/for_you.html", context)


def _site(request: HttpRequest) -> str:
    return f"{request.scheme}://{request.get_host()}"


@never_cache
@require_GET
@who.person
def as_json(request: HttpRequest) -> HttpResponse:
    """The same list with scores and reasons. Not under /api/, whose answers every web page may read."""
    user, (first, last) = int(request.user.pk), _span(request)
    listed, total = for_you.ranked(user, first, last, offset(request), PAGE)
    rows, known = shapes.by_key(pick.paper for pick in listed), record_index()
    body = []
    for pick in listed:
        if pick.paper in rows:
            shaped = shapes.listed(shapes.paper(rows[pick.paper], known))
            why = [{"what": r.what, "name": r.name, "url": r.url, "words": list(r.words)} for r in pick.reasons]
            body.append({**shaped, "paperlab": {"score": round(pick.score, 4), "because": why}})
    return JsonResponse({"first": str(first), "last": str(last), "total": total, "papers": body})


def _atom(request: HttpRequest, user: int) -> HttpResponse:
    first, last = for_you.span(7, feed.today())
    listed = for_you.picks(user, first, last, ENTRIES)
    rows, known = shapes.by_key(pick.paper for pick in listed), record_index()
    entries = []
    for pick in listed:
        if pick.paper in rows:
            entry = atom.of_paper(rows[pick.paper], known)
            why = "; ".join(str(reason) for reason in pick.reasons)
            entries.append({**entry, "description": f"{why[:1].upper()}{why[1:]}. {entry['description']}"})
    answer = atom.write(request, "paperlab: for you", "/for-you", entries, name=f"for-you/{user}")
    answer.headers["X-Robots-Tag"] = "noindex"
    return answer


@never_cache
@require_GET
@who.person
def own_feed(request: HttpRequest) -> HttpResponse:
    """The feed for who is signed in, or sits at this machine."""
    return _atom(request, int(request.user.pk))


@never_cache
@require_GET
def linked_feed(request: HttpRequest, token: str) -> HttpResponse:
    """The feed for a feed reader that has its link."""
    found = links.number(FEED, token)
    row = Choice.objects.filter(feed=found, user__is_active=True).first() if found else None
    if row is None:
        raise Http404("this link is not, or no longer, one to a feed")
    return _atom(request, row.user_id)


@never_cache
@require_POST
@who.person
def link(request: HttpRequest) -> HttpResponse:
    """Make a link for feed readers, or end it."""
    user: User = who.user(request)
    number = links.fresh() if request.POST.get("do") == "link" else ""
    Choice.objects.update_or_create(user=user, defaults={"feed": number})
    return redirect("/for-you#feed")
