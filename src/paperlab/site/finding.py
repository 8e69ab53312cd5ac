"""What `paperlab search` and `paperlab index` do, and tell while they do it."""

from collections.abc import Mapping, Sequence
from typing import Any

from paperlab.core.standings import count, one_word
from paperlab.site.intake import Told
from paperlab.site.search.query import Results, plain, read
from paperlab.site.start import start


def find(params: Mapping[str, Sequence[str]]) -> tuple[Results, list[dict[str, Any]]]:
    """The answer to a query as an address would ask it, and its papers as rows. Raises BadQuery."""
    query = read(params)
    start()
    from paperlab.site.catalogue.models import Paper
    from paperlab.site.search.rank import search

    results = search(query)
    papers = Paper.objects.in_bulk([hit.paper for hit in results.hits])
    rows = []
    for hit in results.hits:
        paper = papers[hit.paper]
        rows.append(
            {
                "id": paper.slug or paper.arxiv or str(paper.pk),
                "slug": paper.slug,
                "arxiv": paper.arxiv,
                "title": paper.title,
                "year": paper.year,
                "family": paper.family,
                "published": str(paper.published) if paper.published else None,
                "code": paper.code or None,
                "verdict": one_word(count(paper.slug)) if paper.slug else None,
                "score": round(hit.score, 4),
                "why": str(hit.why),
                "snippet": plain(hit.snippet),
            }
        )
    return results, rows


def index(*, anew: bool = False, meaning: bool = True) -> str:
    """Bring the search index up to the store; one sentence on what it holds then. Raises Busy, and what the encoder
    raises."""
    start()
    from paperlab.site.search import encoder
    from paperlab.site.search import index as search_index

    told = Told()

    def progress(what: str, done: int, total: int) -> None:
        told.line(f"{what}: {done:,} of {total:,} papers")

    try:
        search_index.refresh(anew=anew, meaning=meaning, progress=progress)
    finally:
        told.end()
    engine = search_index.engine()
    aside = encoder.set_aside() if meaning else ""
    said = f"{engine.size:,} papers by words, {engine.embedded:,} by meaning"
    return f"{said}; by OpenVINO: {aside}" if aside else said
