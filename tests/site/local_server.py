"""A local server that speaks like arXiv's API, arXiv's OAI-PMH, a Daily Papers API and a feed, and misbehaves on
request. The papers are made up; the shapes are those of recorded answers."""

import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape


def free_port() -> int:
    """A port to be listened on soon. Below those that the system gives to outgoing connections, so that no request of
    another process takes it in between, and at random, so that two processes hardly ask for the same."""
    while True:
        with socket.socket() as probe:
            port = random.SystemRandom().randrange(12_000, 32_000)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@dataclass
class Told:
    """A made-up paper as the server knows it."""

    number: int
    deleted: bool = False

    @property
    def arxiv(self) -> str:
        return f"2401.{self.number:05d}"

    @property
    def stamp(self) -> str:
        return f"2024-02-{1 + self.number % 28:02d}"

    @property
    def title(self) -> str:
        return f"On the {self.number}th <matter> & its $\\alpha$-cut"

    @property
    def abstract(self) -> str:
        return f"We study matter {self.number}.\nIt is wrapped.\n  A second paragraph: x < y."


class Clock:
    """Time that passes only by sleeping, so that nobody waits."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self.slept: list[float] = []

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@dataclass
class Server:
    """papers: what is served; page: how many at once; wrong: misbehaviours, one for each coming request."""

    papers: list[Told]
    page: int = 3
    wrong: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    clock: Callable[[], float] = time.time
    expired: set[str] = field(default_factory=set)
    busy: int = 0
    most: int = 0
    url: str = ""
    packed: bytes = b""  # what the feed answers instead, as gzip

    # -- what is said ------------------------------------------------------------------------------------------------
    def answer(self, path: str, query: dict[str, str]) -> tuple[int, str, bytes]:
        if path == "/api/query":
            return self.atom(query)
        if path == "/oai":
            return 200, "text/xml", self.oai(query).encode()
        if path == "/api/daily_papers":
            day = [row for row in self.papers if row.stamp == query.get("date")]
            return 200, "application/json", json.dumps([self.daily(row) for row in day]).encode()
        if path == "/feed":
            return 200, "application/rss+xml", self.rss().encode()
        return 404, "text/html", b"<html><title>404</title></html>"

    def daily(self, row: Told) -> dict[str, Any]:
        authors = [{"_id": "0", "name": "Ada Author", "hidden": False}, {"_id": "1", "name": "Bo Writer"}]
        paper = {"id": row.arxiv, "authors": authors, "publishedAt": "2024-01-05T10:20:30.000Z", "title": row.title}
        paper |= {"summary": row.abstract, "upvotes": row.number, "githubRepo": "https://example.org/code"}
        return {"paper": paper, "title": row.title, "numComments": 0, "submittedBy": {"fullname": "Cy Sender"}}

    def atom(self, query: dict[str, str]) -> tuple[int, str, bytes]:
        rows = [row for row in self.papers if not row.deleted]
        if query.get("id_list"):
            wanted = [name.partition("v")[0] for name in query["id_list"].split(",")]
            if "abc" in wanted:
                return 400, "application/atom+xml", self.feed(self.error("incorrect id format for abc"), 1).encode()
            rows = [row for row in rows if row.arxiv in wanted]
        start, most = int(query.get("start", 0)), min(int(query.get("max_results", 10)), self.page)
        return (
            200,
            "application/atom+xml",
            self.feed("".join(map(self.entry, rows[start : start + most])), len(rows)).encode(),
        )

    def feed(self, entries: str, total: int) -> str:
        return (
            '<?xml version="1.0" encoding="UTF-8"?><feed xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/" '
            'xmlns:arxiv="http://arxiv.org/schemas/atom" xmlns="http://www.w3.org/2005/Atom"><id>x</id><title>q</title>'
            f"<updated>2024-03-01T00:00:00Z</updated><opensearch:totalResults>{total}</opensearch:totalResults>"
            f"<opensearch:startIndex>0</opensearch:startIndex>{entries}</feed>"
        )

    def error(self, said: str) -> str:
        return f"<entry><id>https://arxiv.org/api/errors#x</id><title>Error</title><summary>{said}</summary></entry>"

    def entry(self, row: Told) -> str:
        return (
            f"<entry><id>http://arxiv.org/abs/{row.arxiv}v2</id><title>{escape(row.title)}</title>"
            f"<updated>2024-01-06T00:00:00Z</updated><published>2024-01-05T10:20:30Z</published>"
            f"<summary>{escape(row.abstract)}</summary><author><name>Ada Author</name></author>"
            "<author><name>Bo Writer</name><arxiv:affiliation>Here</arxiv:affiliation></author>"
            '<category term="cs.LG" scheme="http://arxiv.org/schemas/atom"/>'
            '<category term="cs.CL" scheme="http://arxiv.org/schemas/atom"/><arxiv:primary_category term="cs.CL"/>'
            f'<link href="https://arxiv.org/pdf/{row.arxiv}v2" rel="related" type="application/pdf"/></entry>'
        )

    def oai(self, query: dict[str, str]) -> str:
        token = query.get("resumptionToken", "")
        if token in self.expired:
            return self.envelope('<error code="badResumptionToken">expired</error>')
        begun, start = token.split("|") if token else (query.get("from", ""), "0")
        rows = sorted((r for r in self.papers if r.stamp >= begun), key=lambda r: (r.stamp, r.number))
        if not rows:
            return self.envelope('<error code="noRecordsMatch"/>')
        at = int(start)
        end = at + self.page
        said = "".join(map(self.record, rows[at:end]))
        token = f"{begun}|{end}" if end < len(rows) else ""
        more = f'<resumptionToken cursor="{at}" completeListSize="{len(rows)}">{token}</resumptionToken>'
        return self.envelope(f"<ListRecords>{said}{more}</ListRecords>")

    def envelope(self, inner: str) -> str:
        return (
            '<?xml version="1.0" encoding="UTF-8"?><OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/">'
            f'<responseDate>2024-03-01T00:00:00Z</responseDate><request verb="ListRecords">x</request>{inner}</OAI-PMH>'
        )

    def record(self, row: Told) -> str:
        status = ' status="deleted"' if row.deleted else ""
        head = f"<identifier>oai:arXiv.org:{row.arxiv}</identifier><datestamp>{row.stamp}</datestamp>"
        about = (
            f'<metadata><arXiv xmlns="http://arxiv.org/OAI/arXiv/"><id>{row.arxiv}</id><created>2024-01-05</created>'
            "<authors><author><keyname>Author</keyname><forenames>Ada</forenames></author>"
            "<author><keyname>Writer</keyname><forenames>Bo</forenames></author></authors>"
            f"<title>{escape(row.title)}</title><categories>cs.CL cs.LG</categories><doi>10.1/x</doi>"
            f"<abstract>  {escape(row.abstract)}</abstract></arXiv></metadata>"
        )
        return f"<record><header{status}>{head}</header>{'' if row.deleted else about}</record>"

    def rss(self) -> str:
        items = "".join(
            f"<item><title>{escape(row.title)}</title><link>https://arxiv.org/abs/{row.arxiv}</link>"
            f"<description>{escape(self.described(row))}</description>"
            "<pubDate>Fri, 05 Jan 2024 10:20:30 +0000</pubDate></item>"
            for row in self.papers
        )
        return f'<?xml version="1.0"?><rss version="2.0"><channel><title>t</title><link>x</link>{items}</channel></rss>'

    def described(self, row: Told) -> str:
        return (
            '<p><img src="https://example.org/x.png"/></p><script>alert(1)</script>'
            f"<p><b>Authors:</b> Ada Author, Bo Writer</p><p><b>Upvotes:</b> {row.number}</p>"
            f"<p><b>Summary:</b> {escape(row.abstract)}</p>"
        )


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.busy += 1
            server.most = max(server.most, server.busy)
            try:
                self.reply()
            finally:
                server.busy -= 1

        def reply(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
            at, agent = server.clock(), self.headers.get("User-Agent", "")
            server.asked.append({"path": parts.path, "query": query, "at": at, "agent": agent})
            how = server.wrong.pop(0) if server.wrong else ""
            status, kind, body = server.answer(parts.path, query)
            headers: dict[str, str] = {}
            if server.packed and parts.path == "/feed":
                body, headers["Content-Encoding"] = server.packed, "gzip"
            if how in ("503", "429"):
                status, body = int(how), b"busy"
                headers["Retry-After"] = "7" if how == "503" else "Tue, 14 Nov 2023 22:20:00 GMT"
            if how == "html":
                kind, body = "text/html", b"<!DOCTYPE html><html><title>Verify you are human</title></html>"
            if how == "malformed":
                body = body[:-20]
            if how == "empty":
                body = server.feed("", len(server.papers)).encode()
            if how == "slow":
                time.sleep(0.6)
            if how.startswith("to:"):
                status, headers["Location"], body = 302, how[3:], b""
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body) + (50 if how == "truncated" else 0)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            if how == "truncated":
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Serve on a free port until the block ends."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler(server))
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
