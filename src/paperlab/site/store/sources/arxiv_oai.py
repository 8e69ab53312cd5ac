"""arXiv's OAI-PMH: everything, or a set, that changed since a day. https://info.arxiv.org/help/oa, openarchives.org.

The protocol's client libraries (Sickle, oaipmh-scythe) hide the resumption token between requests, which is what a
harvest that survives its process must keep; the part of the protocol that is needed here is small.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from paperlab.site.store import clean
from paperlab.site.store.item import Item, Malformed, Page, Rejected, SourceError
from paperlab.site.store.sources import xml
from paperlab.site.store.sources.http import Answer, Polite

BASE = "https://oaipmh.arxiv.org/oai"
FIRST_DAYS = 7  # how far back the first harvest asks when no first day is given; all of cs is a matter of hours


@dataclass
class Records:
    """One answer: its items, the token for the next one, the protocol's error, the last datestamp."""

    page: Page = field(default_factory=Page)
    token: str = ""
    error: str = ""
    message: str = ""
    responded: str = ""
    stamps: list[str] = field(default_factory=list)


class ArxivOai:
    """Records of one set ("cs", "cs:cs:CL", "" for all) that changed between two days.

    Without `since` it asks from the day of the last whole harvest, the day itself included: datestamps are days.
    An expired token is answered by asking again from the last datestamp that was stored, if they came in order.
    """

    name = "arxiv-oai"

    def __init__(
        self,
        client: Polite,
        *,
        base: str = BASE,
        of: str = "cs",
        since: date | None = None,
        until: date | None = None,
        prefix: str = "arXiv",
        today: date | None = None,
    ) -> None:
        self.client, self.base, self.set, self.prefix = client, base, of, prefix
        self.since, self.until = since, until
        self.today = today or datetime.now(UTC).date()
        span = f":{since or ''}:{until or ''}" if since or until else ""
        self.key = f"arxiv-oai:{base}:{of}:{prefix}{span}"[:200]
        self.reached: dict[str, Any] = {}

    def pages(self, resume: dict[str, Any], reached: dict[str, Any]) -> Iterator[Page]:
        """Page by page; resume keeps the token, where the harvest began, and the last datestamp."""
        begun = str(resume.get("from") or self.since or reached.get("from") or self.today - timedelta(FIRST_DAYS))
        self.reached = dict(reached)
        token, last, ordered = resume.get("token", ""), resume.get("last", ""), resume.get("ordered", True)
        responded, retries = resume.get("responded", ""), 0
        while True:
            records = self._records(token, begun)
            if records.error == "badResumptionToken" and token:
                retries += 1
                if retries > 3:
                    raise SourceError(f"arxiv-oai: the resumption token is refused again and again: {records.message}")
                begun = last if ordered and last else begun
                token = ""
                continue
            if records.error and records.error != "noRecordsMatch":
                raise SourceError(f"arxiv-oai: {records.error}: {records.message}")
            responded = responded or records.responded
            for stamp in records.stamps:
                if stamp > str(self.today + timedelta(1)):
                    continue  # a datestamp of the future is of no use
                ordered = ordered and stamp >= last
                last = max(last, stamp)
            if records.token and records.token == token:
                raise SourceError("arxiv-oai: the same resumption token twice; the server goes in a circle")
            token = records.token
            kept = {"token": token, "from": begun, "last": last, "ordered": ordered, "responded": responded}
            records.page.resume = kept if token else {"from": begun, "last": last, "ordered": ordered}
            yield records.page
            if not token:
                break
        if responded and self.until is None:
            self.reached = {"from": responded}

    def _records(self, token: str, begun: str) -> Records:
        params = {"verb": "ListRecords"}
        if token:
            params["resumptionToken"] = token
        else:
            params |= {"metadataPrefix": self.prefix, "from": begun}
            params |= {"set": self.set} if self.set else {}
            params |= {"until": str(self.until)} if self.until else {}
        answer = self.client.get(self.base, params, wrong=_broken)
        if answer.status != 200:
            raise SourceError(f"arxiv-oai: status {answer.status} for {answer.url}")
        return read(answer.content, f"arxiv-oai:{token or begun}")


def _broken(answer: Answer) -> str:
    try:
        root = xml.parse(answer.content)
    except Malformed as error:
        return str(error)
    return "" if xml.local(root) == "OAI-PMH" else f"<{xml.local(root)}> instead of <OAI-PMH>"


def read(content: bytes, where: str) -> Records:
    """One OAI-PMH answer. A document that breaks off gives the records before the break, and a rejected one."""
    records = Records()
    try:
        for element in xml.each(content, "record", "resumptionToken", "error", "responseDate"):
            name = xml.local(element)
            if name == "record":
                _record(element, records, where)
            elif name == "resumptionToken":
                records.token = (element.text or "").strip()
                records.page.total = clean.count(element.get("completeListSize") or "")
            elif name == "error":
                records.error, records.message = element.get("code") or "error", clean.line(element.text or "")[:200]
            else:
                responded = clean.moment((element.text or "").strip())
                records.responded = str(responded.date()) if responded else ""
    except Malformed as error:
        records.page.rejected.append(Rejected(str(error), where, content[-300:].decode("utf-8", "replace")))
    return records


def _record(element: xml.Element, records: Records, where: str) -> None:
    header = xml.child(element, "header")
    named = clean.line(xml.text(header, "identifier")) if header is not None else ""
    stamp = clean.line(xml.text(header, "datestamp"))[:10] if header is not None else ""
    if stamp:
        records.stamps.append(stamp)
    if header is not None and header.get("status") == "deleted":
        records.page.add(Item(arxiv=named, deleted=True, as_of=stamp, where=where), named)
        return
    metadata = xml.child(element, "metadata")
    about = next(iter(metadata), None) if metadata is not None else None
    if about is None:
        records.page.rejected.append(Rejected("a record without metadata", where, f"{named} {stamp}"))
        return
    if xml.local(about) not in ("arXiv", "arXivRaw"):
        reason = f"metadata in the format {xml.local(about)!r}; arXiv and arXivRaw are read"
        records.page.rejected.append(Rejected(reason, where, named))
        return
    records.page.add(_paper(about, named, where), named)


def _paper(about: xml.Element, named: str, where: str) -> Item:
    authors = xml.child(about, "authors")
    if authors is not None and len(authors):
        parts = [
            [clean.line(xml.text(author, name)) for name in ("forenames", "keyname", "suffix")] for author in authors
        ]
        signed: object = [" ".join(part for part in name if part) for name in parts]
    else:
        signed = "".join(authors.itertext()) if authors is not None else ""
    versions = [
        {"version": clean.line(version.get("version") or "")[:10], "date": str(at.date())}
        for version in xml.children(about, "version")
        if (at := clean.moment(xml.text(version, "date")))
    ]
    created = clean.moment(xml.text(about, "created"))
    updated = clean.moment(xml.text(about, "updated")) or created
    first = clean.moment(xml.text(xml.children(about, "version")[0], "date")) if versions else None
    extra = {
        name.replace("-", "_"): value
        for name in ("comments", "journal-ref", "doi", "report-no", "msc-class", "acm-class", "license", "submitter")
        if (value := clean.line(xml.text(about, name)))
    }
    if isinstance(signed, str) and "(" in signed:  # with affiliations, which the names leave out
        extra["authors"] = clean.line(signed)[:10_000]
    places = {
        clean.line(f"{xml.text(author, 'forenames')} {xml.text(author, 'keyname')}"): place
        for author in (authors if authors is not None else [])
        if (place := "; ".join(clean.line("".join(part.itertext())) for part in xml.children(author, "affiliation")))
    }
    if places:
        extra["affiliations"] = places  # type: ignore[assignment]
    last = versions[-1]["date"] if versions else str(updated.date()) if updated else ""
    return Item(
        title=xml.text(about, "title"),
        arxiv=xml.text(about, "id").strip() or named,
        abstract=clean.paragraphs(xml.text(about, "abstract"), indented=True),
        authors=clean.names(signed),
        categories=list(dict.fromkeys(clean.line(xml.text(about, "categories")).split())),
        published=first,
        published_day=created.date() if created else None,
        updated=updated,
        version=clean.count(versions[-1]["version"].lstrip("v")) if versions else None,
        versions=versions,
        extra=extra,
        as_of=last,
        where=where,
    )
