"""Atom feeds: of every list, query, author, family and verdict, with ids that stay."""

import hashlib
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time
from functools import wraps
from typing import Any
from urllib.parse import quote, urlencode

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.cache import get_conditional_response
from django.utils.feedgenerator import Atom1Feed

from paperlab.core.paper import FAMILIES
from paperlab.core.paper import papers as catalogue
from paperlab.site import tex
from paperlab.site.api import shapes
from paperlab.site.pages import addresses, cards, feed, text
from paperlab.site.pages.refused import refused
from paperlab.site.records import RecordIndex, mark, record_index
from paperlab.site.search import query, rank
from paperlab.site.store.models import Paper
from paperlab.site.store.revision import revision

ENTRIES = 50
BEGAN = "2026"  # the year in every tag: id; it never changes
_WINDOW = 200  # papers that a list looks at

View = Callable[..., HttpResponse]


def tag(kind: str, name: str) -> str:
    """An id that stays when addresses change (RFC 4151). The site's own name is the one that it is known by."""
    host = next((name for name in settings.ALLOWED_HOSTS if "*" not in name and not name.startswith(".")), "localhost")
    return f"tag:{host.strip('[]').split(':')[0] or 'localhost'},{BEGAN}:{kind}/{name}"


def state(request: HttpRequest) -> str:
    """A tag that changes whenever a feed of this address may: the store's revision, the records, the day."""
    parts = (settings.SECRET_KEY[:8], revision(), mark()[0], feed.today(), request.get_host(), request.get_full_path())
    return f'W/"{hashlib.sha256(repr(parts).encode("utf-8", "replace")).hexdigest()[:24]}"'


def conditional(view: View) -> View:
    """A view whose answer is not made again for who has it: ETag and 304."""

    @wraps(view)
    def answer(request: HttpRequest, *args: Any, **named: Any) -> HttpResponse:
        known = state(request)
        kept = get_conditional_response(request, etag=known)
        if kept is not None:
            return kept
        made = view(request, *args, **named)
        if made.status_code == 200:
            made.headers["ETag"] = known
            made.headers["Cache-Control"] = "public, no-cache"
        return made

    return answer


def moment(day: date | None, at: datetime | None = None) -> datetime | None:
    """A day as a time."""
    return at or (datetime.combine(day, time(), UTC) if day else None)


def _site(request: HttpRequest) -> str:
    return f"{request.scheme}://{request.get_host()}"


def write(request: HttpRequest, title: str, page: str, entries: Iterable[dict[str, Any]], *, name: str) -> HttpResponse:
    """A feed. page: the address of the page that shows the same. name: what its id is made from."""
    site = _site(request)
    made = Atom1Feed(
        title=title, link=site + page, description=None, language="en", feed_url=site + request.get_full_path(),
        feed_guid=tag("feed", name), author_name="paperlab",
    )  # fmt: skip
    for entry in entries:
        made.add_item(**{**entry, "link": site + entry["link"]})
    # Without entries: the beginning of time, not now, so that an empty feed stays the same.
    made.latest_post_date = lambda: max(
        (item["updateddate"] for item in made.items if item["updateddate"]), default=datetime(2026, 1, 1, tzinfo=UTC)
    )
    return HttpResponse(made.writeString("utf-8"), content_type="application/atom+xml; charset=utf-8")


def of_paper(row: Paper, known: RecordIndex, seen: date | None = None) -> dict[str, Any]:
    """A paper as an entry."""
    words = "; ".join(badge.line for badge in cards.badges(row.slug, known))
    summary = row.summary or row.upstream_summary or text.beginning(row.abstract, 600)
    published = moment(row.published, row.published_at) or (moment(date(row.year, 1, 1)) if row.year else None)
    return {
        "title": _line(text.plain(row.title)) or "(untitled)",
        "link": addresses.paper(row),
        "description": _line(text.plain(summary) + (f" Checked here: {words}." if words else "")),
        "unique_id": tag("paper", shapes.public_id(row)),
        "author_name": _line(", ".join(tex.names(row.authors[:10]))) or "unknown",
        "categories": [str(one) for one in row.categories[:6]] + ([row.family] if row.family else []),
        "pubdate": published or row.added,
        "updateddate": max(t for t in (moment(seen), row.updated_at, published, row.added) if t is not None),
    }


def _line(value: str) -> str:
    """Text that XML can hold."""
    return " ".join(
        "".join(c for c in value if c >= " " and c not in "\ufffe\uffff" and not "\ud800" <= c <= "\udfff").split()
    )


def _entries(keys: list[int], days: dict[int, date] | None = None) -> list[dict[str, Any]]:
    rows, known = shapes.by_key(keys), record_index()
    return [of_paper(rows[key], known, (days or {}).get(key)) for key in keys if key in rows]


@conditional
def daily(request: HttpRequest) -> HttpResponse:
    """Of the daily lists: a day, a week or a month, or the latest days."""
    try:
        span = feed.read(request.GET.dict())
    except feed.BadSpan as problem:
        return refused(request, 400, "No such day", str(problem))
    if span is not None:
        keys = [key for key, _, _ in feed.places(span, 0, _WINDOW)[0]]
        days = dict.fromkeys(keys, span.last if span.last < feed.today() else feed.today())
        return write(
            request, f"paperlab: papers of {span.title}", f"/?{span.params}", _entries(keys, days), name=span.params
        )
    keys, days, day = [], {}, feed.latest(date.max)
    for _ in range(7):
        if day is None or len(keys) >= ENTRIES:
            break
        for key, _, _ in feed.places(feed.around(day, "day"), 0, _WINDOW)[0]:
            if key not in days:
                keys.append(key)
                days[key] = day
        day = feed.latest(day)
    if not keys:
        return new(request)
    return write(request, "paperlab: daily papers", "/", _entries(keys[:_WINDOW], days), name="daily")


@conditional
def trending(request: HttpRequest) -> HttpResponse:
    """What is talked about."""
    _, places = feed.talked_about()
    keys = [key for key, _, _ in places[:ENTRIES]]
    return write(request, "paperlab: trending", "/trending", _entries(keys), name="trending")


@conditional
def new(request: HttpRequest) -> HttpResponse:
    """The newest papers."""
    rows = Paper.objects.defer(*shapes.UNREAD).filter(withdrawn=False)
    from paperlab.site.api import cursor

    page, known = cursor.page(rows, "published", "", ENTRIES), record_index()
    return write(request, "paperlab: newest papers", "/papers", [of_paper(row, known) for row in page], name="new")


@conditional
def family(request: HttpRequest, name: str) -> HttpResponse:
    """A family's papers."""
    if name not in FAMILIES:
        raise Http404(f"no family {name[:40]!r}")
    rows = (
        Paper.objects.defer(*shapes.UNREAD).filter(family=name, withdrawn=False).order_by("-year", "-published", "-pk")
    )
    known = record_index()
    entries = [of_paper(row, known) for row in rows[:ENTRIES]]
    return write(request, f"paperlab: {name}", f"/families/{name}", entries, name=f"family/{name}")


@conditional
def search(request: HttpRequest) -> HttpResponse:
    """A query's papers, the newest first unless the address asks for another order."""
    given = dict(request.GET.lists())
    given.setdefault("sort", ["date"])
    try:
        asked = query.read({**given, "limit": [str(ENTRIES)], "offset": ["0"]})
    except query.BadQuery as wrong:
        return refused(request, 400, "This search cannot be read", str(wrong))
    keys = [hit.paper for hit in rank.search(asked).hits]
    kept = urlencode([(name, value) for name, value in asked.params() if name not in ("limit", "offset")])
    return write(
        request,
        f"paperlab: {_line(asked.text) or 'a search'}"[:160],
        f"/search?{kept}",
        _entries(keys),
        name=f"search?{kept}",
    )


@conditional
def author(request: HttpRequest, name: str) -> HttpResponse:
    """An author's papers."""
    asked = query.Query(author=(" ".join(name.split())[:200],), sort="date", limit=ENTRIES)
    keys = [hit.paper for hit in rank.search(asked).hits]
    page = addresses.search(author=asked.author[0], sort="date")
    return write(
        request,
        f"paperlab: papers by {_line(asked.author[0])}",
        page,
        _entries(keys),
        name=f"author/{quote(asked.author[0].lower())}",
    )


@conditional
def verdict(request: HttpRequest, word: str) -> HttpResponse:
    """Papers that have a verdict of this word."""
    try:
        asked = query.read({"verdict": [word], "sort": ["date"], "limit": [str(ENTRIES)]})
    except query.BadQuery:
        raise Http404(f"no verdict {word[:40]!r}") from None
    keys = [hit.paper for hit in rank.search(asked).hits]
    chosen = asked.verdict[0]
    page = addresses.search(verdict=chosen)
    return write(request, f"paperlab: {chosen}", page, _entries(keys), name=f"verdict/{chosen.replace(' ', '-')}")


@conditional
def checks(request: HttpRequest) -> HttpResponse:
    """Verdicts as they are made: one entry a record."""
    known, entries = record_index(), []
    rows = [row for row in known.verdicts.values() if row["role"] == "claim" and row["state"] != "superseded"]
    for row in sorted(rows, key=lambda row: (row["started"], row["id"]), reverse=True)[:ENTRIES]:
        paper = catalogue().get(row["paper"] or "")
        if paper is None:
            continue
        at = datetime.fromisoformat(row["started"])
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        entries.append(
            {
                "title": _line(
                    f"{row['word'].capitalize()}: {paper.method or paper.title}, {row['claim']} on {row['model']}"
                ),
                "link": f"/papers/{paper.slug}#record-{row['id']}",
                "description": _line(f"{row['says'] or ''} {row['reason']}"),
                "unique_id": tag("record", row["id"]),
                "author_name": "paperlab",
                "categories": [paper.family, row["word"]],
                "pubdate": at,
                "updateddate": at,
            }
        )
    return write(request, "paperlab: what was checked", "/coverage", entries, name="checks")
