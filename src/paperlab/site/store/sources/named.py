"""Sources by the names that the command line takes."""

import os
from collections.abc import Sequence
from datetime import date
from urllib.parse import urlsplit

from paperlab.site.store import clean
from paperlab.site.store.item import Source, SourceError
from paperlab.site.store.sources import arxiv_api, arxiv_oai, daily_papers
from paperlab.site.store.sources.feeds import Feed
from paperlab.site.store.sources.http import Polite

DEFAULTS = ("daily", "oai:cs")
FORMS = "daily, oai[:SET], arxiv:IDS, arxiv:QUERY, feed:ADDRESS"
ARXIV_GAP = 3.0  # seconds; arXiv's terms of use for its APIs
GAP = 1.0
TRIES = 6  # of somebody who waits for the answer


def source(name: str, since: date | None = None, until: date | None = None, *, tries: int = TRIES) -> Source:
    """The source behind "daily", "oai:cs", "arxiv:2310.06927,2403.02775", "arxiv:cat:cs.CL", "feed:https://…".

    PAPERLAB_ARXIV_API, PAPERLAB_ARXIV_OAI and PAPERLAB_DAILY_PAPERS name other addresses, e.g. mirrors.
    tries: how often a server that is busy or does not answer is asked. Raises SourceError for any other name.
    """
    kind, _, rest = name.partition(":")
    if kind in ("daily", "daily-papers") and not rest:
        base = daily_papers.base()
        return daily_papers.DailyPapers(_client(base, tries, base), base=base, since=since, until=until)
    if kind in ("oai", "arxiv-oai"):
        base = os.environ.get("PAPERLAB_ARXIV_OAI") or arxiv_oai.BASE
        return arxiv_oai.ArxivOai(_arxiv(base, tries), base=base, of=rest, since=since, until=until)
    if kind in ("arxiv", "arxiv-api"):
        base = os.environ.get("PAPERLAB_ARXIV_API") or arxiv_api.BASE
        ids, query = _ids_or_query(rest)
        return arxiv_api.ArxivApi(_arxiv(base, tries), base=base, ids=ids, query=query, since=since, until=until)
    if kind == "feed" or clean.address(name):
        url = rest if kind == "feed" else name
        return Feed(_client(url, tries), url)
    raise SourceError(f"no source {name!r}; one of: {FORMS}")


def _ids_or_query(rest: str) -> tuple[Sequence[str], str]:
    parts = [part for part in rest.replace(",", " ").split() if part]
    if parts and all(clean.arxiv_id(part) or part[0].isdigit() for part in parts):
        return parts, ""
    return (), rest.strip()


def _arxiv(base: str, tries: int) -> Polite:
    # One line for both of arXiv's services.
    return Polite("arxiv", gap=ARXIV_GAP, tries=tries, inside=inside(base))


def _client(url: str, tries: int, base: str = "") -> Polite:
    return Polite(urlsplit(url).netloc.rpartition("@")[2] or "nowhere", gap=GAP, tries=tries, inside=inside(base))


def inside(base: str = "") -> tuple[str, ...]:
    """Hosts that may be asked wherever they are: of PAPERLAB_INSIDE, and of an address that is a setting itself."""
    named = os.environ.get("PAPERLAB_INSIDE", "").split(",")
    return tuple(name for one in (*named, urlsplit(base).hostname or "") if (name := one.strip().strip("[]")))
