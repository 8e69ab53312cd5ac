"""Asking other people's servers, politely: one connection, a pause between requests that all processes here share,
back-off with jitter, an honest name, and limits on what comes back."""

import contextlib
import json
import os
import random
import re
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from paperlab.core.home import home
from paperlab.core.install import version
from paperlab.site.store.item import SourceError

SIZE_LIMIT = 16 * 2**20  # bytes after decompression; a page of arXiv's OAI-PMH has about 2 MB
PATIENCE = 600.0  # seconds; a longer wait is left to the user
DEADLINE = 300.0  # seconds for one answer; a server that drips is as good as silent
RETRIED = (408, 429, 500, 502, 503, 504)
REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class Answer:
    """A server's answer."""

    url: str
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_html(self) -> bool:
        """Whether it is a web page, which no source's answer is: an error page, a login, a captcha."""
        head = self.content[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        return head.startswith((b"<!doctype html", b"<html")) or (
            "text/html" in self.headers.get("content-type", "").lower() and not head.startswith((b"<?xml", b"{", b"["))
        )

    def excerpt(self) -> str:
        """The title or the beginning of a web page, for messages."""
        text = self.content[:20_000].decode("utf-8", "replace")
        match = re.search(r"<title[^<>]*>([^<]{1,200})", text, re.IGNORECASE)
        return " ".join((match[1] if match else re.sub(r"<[^<>]*>", " ", text)).split())[:120]


def agent() -> str:
    """The name that we give; PAPERLAB_CONTACT adds an address to write to."""
    contact = " ".join(os.environ.get("PAPERLAB_CONTACT", "").split())
    return f"paperlab/{version()} (reads papers' metadata{f'; {contact}' if contact else ''})"


@dataclass
class Polite:
    """A client for one group of hosts.

    group: who shares the pause, e.g. "arxiv"; gap: seconds from one answer to the next request. The time before which
    nobody may ask is kept in a file under PAPERLAB_HOME, which is locked while asking.
    inside: hosts that may stand in one's own net; others are asked only at addresses that everybody reaches, through
    redirects too. None: no address is looked at.
    clock, sleep, chance: time, waiting and the jitter's random numbers in [0, 1), to be replaced in tests.
    """

    group: str
    gap: float = 3.0
    tries: int = 6
    timeout: float = 60.0
    folder: Path | None = None
    inside: tuple[str, ...] | None = None
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random
    deadline: float = DEADLINE
    size_limit: int = SIZE_LIMIT
    _name: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self._name = re.sub(r"[^a-z0-9.-]+", "-", self.group.lower())[:80]

    def get(
        self, url: str, params: Mapping[str, str] | None = None, wrong: Callable[[Answer], str] | None = None
    ) -> Answer:
        """Ask, and ask again while the server is busy or the answer damaged. wrong(answer): why an answer with status
        200 cannot be used, or "". Raises SourceError when the patience is over."""
        import httpx2

        reason = ""
        for attempt in range(self.tries):
            try:
                answer = self._ask(url, params)
            except httpx2.HTTPError as error:
                reason, wait = f"{type(error).__name__}: {error}", None
            except httpx2.InvalidURL as error:
                raise SourceError(f"{url}: not an address: {error}") from error
            else:
                if answer.status == 200:
                    reason = f"a web page instead: {answer.excerpt()!r}" if answer.is_html else ""
                    reason = reason or (wrong(answer) if wrong else "")
                    if not reason:
                        return answer
                elif answer.status not in RETRIED:
                    return answer
                else:
                    reason = f"status {answer.status}"
                wait = self._asked_to_wait(answer) if answer.status in RETRIED else None
            if wait is not None and wait > PATIENCE:
                self._later(wait)
                raise SourceError(f"{_host(url)}: busy, asks to come back in {wait:.0f} s; run the same command then")
            backoff = min(self.gap * 2**attempt, PATIENCE)
            self._later(max(wait or 0.0, self.gap) + backoff * self.chance())
        raise SourceError(f"{_host(url)}: {reason}, {self.tries} times; try later, reading goes on where it stopped")

    def _ask(self, url: str, params: Mapping[str, str] | None) -> Answer:
        import filelock

        folder = self.folder or home() / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(folder / f"ask-{self._name}.lock", timeout=2 * PATIENCE):
                for _ in range(5):
                    self._look(url)
                    self._wait()
                    self._later(self.gap)  # also for whoever comes if this process is killed while it waits
                    try:
                        with self._client(url) as client:
                            answer = self._read(client, url, params)
                    finally:
                        self._later(self.gap)
                    if answer.status not in REDIRECTS:
                        return answer
                    url, params = _follow(url, answer), None
        except filelock.Timeout as error:
            raise SourceError(f"{error.lock_file}: another paperlab has held it for 20 minutes; stop it") from error
        raise SourceError(f"{_host(url)}: redirects in a circle")

    def _client(self, url: str) -> Any:
        import httpx2

        headers = {"User-Agent": agent(), "Accept-Encoding": "gzip"}
        if self.inside is None:
            return httpx2.Client(timeout=self.timeout, headers=headers)
        if proxy := _proxy(url):
            return httpx2.Client(timeout=self.timeout, headers=headers, proxy=proxy)
        from paperlab.site.store.sources.outside import Outside

        transport = httpx2.HTTPTransport()
        # The one place where a name becomes an address.
        transport._pool._network_backend = Outside(self.inside, self.deadline + self.timeout)
        return httpx2.Client(timeout=self.timeout, headers=headers, transport=transport)

    def _look(self, url: str) -> None:
        """Where a proxy of the environment connects for us, refuse what is inside as far as this machine knows."""
        from paperlab.site.store.sources import outside

        parts = urlsplit(url)
        if self.inside is not None and _proxy(url) and parts.hostname not in self.inside:
            with contextlib.suppress(outside.ConnectError):  # only the proxy knows the name
                outside.look_up(parts.hostname or "", parts.port or 443)

    def _read(self, client: Any, url: str, params: Mapping[str, str] | None) -> Answer:
        begun, parts, size, came = self.clock(), list[bytes](), 0, 0
        with client.stream("GET", url, params=params) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            packed = headers.get("content-encoding", "").lower().strip()
            if packed not in ("", "identity", "gzip"):
                raise SourceError(f"{_host(url)}: answers in {packed[:40]!r}, which it was not asked for; not read")
            # Not the client's own decoder: it unfolds a piece whole, however large that becomes.
            unpack = zlib.decompressobj(31) if packed == "gzip" else None
            for part in response.iter_raw():
                came += len(part)  # what comes behind a compressed answer's end unfolds to nothing, and is kept
                if unpack is not None:
                    part = self._unpacked(unpack, part, self.size_limit - size + 1, url)
                size += len(part)
                parts.append(part)
                if max(size, came) > self.size_limit:
                    raise SourceError(f"{_host(url)}: an answer of more than {self.size_limit >> 20} MB; not read")
                if self.clock() - begun > self.deadline:
                    raise SourceError(f"{_host(url)}: no whole answer in {self.deadline:.0f} s; try later")
            if unpack is not None and size and not unpack.eof:
                import httpx2

                raise httpx2.DecodingError("the compressed answer breaks off")
            return Answer(str(response.url), response.status_code, headers, b"".join(parts))

    @staticmethod
    def _unpacked(unpack: Any, part: bytes, most: int, url: str) -> bytes:
        import httpx2

        try:
            return bytes(unpack.decompress(part, most))
        except zlib.error as error:
            raise httpx2.DecodingError(f"{_host(url)}: {error}") from error

    def _asked_to_wait(self, answer: Answer) -> float | None:
        """Seconds in Retry-After, which may be a number or a date; None without one."""
        header = answer.headers.get("retry-after", "").strip()
        if header.isdecimal():
            return float(header[:9])
        try:
            at = parsedate_to_datetime(header)
        except (ValueError, TypeError, IndexError):
            return None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return max((at - datetime.fromtimestamp(self.clock(), UTC)).total_seconds(), 0.0)

    @property
    def _file(self) -> Path:
        return (self.folder or home() / "locks") / f"ask-{self._name}.json"

    def _not_before(self) -> float:
        try:
            stored_time = json.loads(self._file.read_text())["not_before"]
            return float(stored_time)
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0

    def _wait(self) -> None:
        """Sleep until asking is allowed. A time beyond all patience comes from a clock that was put back."""
        while (seconds := self._not_before() - self.clock()) > 0:
            if seconds > 25 * 3600:
                break
            if seconds > 2 * PATIENCE:
                raise SourceError(f"{self.group}: asked to come back in {seconds:.0f} s; run the same command then")
            self.sleep(seconds)

    def _later(self, seconds: float) -> None:
        """Nobody here asks this group in the next seconds; never earlier than was already promised."""
        until = self.clock() + seconds
        known = self._not_before()
        if until < known <= self.clock() + 25 * 3600:
            until = known
        self._file.parent.mkdir(parents=True, exist_ok=True)
        part = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        part.write_text(json.dumps({"not_before": until}))
        os.replace(part, self._file)


def _proxy(url: str) -> str:
    """The proxy of the environment that an address is asked through, "" for none: NO_PROXY alone names none."""
    parts, known = urlsplit(url), getproxies()
    named = known.get(parts.scheme) or known.get("all") or ""
    if not named or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return ""
    return named if "://" in named else f"http://{named}"


def _host(url: str) -> str:
    return urlsplit(url).hostname or url


def _follow(url: str, answer: Answer) -> str:
    """Where a redirect leads, if it stays with the same people. Raises SourceError otherwise: only what is configured
    is asked."""
    to = urljoin(url, answer.headers.get("location", ""))
    old, new = urlsplit(url), urlsplit(to)
    family = [(part.hostname or "").lower().split(".")[-2:] for part in (old, new)]
    numeric = re.fullmatch(r"[\d.:]+|localhost", old.hostname or "") or re.fullmatch(r"[\d.:]+", new.hostname or "")
    same = old.hostname == new.hostname if numeric else family[0] == family[1]
    if new.scheme not in ("http", "https") or not same or (old.scheme == "https" and new.scheme == "http"):
        raise SourceError(f"{_host(url)}: redirects to {to[:200]!r}; if that is right, name that address instead")
    return to
