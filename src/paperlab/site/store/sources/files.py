"""Files as sources: which format one is, and reading it: compressed or not, whole or broken off."""

import bz2
import gzip
import hashlib
import io
import lzma
import re
import tempfile
import zlib
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import IO, Any

from paperlab.site.store import clean
from paperlab.site.store.item import Malformed, Page, Rejected, Source, SourceError
from paperlab.site.store.sources import arxiv_api, arxiv_oai, feeds, listing, rows

FORMATS = ("listing", "jsonl", "json", "arxiv-api", "arxiv-oai", "feed")
WHOLE_LIMIT = 512 * 2**20  # bytes of a file that must be in memory at once
LINE_LIMIT = 4 * 2**20  # bytes of one JSON line; the longest of a paper have some 300 kB, signed by five thousand
UNFOLDS = 100  # times its own size: JSON of papers unfolds to ten, a file made to fill a disk to a thousand
FREE = 16 * 2**20  # bytes that any file may unfold to
ROWS = 1000  # JSON lines in one transaction


class Unfolds(EOFError):
    """A compressed file that unfolds to far more than papers do; what was read until then stands."""


_BROKEN = (EOFError, OSError, zlib.error, lzma.LZMAError)


class NotAFile(ValueError):
    """A file that cannot be imported; the message says why and what can be."""


def spool(stream: IO[bytes]) -> IO[bytes]:
    """Standard input as a file that can be read twice."""
    kept = tempfile.TemporaryFile()  # noqa: SIM115  the caller's to close
    while part := stream.read(1 << 20):
        kept.write(part)
    kept.seek(0)
    return kept


def source(stream: IO[bytes], *, name: str = "", form: str | None = None, day: date | None = None) -> Source:
    """The source that a file is. stream: seekable bytes, maybe compressed (gzip, xz, bzip2); name: for messages and,
    where it holds a day (2026-08-17.json), for that; day: when a page was saved, or the day of a list.

    Raises NotAFile when the format is none of FORMATS.
    """
    digest = hashlib.sha256()
    while part := stream.read(1 << 20):
        digest.update(part)
    stream.seek(0)
    plain = _opened(stream)
    head = _some(plain, 256 * 1024)
    if not head.strip(b"\xef\xbb\xbf \t\r\n\0"):
        raise NotAFile(f"{name or 'input'}: empty")
    form = form or sniff(head, name)
    plain = _opened(stream)
    named = re.search(r"(?<!\d)(20\d\d-\d\d-\d\d)(?!\d)", Path(name).name)
    named_day = clean.moment(named[1]) if named else None
    day = day or (named_day.date() if named_day and form == "json" else None)
    key = f"import:{form}:{digest.hexdigest()[:32]}{f':{day}' if day else ''}"
    if form == "jsonl":
        return Lines(plain, key, name)
    content, broken = _all(plain, name)
    if form == "listing":
        return listing.ListingPages(_decoded(content), key, file=Path(name).name, day=day)
    return Document(form, content, key, name, day, broken)


def sniff(head: bytes, name: str = "") -> str:
    """The format of a file from its beginning. Raises NotAFile."""
    text = head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    start = text[:4000].lower()
    if start.startswith(b"<"):
        if b"<oai-pmh" in start:
            return "arxiv-oai"
        if start.startswith((b"<!doctype html", b"<html")):
            raise NotAFile(f"{name or 'input'}: a web page as HTML; copy or save its text (browser: select all, copy)")
        if b"arxiv.org/schemas/atom" in start or b"arxiv.org/api/" in start:
            return "arxiv-api"
        if re.search(rb"<(?:rss|feed|rdf:rdf|channel)[\s>]", start):
            return "feed"
        raise NotAFile(f"{name or 'input'}: XML, but neither OAI-PMH nor a feed")
    if start.startswith(b"["):
        return "json"
    if start.startswith(b"{"):
        first = text.split(b"\n", 1)[0]
        try:
            row = rows.loads(first)
        except Malformed:
            if any(map(_is_object, text.split(b"\n", 20)[1:20])):  # a first line that is broken
                return "jsonl"
            recorded = re.match(rb'\{\s*"(?:url|status_code|body|paper|papers|data)"', text)
            return "json" if recorded or not first.rstrip().endswith(b"}") else "jsonl"
        return "json" if isinstance(row, dict) and {"body", "status_code"} <= row.keys() else "jsonl"
    if listing.looks_like(_decoded(head)):
        return "listing"
    raise NotAFile(f"{name or 'input'}: no format that is known; name one with --format: {', '.join(FORMATS)}")


def _is_object(line: bytes) -> bool:
    try:
        return line.startswith(b"{") and bool(rows.loads(line))
    except Malformed:
        return False


def _opened(stream: IO[bytes]) -> IO[bytes]:
    """The stream from its start, decompressed by what its first bytes say."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    magic = stream.read(6)
    stream.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        return _bounded(gzip.GzipFile(fileobj=stream), size)
    if magic.startswith(b"\xfd7zXZ\0"):
        return _bounded(lzma.LZMAFile(stream), size)
    if magic.startswith(b"BZh"):
        return _bounded(bz2.BZ2File(stream), size)
    return stream


class _Bounded(io.RawIOBase):
    """A decompressed stream that ends with Unfolds where it grows beyond `most` bytes."""

    def __init__(self, inner: Any, most: int) -> None:
        self.inner, self.left = inner, most

    def readable(self) -> bool:
        """As a buffered reader asks."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes."""
        part = self.inner.read(len(buffer))
        self.left -= len(part)
        if self.left < 0:
            raise Unfolds(f"it unfolds to more than {UNFOLDS} times its size")
        buffer[: len(part)] = part
        return len(part)


def _bounded(inner: Any, size: int) -> IO[bytes]:
    return io.BufferedReader(_Bounded(inner, max(FREE, UNFOLDS * size)), 1 << 16)


def _some(stream: IO[bytes], size: int) -> bytes:
    """Up to `size` bytes, fewer where the compressed file breaks off."""
    parts = b""
    try:
        while len(parts) < size and (part := stream.read(min(65536, size - len(parts)))):
            parts += part
    except _BROKEN:
        pass
    return parts


def _all(stream: IO[bytes], name: str) -> tuple[bytes, str]:
    """The whole content, and why it broke off, if it did."""
    parts, size = [], 0
    try:
        while part := stream.read(1 << 20):
            parts.append(part)
            size += len(part)
            if size > WHOLE_LIMIT:
                raise NotAFile(f"{name or 'input'}: more than {WHOLE_LIMIT >> 20} MB in one document; split it")
    except _BROKEN as error:
        return b"".join(parts), f"the compressed file is damaged or ends early: {error}"
    return b"".join(parts), ""


def _decoded(content: bytes) -> str:
    """Text decoded by its byte order mark, else as UTF-8, else as Windows-1252."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start > len(content) - 4:  # cut within a character
            return content[: error.start].decode("utf-8-sig")
        return content.decode("cp1252", "replace")


def _as_sent(body: str) -> bytes:
    """A recorded answer's bytes. UTF-8 that was taken for Latin-1 when it was recorded becomes UTF-8 again."""
    try:
        content = body.encode("latin-1")
        content.decode("utf-8")
        return content
    except UnicodeError:
        return body.encode("utf-8", "replace")


class Lines:
    """JSON lines: one paper each. resume: how many lines are stored; they are read again, but not stored."""

    name = "jsonl"

    def __init__(self, stream: IO[bytes], key: str, file: str) -> None:
        self.stream, self.key, self.file = stream, key, Path(file).name or "input"
        self.reached: dict[str, Any] = {}

    def pages(self, resume: dict[str, Any], reached: dict[str, Any]) -> Iterator[Page]:
        """A thousand papers a page."""
        number, done = 0, int(resume.get("line", 0))
        page = Page()
        lines: Any = self.stream
        while True:
            try:
                line = lines.readline(LINE_LIMIT)
                long = len(line) == LINE_LIMIT and not line.endswith(b"\n")
                while long and (rest := lines.readline(LINE_LIMIT)) and not rest.endswith(b"\n"):
                    pass
            except _BROKEN as error:
                reason = f"the compressed file is damaged or ends early: {error}"
                page.rejected.append(Rejected(reason, f"{self.file}:{number + 1}"))
                line, long = b"", False
            if not line:
                break
            number += 1
            if not line.strip(b"\xef\xbb\xbf \t\r\n"):
                continue
            self._line(line, long, number, page)
            if len(page.items) + len(page.rejected) >= ROWS:
                page.resume, page.stored = {"line": number}, number <= done
                yield page
                page = Page()
        page.resume = {"line": number}
        yield page

    def _line(self, line: bytes, long: bool, number: int, page: Page) -> None:
        where = f"{self.file}:{number}"
        if long:
            page.rejected.append(Rejected(f"a line of more than {LINE_LIMIT >> 20} MB", where, repr(line[:200])))
            return
        try:
            row = rows.loads(line.lstrip(b"\xef\xbb\xbf"))
        except Malformed as reason:
            page.rejected.append(Rejected(str(reason), where, line[:1000].decode("utf-8", "replace")))
            return
        rows.add(page, row, where)


class Document:
    """A document that is one page: a day of Daily Papers, an array of papers, an API's recorded answer, a feed."""

    def __init__(self, form: str, content: bytes, key: str, file: str, day: date | None, broken: str) -> None:
        self.content, self.key, self.file, self.day, self.broken = content, key, Path(file).name or "input", day, broken
        self.reached: dict[str, Any] = {}
        self.form, self.value = form, None
        if form == "json":
            self._json()
        self.name = {"json": rows.DAILY if rows.is_daily(self.value) else "jsonl"}.get(self.form, self.form)

    def _json(self) -> None:
        """Parse JSON; an HTTP answer recorded as {"url", "status_code", "body"} is replaced by its body."""
        try:
            self.value = rows.loads(_decoded(self.content))
        except Malformed as error:
            raise NotAFile(f"{self.file}: {error}") from error
        if isinstance(self.value, dict) and isinstance(self.value.get("body"), str):
            self.content = _as_sent(self.value["body"])
            self.form, self.value = sniff(self.content[:262144], self.file).replace("jsonl", "json"), None
            if self.form == "listing":
                raise NotAFile(f"{self.file}: a recorded answer with a listing page in it; import that page itself")
            if self.form == "json":
                self._json()
        if isinstance(self.value, dict):
            inner = next((self.value[name] for name in ("papers", "data", "items") if name in self.value), None)
            self.value = inner if isinstance(inner, list) else [self.value]

    def pages(self, resume: dict[str, Any], reached: dict[str, Any]) -> Iterator[Page]:
        """One page."""
        page = self._page()
        if self.broken:
            page.rejected.append(Rejected(self.broken, self.file))
        page.resume = {"done": True}
        yield page

    def _page(self) -> Page:
        if self.form == "json" and rows.is_daily(self.value):
            return rows.daily_page(self.value, self.day, self.file)
        if self.form == "json":
            return rows.page(self.value, self.file)
        if self.form == "arxiv-api":
            try:
                return arxiv_api.read(self.content, self.file)[0]
            except SourceError as error:
                return Page(rejected=[Rejected(str(error), self.file, self.content[:300].decode("utf-8", "replace"))])
        if self.form == "arxiv-oai":
            records = arxiv_oai.read(self.content, self.file)
            if records.error:
                records.page.rejected.append(Rejected(f"{records.error}: {records.message}", self.file))
            return records.page
        return feeds.read(self.content, self.file)
