"""`paperlab search` and `paperlab index`: search the store, and bring its index up to date."""

from collections.abc import Mapping, Sequence
from typing import Any

from paperlab.core.standings import counts, main, one_word
from paperlab.site.commands.terminal import ProgressLine
from paperlab.site.search.query import Results, plain, read
from paperlab.site.start import start


def search(params: Mapping[str, Sequence[str]]) -> tuple[Results, list[dict[str, Any]]]:
    """The results of a query given by the parameters of a search address, and its papers as rows. Raises BadQuery."""
    query = read(params)
    start()
    from paperlab.site.search.rank import search as ranked
    from paperlab.site.store.models import Paper

    results = ranked(query)
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
                "verdict": one_word(counts(main(paper.slug))) if paper.slug else None,
                "score": round(hit.score, 4),
                "why": str(hit.why),
                "snippet": plain(hit.snippet),
            }
        )
    return results, rows


def index(*, rebuild: bool = False, meaning: bool = True) -> str:
    """Bring the search index up to date with the store; one sentence on what it holds then. rebuild: start from
    nothing. Raises Busy, and what the encoder raises."""
    start()
    from paperlab.site.search import encoder, families
    from paperlab.site.search import index as search_index

    line = ProgressLine()

    def progress(what: str, done: int, total: int) -> None:
        line.show(f"{what}: {done:,} of {total:,} papers")

    try:
        search_index.refresh(rebuild=rebuild, meaning=meaning, progress=progress)
        if families.assign():
            search_index.refresh(meaning=meaning)
    finally:
        line.close()
    engine = search_index.engine()
    reason = encoder.fallback_reason() if meaning else ""
    sizes = f"{engine.size:,} papers by words, {engine.embedded:,} by meaning"
    return f"{sizes}; by OpenVINO: {reason}" if reason else sizes
