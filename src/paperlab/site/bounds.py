"""Bounds on what one request may take: bytes and seconds of its own, and seconds of ours.

Around Django rather than in it: Django has a request's whole body, on the disk if it is long, before any middleware
can refuse it, and waits for a view however long that takes.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import h11
from django.template.loader import render_to_string
from uvicorn.protocols.http.h11_impl import H11Protocol

from paperlab.site.api import problems
from paperlab.site.pages.security import HEADERS

logger = logging.getLogger(__name__)

BODY = 1_000_000  # bytes; the longest form has some 100,000
HEAD_SECONDS = 10.0  # for the lines before the body, from the first byte or the connection's beginning
BODY_SECONDS = 20.0
PAGE_SECONDS = 30.0  # until an answer begins; what then is sent may take as long as it takes
STUCK = 30.0  # seconds beyond that after which the process counts as stuck: a thread cannot be ended

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]
_overdue: dict[object, float] = {}  # requests that were answered for, and since when they are still worked on


def is_stuck() -> bool:
    """Whether a page has been worked on for so long that this process is better replaced."""
    return any(time.monotonic() - since > STUCK for since in _overdue.values())


class _TooLong(Exception):
    """A body of more than BODY bytes."""


class Timely(H11Protocol):
    """uvicorn's HTTP/1.1, which closes a connection whose request has not come whole in time. Uvicorn itself waits for
    ever, so a few thousand half-sent requests would take every file descriptor."""

    late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Go on reading; the time runs from a request's first byte to the end of its head."""
        self._expect()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._forget()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._forget()
        super().connection_lost(exc)

    def _expect(self) -> None:
        if self.late is None:
            self.late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _forget(self) -> None:
        if self.late is not None:
            self.late.cancel()
            self.late = None


class Bounds:
    """The ASGI application with bounds around it."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        try:
            body = await asyncio.wait_for(_body(scope, receive), BODY_SECONDS)
        except _TooLong:
            return await _refuse(scope, send, 413, "Too long", f"At most {BODY:,} bytes are taken at once.")
        except TimeoutError:
            return await _refuse(scope, send, 408, "Too slow", f"It has to come within {BODY_SECONDS:.0f} seconds.")
        if body is not None:
            await _Answer(self.app, scope, receive, send, body).give()


async def _body(scope: Any, receive: Receive) -> bytes | None:
    """The whole body; None where the client has left. Raises _TooLong, by its announced length before any of it."""
    announced = dict(scope["headers"]).get(b"content-length", b"0")
    if not announced.isdigit() or len(announced) > 12 or int(announced) > BODY:
        raise _TooLong
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY:
            raise _TooLong
        if not message.get("more_body", False):
            return b"".join(parts)


class _Answer:
    """One request on its way through the application."""

    def __init__(self, app: App, scope: Any, receive: Receive, send: Send, body: bytes) -> None:
        self.app, self.scope, self.receive, self.send = app, scope, receive, send
        self.body: bytes | None = body
        self.begun, self.over = asyncio.Event(), False

    async def give(self) -> None:
        work = asyncio.ensure_future(self.app(self.scope, self._receive, self._send))
        begun = asyncio.ensure_future(self.begun.wait())
        try:
            await asyncio.wait((work, begun), timeout=PAGE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            work.cancel()
            raise
        finally:
            begun.cancel()
        if work.done() or self.begun.is_set():
            return await work
        self.over = True  # what it says from now on is heard by nobody
        _overdue[work] = time.monotonic()
        work.add_done_callback(_forget)
        logger.error("%s: no answer within %.0f s", self.scope["path"][:200], PAGE_SECONDS)
        await _refuse(self.scope, self.send, 503, "This page takes too long", "It was stopped. Try again later.")

    async def _receive(self) -> Message:
        if self.body is not None:
            body, self.body = self.body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.begun.wait()  # that the client has left is told between two pieces, not while a view is at work
        return await self.receive()

    async def _send(self, message: Message) -> None:
        if not self.over:
            self.begun.set()
            await self.send(message)


def _forget(work: "asyncio.Future[None]") -> None:
    _overdue.pop(work, None)
    if not work.cancelled() and work.exception() is not None:
        logger.error("a page that took too long failed: %r", work.exception())


async def _refuse(scope: Any, send: Send, status: int, title: str, why: str) -> None:
    """An answer instead of the application's; the connection ends with it."""
    if scope["path"].startswith("/api/"):
        answer = problems.response(problems.Problem(status, why))
        body, kind = answer.content, problems.TYPE
    else:
        context = {"status": status, "title": title, "why": why}
        body, kind = render_to_string("pages/refused.html", context).encode(), "text/html; charset=utf-8"
    headers = {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store",
               "Connection": "close"}  # fmt: skip
    if status == 503:
        headers["Retry-After"] = "30"
    sent = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": body})
