"""What must be true of reading any bytes as any format: an answer or a clear refusal, and only clean text comes out."""

import io
import re
from typing import Any

UNCLEAN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def strings(value: Any) -> list[str]:
    """All text within JSON-like values."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in strings(part)]
    return [text for part in value for text in strings(part)] if isinstance(value, list | tuple) else []


def read(content: bytes, form: str | None = None) -> tuple[list[Any], list[Any]]:
    """Items and asides of a file of these bytes; both empty where it is refused with a reason. Raises AssertionError
    where what comes out cannot be stored as it is, and whatever reading should not have raised."""
    from paperlab.site.store import clean
    from paperlab.site.store.item import LIMITS, SourceError
    from paperlab.site.store.sources import files

    items: list[Any] = []
    asides: list[Any] = []
    refused = None
    try:
        for page in files.source(io.BytesIO(content), name="fuzzed", form=form).pages({}, {}):
            items += page.items
            asides += page.rejected
    except (files.NotAFile, SourceError) as error:
        refused = str(error)
    assert refused is None or (0 < len(refused) < 1000 and "\n" not in refused)
    for item in items:
        assert item.deleted or 0 < len(item.title) <= LIMITS["title"][1]
        assert len(item.abstract) <= LIMITS["abstract"][1]
        assert item.arxiv is None or clean.arxiv_id(item.arxiv) == (item.arxiv, None)
        told = [item.title, item.abstract, item.authors, item.categories, item.keywords, item.upstream_summary]
        told += [item.extra, item.versions, item.links, item.shown, item.code]
        assert not [text for text in strings(told) if UNCLEAN.search(text)]
        assert all(
            url.lower().startswith(("http://", "https://"))
            for url in [item.code or "http://", *(link["url"] for link in item.links)]
        )
        for number in (item.upvotes, item.comments, item.stars, item.author_count, item.version):
            assert number is None or 0 <= number < 2**31
        for seen in item.sightings:
            assert seen.upvotes is None or 0 <= seen.upvotes < 2**31
        days = [item.published_day, item.published, item.updated]
        assert all(day is None or 1665 <= day.year <= 2100 for day in days)
    assert all(aside.reason for aside in asides)
    return items, asides
