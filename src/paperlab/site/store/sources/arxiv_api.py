"""arXiv's API: papers by id or by query, answered as Atom. https://info.arxiv.org/help/api/user-manual.html"""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

from paperlab.site.store import clean
from paperlab.site.store.item import Item, Malformed, Page, Rejected, SourceError
from paperlab.site.store.sources import xml
from paperlab.site.store.sources.http import Answer, Polite

BASE = "https://export.arxiv.org/api/query"
PAGE = 200  # entries a request; the API allows 2,000 and fails often above a few hundred
EMPTY = 4  # how often a page that should hold entries may come empty


class ArxivApi:
    """Papers by `ids`, or by `query` in arXiv's language (cat:cs.CL AND ti:"low rank"), newest first.

    since, until: days between which a paper was submitted; both may be None.
    """

    name = "arxiv-api"

    def __init__(
        self,
        client: Polite,
        *,
        base: str = BASE,
        query: str = "",
        ids: Sequence[str] = (),
        since: date | None = None,
        until: date | None = None,
        page: int = PAGE,
    ) -> None:
        known = [clean.arxiv_id(name) for name in ids]
        bad = [name for name, pair in zip(ids, known, strict=True) if pair is None]
        if bad:  # one bad id makes the API refuse all
            raise SourceError(f"arxiv: not an arXiv id: {', '.join(bad)[:200]}; expected e.g. 2310.06927")
        if not ids and not query:
            raise SourceError("arxiv: which papers? arxiv:2310.06927,2403.02775 or arxiv:cat:cs.CL")
        if query and (since or until):
            first, last = f"{since or date(1991, 1, 1):%Y%m%d}0000", f"{until or date(2099, 12, 31):%Y%m%d}2359"
            query = f"({query}) AND submittedDate:[{first} TO {last}]"
        self.client, self.base, self.query, self.page = client, base, query, page
        self.ids = [f"{pair[0]}v{pair[1]}" if pair[1] else pair[0] for pair in known if pair]
        asked = "\0".join([base, query, *self.ids])
        self.key = f"arxiv-api:{hashlib.sha256(asked.encode()).hexdigest()[:32]}"
        self.reached: dict[str, Any] = {}

    def pages(self, resume: dict[str, Any], reached: dict[str, Any]) -> Iterator[Page]:
        """Page by page, `start` in resume."""
        start = int(resume.get("start", 0))
        empty = 0
        while True:
            params = {"start": str(start), "max_results": str(self.page)}
            if self.ids:
                params["id_list"] = ",".join(self.ids)
            if self.query:
                params |= {"search_query": self.query, "sortBy": "submittedDate", "sortOrder": "descending"}
            answer = self.client.get(self.base, params, wrong=_broken)
            if answer.status not in (200, 400):
                raise SourceError(f"arxiv: status {answer.status} for {answer.url}")
            page, got = read(answer.content, f"arxiv-api:{start}")
            total = page.total or 0
            if not got and start < total:
                empty += 1
                if empty >= EMPTY:
                    raise SourceError(f"arxiv: {total} papers promised, none came from {start} on; try later")
                continue
            empty = 0
            start += got
            page.resume = {"start": start}
            yield page
            if not got or start >= total:
                return


def _broken(answer: Answer) -> str:
    try:
        root = xml.parse(answer.content)
    except Malformed as error:
        return str(error)
    return "" if xml.local(root) == "feed" else f"<{xml.local(root)}> instead of a feed"


def read(content: bytes, where: str) -> tuple[Page, int]:
    """An Atom answer as a page, and how many entries it had. A document that breaks off gives those before the break.

    Raises SourceError where the answer is the API's own error.
    """
    page, got = Page(), 0
    try:
        for element in xml.each(content, "entry", "totalResults"):
            if xml.local(element) == "totalResults":
                page.total = clean.count((element.text or "").strip())
                continue
            got += 1
            named = xml.text(element, "id").strip()
            if "/api/errors" in named:
                raise SourceError(
                    f"arxiv: {clean.line(xml.text(element, 'summary'))[:200] or 'an error without words'}"
                )
            place = f"{where}+{got}"
            page.add(_entry(element, named, place), named)
    except Malformed as error:
        page.rejected.append(Rejected(str(error), where, content[-300:].decode("utf-8", "replace")))
    return page, got


def _entry(element: xml.Element, named: str, where: str) -> Item:
    known = clean.arxiv_id(named)
    authors = xml.children(element, "author")
    terms = [term for part in xml.children(element, "category") if (term := clean.line(part.get("term") or ""))]
    primary = xml.child(element, "primary_category")
    if primary is not None and (first := clean.line(primary.get("term") or "")):
        terms = [first, *(term for term in terms if term != first)]
    extra: dict[str, Any] = {
        name: value for name in ("comment", "journal_ref", "doi") if (value := clean.line(xml.text(element, name)))
    }
    signed = {clean.line(xml.text(author, "name")): clean.line(xml.text(author, "affiliation")) for author in authors}
    if any(signed.values()):
        extra["affiliations"] = {name: place for name, place in signed.items() if place}
    updated = clean.moment(xml.text(element, "updated"))
    return Item(
        title=xml.text(element, "title"),
        arxiv=named,
        abstract=clean.paragraphs(xml.text(element, "summary"), indented=True),
        authors=clean.names([xml.text(author, "name") for author in authors]),
        categories=list(dict.fromkeys(terms)),
        published=clean.moment(xml.text(element, "published")),
        updated=updated,
        version=known[1] if known else None,
        extra=extra,
        as_of=updated.isoformat()[:19] if updated else "",
        where=where,
    )
