"""Middleware before the routes: who may ask, how much, and how slowly."""

import asyncio
import hmac
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from paperlab.engine.serve.metrics import Metrics
from paperlab.engine.serve.requests import Refused

BODY = 8 << 20  # bytes of a request
DRAINED = 4 * BODY  # bytes of a body that is too long that are read and dropped, so that its sender hears why
BODY_SECONDS = 60.0
HEAD_SECONDS = 20.0  # from a connection's, or a request's, first byte to the end of its header
STALL_SECONDS = 30.0  # a reader who takes nothing for so long is cut off
OPEN = "/health"  # needs no key
PLACES = ("/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/embeddings", OPEN, "/metrics")


def refusal(error: Refused) -> JSONResponse:
    """The response to a refused request, as OpenAI's clients read it."""
    headers = {"retry-after": "1"} if error.status in (429, 503) else {}
    if error.status in (401, 408, 413):
        headers |= {"connection": "close"} | ({"www-authenticate": "Bearer"} if error.status == 401 else {})
    return JSONResponse(error.body(), error.status, headers)


class Gate:
    """Counts requests, and lets only those through that come by a known name and with the key.

    names: those by which this server may be reached, None for any. A page on the web may make a browser call a server
    on its own machine, by a name of the page's that suddenly means 127.0.0.1; such a call bears the page's name.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, key: str | None, names: frozenset[str] | None) -> None:
        self.app, self.metrics, self.key, self.names = app, metrics, key, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun, status = time.monotonic(), 499  # nginx's number for a client that disconnected

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if refused := self._refused(Request(scope)):
                await refusal(refused)(scope, receive, counted)
            else:
                await self.app(scope, receive, counted)
        except Exception:
            status = 500
            raise
        finally:
            at = scope["path"] if scope["path"] in PLACES else "other"
            self.metrics.requests.labels(at, str(status)).inc()
            self.metrics.whole.labels(at).observe(time.monotonic() - begun)

    def _refused(self, request: Request) -> Refused | None:
        host = request.headers.get("host", "")
        if self.names is not None and _name(host) not in self.names:
            message = f"this server is not {host[:100]!r}; call it by {' or '.join(sorted(self.names))}"
            return Refused(message, status=421, code="unknown_host")
        if self.key is None or request.url.path == OPEN or request.method == "OPTIONS":
            return None
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self.key.encode()):
            return None
        message = "the API key is missing or wrong: send it as `Authorization: Bearer KEY`"
        return Refused(message, status=401, code="invalid_api_key")


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


async def body(request: Request) -> bytes:
    """A request's JSON body. Raises Refused."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # what a page elsewhere may post without asking first is never this
        raise Refused("the body must be JSON: send `Content-Type: application/json`", status=415)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size <= BODY:
                    parts.append(part)
                elif size > DRAINED:
                    break
    except TimeoutError:
        raise Refused(f"the body did not come within {BODY_SECONDS:.0f} seconds", status=408) from None
    if size > BODY:
        raise Refused(f"the body is longer than {BODY >> 20} MiB", status=413, code="request_too_large")
    return b"".join(parts)


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP with timeouts: for headers that do not come, and for readers who do not read."""

    _head: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the header timeout of a new connection."""
        super().connection_made(transport)
        self._head = self.loop.call_later(HEAD_SECONDS, self._abort)

    def data_received(self, data: bytes) -> None:
        """Stop the header timeout once a header is complete; start it for the next request."""
        super().data_received(data)
        idle = self.cycle is None or self.cycle.response_complete
        if self._head and not idle:
            self._head.cancel()
            self._head = None
        elif not self._head and idle and not self.timeout_keep_alive_task:
            self._head = self.loop.call_later(HEAD_SECONDS, self._abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeouts."""
        for timer in (self._head, self._stall):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the timeout of a reader that is behind."""
        super().pause_writing()
        self._stall = self.loop.call_later(STALL_SECONDS, self._abort)

    def resume_writing(self) -> None:
        """Cancel the timeout of a reader that has caught up."""
        super().resume_writing()
        if self._stall:
            self._stall.cancel()
            self._stall = None

    def _abort(self) -> None:
        self.transport.abort()
