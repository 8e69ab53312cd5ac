"""Atom and RSS feeds, read by feedparser: whatever a site publishes about papers, also slightly broken ones."""

import hashlib
import re
from collections.abc import Iterator
from html import unescape
from typing import Any

from paperlab.site.store import clean
from paperlab.site.store.item import Item, Malformed, Page, Rejected, SourceError
from paperlab.site.store.sources.http import Answer, Polite

_LABEL = re.compile(
    r"^[ \t]*(authors?|up-?votes?|votes|comments|abstract|summary|github|code|project(?: page)?)[ \t]*:[ \t]*",
    re.IGNORECASE | re.MULTILINE,
)
LENIENT = 3  # a feed that is malformed so many times is always so, and read as far as it goes
_ANNOUNCED = re.compile(r"\A\s*arXiv:(\S+)\s+Announce Type:\s*\S+\s*", re.IGNORECASE)


class Feed:
    """One feed by its address."""

    name = "feed"

    def __init__(self, client: Polite, url: str) -> None:
        if not clean.address(url):
            raise SourceError(f"feed: not an http address: {url[:200]!r}")
        self.client, self.url = client, url
        self.key = f"feed:{hashlib.sha256(url.encode()).hexdigest()[:32]}"
        self.reached: dict[str, Any] = {}

    def pages(self, resume: dict[str, Any], reached: dict[str, Any]) -> Iterator[Page]:
        """The whole feed as one page."""
        tried = 0

        def wrong(answer: Answer) -> str:
            nonlocal tried
            tried += 1
            return _broken(answer, lenient=tried >= LENIENT)

        answer = self.client.get(self.url, wrong=wrong)
        if answer.status != 200:
            raise SourceError(f"feed: status {answer.status} for {self.url}")
        page = read(answer.content, f"feed:{self.url}")
        page.resume = {"done": True}
        yield page


def _broken(answer: Answer, *, lenient: bool) -> str:
    if has_entities(answer.content):
        return ""  # asking again does not help; reading rejects it
    try:
        parsed = _parse(answer.content)
    except Malformed as error:
        return str(error)
    if parsed.bozo and _breaks(parsed.get("bozo_exception")) and not (lenient and parsed.entries):
        return f"not a well-formed feed: {parsed.bozo_exception}"
    return "" if parsed.version else "not a feed"


def has_entities(content: bytes) -> bool:
    """Whether a document declares entities, in any encoding that writes them with these letters."""
    return b"<!ENTITY" in content.replace(b"\0", b"").upper()


def _parse(content: bytes) -> Any:
    """feedparser's reading. Raises Malformed where it fails: it promises never to, and does on strange encodings."""
    import feedparser

    # resolve_relative_uris and the sanitiser would rewrite text that we read as text ourselves
    try:
        return feedparser.parse(content, sanitize_html=False, resolve_relative_uris=False)
    except Exception as error:
        raise Malformed(
            f"not a feed that can be read: {type(error).__name__}: {clean.line(str(error))[:200]}"
        ) from error


def read(content: bytes, where: str) -> Page:
    """A feed's entries as a page. A feed that breaks off gives the entries before the break, and a rejected one."""
    page = Page(resume={"done": True})
    if has_entities(content):
        page.rejected.append(
            Rejected("XML that declares entities is not read", where, content[:300].decode("utf-8", "replace"))
        )
        return page
    try:
        parsed = _parse(content)
    except Malformed as error:
        page.rejected.append(Rejected(str(error), where, content[:300].decode("utf-8", "replace")))
        return page
    closed = sum(map(content.lower().count, (b"</item>", b"</entry>")))
    for number, entry in enumerate(parsed.entries, 1):
        place, what = f"{where}:{number}", f"{entry.get('link', '')} {entry.get('title', '')}"
        if parsed.bozo and number > closed:  # feedparser gives what it has of the last one
            page.rejected.append(Rejected("the feed breaks off within this entry", place, what))
        else:
            page.add(_entry(entry, place), what)
    if parsed.bozo and _breaks(parsed.get("bozo_exception")):
        reason = f"the feed is malformed: {parsed.bozo_exception}"
        page.rejected.append(Rejected(reason, where, content[-300:].decode("utf-8", "replace")))
    page.total = len(parsed.entries)
    return page


def _breaks(error: object) -> bool:
    """Whether feedparser's complaint means that something may be missing; a wrong declared encoding does not."""
    return type(error).__name__ not in ("CharacterEncodingOverride", "NonXMLContentType", "NoneType")


# "A Title. (arXiv:2101.00001v2 [cs.CL] UPDATED)", as arXiv's RSS had it until 2024.
_END = re.compile(r"\.?\s*\((arXiv:[^\s()]{1,40})(?: \[([\w.-]{1,30})\])?(?: (?:UPDATED|CROSS LISTED))*\)\s*$")


def _entry(entry: Any, where: str) -> Item:
    links = [str(link.get("href", "")) for link in entry.get("links", [])]
    title = _plain(str(entry.get("title", "")))
    end = _END.search(title[-200:])
    title = title[: len(title) - len(end[0])] if end else title
    named = [*([end[1]] if end else []), entry.get("id", ""), entry.get("link", ""), *links]
    known = next((pair for name in named if (pair := clean.arxiv_id(str(name)))), None)
    bodies = [entry.get("summary", ""), *(part.get("value", "") for part in entry.get("content", []))]
    body = _plain(max((str(text) for text in bodies), key=len))
    fields, body = _labelled(body)
    authors = [author.get("name", "") for author in entry.get("authors", [])]
    if len(authors) <= 1:  # RSS has one field: "A, B and C", and some feeds only a line in the text
        authors = clean.names(fields.get("author") or (authors[0] if authors else ""))
    published = clean.moment(entry.get("published")) or clean.moment(entry.get("updated"))
    page = next((url for link in [entry.get("link", ""), *links] if (url := clean.address(str(link)))), "")
    return Item(
        title=title,
        arxiv=known[0] if known else None,
        abstract=fields.get("abstract") or body,
        authors=clean.names(authors),
        categories=_terms(entry, bool(known)) or ([end[2]] if end and end[2] else []),
        published=published,
        version=known[1] if known else None,
        code=clean.address(fields.get("code", "")),
        links=[{"kind": "page", "url": page}] if page and not clean.arxiv_id(page) else [],
        upvotes=clean.count(fields.get("votes", "")),
        comments=clean.count(fields.get("comments", "")),
        where=where,
    )


def _terms(entry: Any, is_paper: bool) -> list[str]:
    terms = [clean.line(str(tag.get("term") or "")) for tag in entry.get("tags", [])]
    return list(dict.fromkeys(term[:100] for term in terms if term))[:100] if is_paper else []


def _labelled(body: str) -> tuple[dict[str, str], str]:
    """The parts of a text of the kind "Authors: … Upvotes: 5 … Summary: …", and the text if it has none."""
    body = _ANNOUNCED.sub("", body)
    marks = list(_LABEL.finditer(body))
    fields: dict[str, str] = {}
    names = {"author": "author", "upvote": "votes", "up-vote": "votes", "vote": "votes", "comment": "comments"}
    names |= {"abstract": "abstract", "summary": "abstract", "github": "code", "code": "code"}
    for mark, after in zip(marks, [*marks, None][1:], strict=True):
        name = names.get(mark[1].lower().rstrip("s"), "")
        if name == "abstract":  # the last part: a line in it that begins "Code:" belongs to it
            fields[name] = body[mark.end() :].strip()
            break
        if name:
            fields[name] = body[mark.end() : after.start() if after else len(body)].strip()
    return fields, body


_ELEMENTS = re.compile(  # those of HTML that occur in text or must not
    "a|abbr|acronym|b|big|blockquote|body|br|button|caption|center|cite|code|d[dltv]|del|details|div|em|figcaption|figure"
    "|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|kbd|label|li|link|main|mark|math|meta|object|ol"
    "|p|picture|pre|q|s|samp|script|section|small|source|span|strike|strong|style|su[bp]|summary|svg|table|tbody|td"
    "|template|textarea|tfoot|th|thead|time|title|tr|tt|u|ul|var|video"
)


_BLOCKS = frozenset(("p", "div", "br", "li", "ul", "ol", "h1", "h2", "h3", "h4", "tr", "table", "blockquote"))
_SILENT = frozenset(("script", "style", "template"))  # what is in these is no text
# A tag ends before the next "<" whatever stands in it, so every "<" is looked at once. Python's HTMLParser takes time
# with the square of its input on "<a<a<a", and html5ever (nh3) on elements that are nested ten thousand deep.
_TAG = re.compile(r"""<(?:(/?)([a-zA-Z][a-zA-Z0-9]*)(?:[\s/](?:[^<>"']|"[^"<]*"|'[^'<]*')*+)?|[!?][^<>]*+)>""")


def _plain(value: str) -> str:
    """HTML as text: a block begins a paragraph; what only looks like HTML ("a < b", "<matter>") stays."""
    parts: list[str] = []
    at = silent = 0
    comment = value.find("<!--")
    while comment >= 0 and (end := value.find("-->", comment + 4)) >= 0:
        parts.append(value[at:comment])
        at, comment = end + 3, value.find("<!--", end + 3)
    value, at = "".join(parts) + value[at:], 0
    parts = []
    for tag in _TAG.finditer(value):
        name = (tag[2] or "").lower()
        if name and not _ELEMENTS.fullmatch(name):
            continue
        if not silent:
            parts.append(_unescaped(value[at : tag.start()]))
        at = tag.end()
        if name in _SILENT:
            silent = max(silent + (-1 if tag[1] else 1), 0)
        if name in _BLOCKS:
            parts.append("\n\n")
    if not silent:
        parts.append(_unescaped(value[at:]))
    return "".join(parts).strip() if len(parts) > 1 or (parts and parts[0] != value) else value


def _unescaped(value: str) -> str:
    try:
        return unescape(value)
    except ValueError:  # a character's number of more than 4,300 digits
        return value
