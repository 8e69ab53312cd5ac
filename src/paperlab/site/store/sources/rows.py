"""Papers as JSON objects, whatever the field names: a Daily Papers answer, a flattened export, arXiv's own dump.

Names drift over years and tools, so each fact is looked for under every name it was seen with; the first that holds
something counts.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from datetime import date
from typing import Any
from urllib.parse import urlsplit

from paperlab.site.store import clean
from paperlab.site.store.item import Item, Malformed, Page, Ranked, Rejected, Sighting

DAILY = "daily-papers"
_PICTURE = re.compile(r"\.(?:png|jpe?g|webp|gif)$", re.IGNORECASE)
_KEPT = ("organization", "submitter", "comments", "journal-ref", "doi", "report-no", "license")
_LINKS = {
    "project": ("project", "projectPage", "project_page"),
    "model": ("models", "model"),
    "dataset": ("datasets", "dataset"),
    "media": ("mediaUrls", "mediaUrl"),
}
_LINKING = frozenset(name for names in _LINKS.values() for name in names)


def loads(text: str | bytes) -> Any:
    """JSON as Python values. Raises Malformed with the place where it stops being JSON."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise Malformed("not JSON that can be read: nested too deep") from error
    except ValueError as error:  # also bytes that are no UTF-8, and numbers of thousands of digits
        raise Malformed(f"not JSON: {str(error)[:200]}") from error


def _first(row: dict[str, Any], *names: str) -> Any:
    for name in names:  # a loop: this is asked twenty times a paper
        value = row.get(name)
        if value or value in (0, False):
            return value
    return None


def _string(row: dict[str, Any], *names: str) -> str:
    for name in names:  # as `_first`, which is asked as often as this
        value = row.get(name)
        if value or value in (0, False):
            return value if isinstance(value, str) else ""
    return ""


def _named(value: Any) -> str:
    """A person or organisation that is a string in one export and an object in the next."""
    if isinstance(value, dict):
        value = _first(value, "fullname", "name", "user")
    return clean.line(value)[: clean.NAME_LIMIT] if isinstance(value, str) else ""


def item(row: Any, where: str, day: date | None = None) -> Item:
    """One object as an item. day: the daily list that it was in. Raises Malformed with the reason."""
    if not isinstance(row, dict):
        raise Malformed(f"expected an object, found {type(row).__name__}")
    inner = row.get("paper")
    outer = row if isinstance(inner, dict) else {}
    paper: dict[str, Any] = inner if isinstance(inner, dict) else row
    title = _string(paper, "title") or _string(outer, "title")
    if not title:
        raise Malformed("no title")
    named = _first(paper, "arxiv", "arxiv_id", "arxivId", "id", "paper_id", "paperId", "url")
    known = clean.arxiv_id(str(named)) if isinstance(named, str | float) else None
    if isinstance(named, float):  # 2403.0277 as a number may have lost a zero: the id is unknown
        raise Malformed(f"the id {named!r} is a number; arXiv ids are strings")
    if known is None and _first(paper, "arxiv", "arxiv_id", "arxivId") is not None:
        raise Malformed(f"not an arXiv id: {str(named)[:80]!r}")
    unread: dict[str, str] = {}

    def moment(*names: str) -> Any:
        value = _first(paper, *names)
        if value is None and outer:
            value = _first(outer, *names)
        if value is None:
            return None, False
        at = clean.moment(value)
        if at is None and clean.year(value) is None:
            unread[names[0]] = clean.line(str(value))[:100]
        return at, isinstance(value, str) and len(value.strip()) > 10

    published, precise = moment("published", "publishedAt", "published_at", "created", "date")
    versions = _versions(paper.get("versions"))
    if published is None and versions:
        published, precise = clean.moment(versions[0]["date"]), False
    updated, _ = moment("updated", "updatedAt", "updated_at", "update_date")
    seen = _days(row, unread)
    if not seen and day:
        seen = [day]
    votes = clean.count(_first(paper, "upvotes", "votes"))
    comment_count = _first(outer, "numComments", "num_comments")
    comments = clean.count(comment_count if comment_count is not None else _first(paper, "num_comments", "numComments"))
    sightings = [Sighting(at) for at in seen[:-1]] + [Sighting(at, votes, comments) for at in seen[-1:]]
    organisation = _named(_first(paper, "organization") or _first(outer, "organization"))
    submitter = _named(_first(paper, "submitter", "submittedOnDailyBy") or _first(outer, "submittedBy"))
    submitted, _ = moment("submittedOnDailyAt", "submitted_daily")
    extra: dict[str, Any] = {
        name: value for name in _KEPT if isinstance(value := paper.get(name), str) and value.strip()
    }
    extra |= {name: value for name, value in (("organization", organisation), ("submitter", submitter)) if value}
    if submitted:
        extra["submitted"] = submitted.isoformat()
    if unread:
        extra["unread"] = unread
    if known is None and isinstance(named, str):
        extra["id"] = clean.line(named)[:200]
    last = versions[-1]["version"].lstrip("v") if versions else ""
    return Item(
        title=title,
        arxiv=known[0] if known else None,
        abstract=_string(paper, "abstract", "summary") or _string(outer, "summary"),
        authors=clean.names(_signed(paper)),
        categories=_words(_first(paper, "categories", "category")),
        published=published if precise else None,
        published_day=published.date() if published else None,
        year=None if published else _year(paper, outer),
        updated=updated,
        version=(known[1] if known else None) or clean.count(last),
        versions=versions,
        code=clean.address(_first(paper, "github", "githubRepo", "code", "code_url")),
        links=(links := _links(paper, outer)),
        pictures=_pictures(paper, outer, links),
        upvotes=votes,
        comments=comments,
        stars=clean.count(_first(paper, "stars", "githubStars")),
        sightings=sightings,
        upstream_summary=clean.paragraphs(_string(paper, "ai_summary", "aiSummary")),
        keywords=[clean.line(word)[:200] for word in _list(_first(paper, "ai_keywords", "aiKeywords", "keywords"))][
            :200
        ],
        extra={name: clean.line(value) if isinstance(value, str) else value for name, value in extra.items()},
        as_of=str(max(seen)) if seen else updated.isoformat()[:10] if updated else "",
        where=where,
    )


def _year(paper: dict[str, Any], outer: dict[str, Any]) -> int | None:
    """The year, where no day is said."""
    values = (
        _first(part, "year", "published", "publishedAt", "published_at", "created", "date") for part in (paper, outer)
    )
    return next((year for value in values if (year := clean.year(value))), None)


def _days(row: dict[str, Any], unread: dict[str, str]) -> list[date]:
    """The days of the daily lists in which an export saw a paper, in order."""
    values = row.get("seen_on")
    if not values:
        return []
    values = [values] if isinstance(values, str) else values if isinstance(values, list) else []
    moments = {value: clean.moment(value) for value in values if isinstance(value, str)}
    lost = [clean.line(value)[:100] for value, at in moments.items() if at is None]
    if lost:
        unread["seen_on"] = lost[0]
    return sorted({at.date() for at in moments.values() if at})


def _signed(paper: dict[str, Any]) -> object:
    parsed = paper.get("authors_parsed")  # arXiv's dump: [["Last", "First", "Jr."], …]
    if isinstance(parsed, list) and parsed and all(isinstance(name, list) and len(name) >= 2 for name in parsed):
        return [" ".join(str(name[i]) for i in (1, 0, 2) if i < len(name) and name[i]) for name in parsed]
    return _first(paper, "authors", "author")


def _versions(value: Any) -> list[dict[str, Any]]:
    rows = [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
    pairs = [(clean.line(str(row.get("version", "")))[:10], clean.moment(row.get("created"))) for row in rows]
    return [{"version": name, "date": str(at.date())} for name, at in pairs if name and at][:1000]


def _list(value: Any) -> list[str]:
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def _words(value: Any) -> list[str]:
    words = value.split() if isinstance(value, str) else [clean.line(word) for word in _list(value)]
    return list(dict.fromkeys(word[:100] for word in words if word))[:100]


def _links(paper: dict[str, Any], outer: dict[str, Any]) -> list[dict[str, str]]:
    links: dict[str, dict[str, str]] = {}
    if _LINKING.isdisjoint(paper) and _LINKING.isdisjoint(outer):
        return []
    for kind, keys in _LINKS.items():
        for key in keys:
            for source in (paper, outer):
                value = source.get(key)
                if not value:
                    continue
                for one in value if isinstance(value, list) else [value]:
                    bare = _first(one, "url", "id") if isinstance(one, dict) else one
                    url = clean.address(bare)
                    if not url and kind in ("model", "dataset") and isinstance(bare, str) and bare.count("/") == 1:
                        url = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{clean.line(bare)}"
                        url = clean.address(url)
                    if url:
                        links.setdefault(url, {"kind": kind, "url": url})
    return list(links.values())


def _pictures(paper: dict[str, Any], outer: dict[str, Any], links: list[dict[str, str]]) -> list[str]:
    """Addresses of pictures: a figure that somebody put there tells more than the list's own picture of the paper."""
    if not links and "thumbnail" not in outer and "thumbnail" not in paper:
        return []
    figures = [link["url"] for link in links if link["kind"] == "media" and _PICTURE.search(urlsplit(link["url"]).path)]
    own = clean.address(_first(outer, "thumbnail") or _first(paper, "thumbnail"))
    return list(dict.fromkeys([*figures[:2], *([own] if own else [])]))


def page(rows: Any, where: str, *, day: date | None = None, first: int = 1) -> Page:
    """A list of objects as a page; those that are no papers are rejected. first: the number of the first."""
    taken = Page()
    if not isinstance(rows, list):
        taken.rejected.append(Rejected(f"expected a list, found {type(rows).__name__}", where, str(rows)[:300]))
        return taken
    for number, row in enumerate(rows, first):
        add(taken, row, f"{where}:{number}", day)
    return taken


def add(taken: Page, row: Any, where: str, day: date | None = None) -> None:
    """Add one object to a page, or the reason why it is rejected."""
    try:
        taken.items.append(item(row, where, day).checked())
    except Malformed as reason:
        taken.rejected.append(Rejected(str(reason), where, json.dumps(row)[:1_000]))


def is_daily(rows: Any) -> bool:
    """Whether a JSON value is a Daily Papers answer: a list of objects that hold a paper."""
    return isinstance(rows, list) and any(isinstance(row, dict) and isinstance(row.get("paper"), dict) for row in rows)


def daily_page(rows: Any, day: date | None, where: str) -> Page:
    """A Daily Papers answer as a page whose order is kept. Without a day, the one most of its papers were submitted
    for is taken; without any, the list has no day."""
    if day is None and is_daily(rows):
        papers = [row["paper"] for row in rows if isinstance(row, dict) and isinstance(row.get("paper"), dict)]
        moments = [clean.moment(paper.get("submittedOnDailyAt")) for paper in papers]
        counted = Counter(at.date() for at in moments if at)
        day = counted.most_common(1)[0][0] if counted else None
    taken = page(rows, where, day=day)
    if day is not None:
        taken.ranked = Ranked(f"{DAILY}:{day}", f"Daily Papers, {day}", day)
    taken.total = len(taken.items) + len(taken.rejected)
    return taken


def days(since: date, until: date) -> Iterator[date]:
    """Every day from since to until, both included."""
    for number in range(since.toordinal(), until.toordinal() + 1):
        yield date.fromordinal(number)
