"""Papers as the API returns them: the known Daily Papers shape, and what only paperlab knows under `paperlab`."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from typing import Any

from paperlab.core.paper import papers
from paperlab.site.records import RecordIndex, runnable
from paperlab.site.store import clean
from paperlab.site.store.models import Paper
from paperlab.site.store.prepared import Prepared

UNREAD = ("origins", "title_key")  # columns that no answer needs


def public_id(row: Paper) -> str:
    """The name under which a paper is asked for: arXiv id, else slug, else "~" and its number in this store."""
    return row.arxiv or row.slug or f"~{row.pk}"


_NAMED = Prepared(lambda value, column: Paper.objects.defer("title_key").filter(**{column: value}).order_by())


def _first(column: str, value: str | int) -> Paper | None:
    return next(iter(_NAMED.objects(value, column=column)), None)


def find(name: str) -> Paper | None:
    """The paper of a public id, an arXiv id with a version, or an arXiv address; None if there is none."""
    if "\0" in name:  # which PostgreSQL does not even look for
        return None
    bare = name.strip()
    if bare.startswith("~"):
        return _first("pk", clean.key(bare[1:]))
    known = clean.arxiv_id(bare[:200])
    if known:
        return _first("arxiv", known[0])
    slug = bare.replace("_", "-").lower()
    return _first("slug", slug) if len(slug) <= 120 else None


def moment(value: date | datetime | None) -> str | None:
    """A day or a time as the known API writes it: 2026-08-14T00:00:00.000Z."""
    if value is None:
        return None
    at = value if isinstance(value, datetime) else datetime.combine(value, time(), UTC)
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def paper(row: Paper, known: RecordIndex) -> dict[str, Any]:
    """A paper. `id`, `title`, `summary` (the abstract), `authors`, `upvotes` … as the known API names them."""
    slug = row.slug or ""
    ours = papers().get(slug)
    code = clean.address(row.code)  # becomes a link: whatever wrote the row, no other scheme goes out
    shaped: dict[str, Any] = {
        "id": public_id(row),
        "authors": [{"name": name, "hidden": False} for name in row.authors],
        "publishedAt": moment(row.published_at or row.published),
        "title": row.title,
        "summary": row.abstract,
        "upvotes": row.upvotes,
    }
    if row.upstream_summary:
        shaped["ai_summary"] = row.upstream_summary
    if row.keywords:
        shaped["ai_keywords"] = row.keywords
    if code.startswith("https://github.com/"):
        shaped["githubRepo"] = code
    if row.stars is not None:
        shaped["githubStars"] = row.stars
    shaped["paperlab"] = {
        "key": row.pk,
        "revision": row.revision,
        "arxiv": row.arxiv,
        "version": row.version,
        "slug": row.slug,
        "family": row.family or None,
        "kind": row.kind or None,
        "method": row.method or None,
        "summary": row.summary or None,
        "year": row.year,
        "venue": ours.venue if ours else None,
        "updatedAt": moment(row.updated_at),
        "withdrawn": row.withdrawn,
        "categories": row.categories,
        "authorCount": row.author_count,
        "comments": row.comments,
        "code": code or None,
        "links": row.links,
        "runnable": slug in runnable(),
        "verdict": known.words.get(slug),
        "verdicts": known.counts.get(slug, {}),
    }
    return shaped


def detail(row: Paper, known: RecordIndex) -> dict[str, Any]:
    """A paper with what only its own address has: versions, the days in daily lists, the catalogue's claims."""
    shaped = paper(row, known)
    days = list(row.sightings.order_by("day").values("day", "upvotes", "comments"))
    if days:
        shaped["submittedOnDailyAt"] = moment(days[0]["day"])
    ours = papers().get(row.slug or "")
    shaped["paperlab"] |= {
        "versions": row.versions,
        "days": [{**day, "day": str(day["day"])} for day in days],
        "month": ours.month if ours else None,
        "claims": [vars(claim) for claim in ours.claims] if ours else [],
        "plan": ours.plan.experiment if ours and ours.plan else None,
        "why_not": ours.why_not if ours else None,
    }
    return shaped


def listed(shaped: dict[str, Any], *, day: date | None = None, comments: int | None = None) -> dict[str, Any]:
    """A paper as a place of a list, which holds it under `paper` and repeats its title, abstract and date."""
    if day is not None:
        shaped["submittedOnDailyAt"] = moment(day)
    return {
        "paper": shaped,
        "publishedAt": shaped["publishedAt"],
        "title": shaped["title"],
        "summary": shaped["summary"],
        "numComments": shaped["paperlab"]["comments"] if comments is None else comments,
    }


def by_key(keys: Iterable[int]) -> dict[int, Paper]:
    """Papers by their keys, in one query."""
    return Paper.objects.defer(*UNREAD).in_bulk(list(keys))
