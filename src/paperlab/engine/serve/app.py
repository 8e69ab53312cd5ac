"""Routes of the server."""

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from paperlab.engine.serve import guard, requests
from paperlab.engine.serve.batching import Busy, Stopping
from paperlab.engine.serve.replies import Reply, failure
from paperlab.engine.serve.requests import Refused, TextRequest
from paperlab.engine.serve.service import Mailbox, Service
from paperlab.engine.serve.texts import Piece, Text

log = logging.getLogger("paperlab.serve")


def application(
    service: Service,
    load: Callable[[], Coroutine[Any, Any, None]],
    *,
    key: str | None = None,
    names: frozenset[str] | None = None,
    origins: Sequence[str] = (),
) -> Starlette:
    """The ASGI application. load: runs in the background. key, names: as `guard.Gate` has them; origins: for CORS."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(load())
        yield
        task.cancel()

    routes = [
        Route("/v1/chat/completions", _Texts(service, requests.chat), methods=["POST"]),
        Route("/v1/completions", _Texts(service, requests.completion), methods=["POST"]),
        Route("/v1/embeddings", _embeddings, methods=["POST"]),
        Route("/v1/models", _models),
        Route("/v1/models/{name:path}", _model),
        Route("/health", _health),
        Route("/metrics", _metrics),
    ]
    middleware = [Middleware(guard.Gate, metrics=service.metrics, key=key, names=names)]
    if origins:
        headers = ["authorization", "content-type"]
        middleware.append(Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=headers))
    handlers: dict[Any, Any] = {HTTPException: _unknown, Refused: _refused, ClientDisconnect: _gone, Exception: _fault}
    app = Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=lifespan)
    app.state.service = service
    return app


class _Texts:
    """The endpoint of chats or of completions. check: reads its body."""

    def __init__(self, service: Service, check: Callable[[dict[str, Any]], TextRequest]) -> None:
        self.service, self.check = service, check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        service, request = self.service, Request(scope, receive)
        _ready(service)
        asked, texts, reply = await service.in_thread(self._read, await guard.body(request))
        try:
            box = service.submit(texts)
            work = _stream(reply, box, send) if asked.stream else _whole(reply, box)
            answer = await _until_disconnect(work, receive)
        except (Busy, Stopping) as error:
            raise _busy(error) from None
        finally:
            service.cancel(texts)
        if answer:
            await answer(scope, receive, send)

    def _read(self, body: bytes) -> tuple[TextRequest, list[Text], Reply]:
        service = self.service
        asked = self.check(requests.read(body))
        service.check_model(asked.model)
        texts = service.texts(asked)
        assert service.model is not None
        token_bytes, echoes = service.model.tokens.token_bytes, service.echoes(asked)
        return asked, texts, Reply(asked, texts, token_bytes, service.fingerprint, echoes)


async def _whole(reply: Reply, box: Mailbox) -> Response:
    """The answer once every text is finished."""
    made = {text.index: Piece() for text in reply.texts}
    running = len(made)
    while running:
        for text, piece in await box.take():
            if piece.error is not None:
                return _failed(piece.error)
            whole = made[text.index]
            whole.text += piece.text
            whole.tokens += piece.tokens
            whole.finish = piece.finish
            running -= piece.finish is not None
    return JSONResponse(reply.whole([made[text.index] for text in reply.texts]))


async def _stream(reply: Reply, box: Mailbox, send: Send) -> Response | None:
    """Send the texts as they come. Returns an answer instead where one fails before anything is sent."""
    running, begun = len(reply.texts), False
    while running:
        events: list[bytes] = []
        for text, piece in await box.take():
            if piece.error is not None:
                if not begun:
                    return _failed(piece.error)
                await send({"type": "http.response.body", "body": b"".join([*events, failure(piece.error)])})
                return None
            events += reply.chunks(text.index, piece)
            running -= piece.finish is not None
        if not running:
            events.append(reply.end())
        if not begun:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            begun = True
        await send({"type": "http.response.body", "body": b"".join(events), "more_body": bool(running)})
    return None


async def _until_disconnect(work: Coroutine[Any, Any, Any], receive: Receive) -> Any:
    """The work's result; None where its client disconnects, and the work is cancelled."""

    async def disconnected() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = (asyncio.create_task(work), asyncio.create_task(disconnected()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return await tasks[0] if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _embeddings(request: Request) -> Response:
    service: Service = request.app.state.service
    _ready(service)
    body = await guard.body(request)

    def read() -> tuple[requests.EmbeddingRequest, list[list[int]]]:
        inputs = requests.embeddings(requests.read(body))
        service.check_model(inputs.model)
        return inputs, service.token_ids(inputs)

    inputs, ids = await service.in_thread(read)
    try:
        job = await _until_disconnect(service.embed(ids), request.receive)
    except (Busy, Stopping) as error:
        raise _busy(error) from None
    if job is None:
        return Response(status_code=499)
    if job.error is not None:
        return _failed(job.error)

    def write() -> Response:
        one = (
            (lambda v: base64.b64encode(v.astype("<f4").tobytes()).decode()) if inputs.base64 else lambda v: v.tolist()
        )
        data = [{"object": "embedding", "index": i, "embedding": one(v)} for i, v in enumerate(job.vectors)]
        count = sum(map(len, ids))
        usage = {"prompt_tokens": count, "total_tokens": count}
        return JSONResponse({"object": "list", "data": data, "model": inputs.model, "usage": usage})

    answer: Response = await service.in_thread(write)
    return answer


def _entry(service: Service) -> dict[str, Any]:
    return {"id": service.options.name, "object": "model", "created": service.created, "owned_by": "paperlab"}


async def _models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [_entry(request.app.state.service)]})


async def _model(request: Request) -> Response:
    request.app.state.service.check_model(request.path_params["name"])
    return JSONResponse(_entry(request.app.state.service))


async def _health(request: Request) -> Response:
    state = request.app.state.service.state
    return JSONResponse({"status": state}, 200 if state == "ready" else 503)


async def _metrics(request: Request) -> Response:
    page = request.app.state.service.metrics.page()
    return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")


def _ready(service: Service) -> None:
    if service.state != "ready":
        raise Refused(f"the model is not ready: {service.state}", status=503, code="not_ready")


def _busy(error: Busy | Stopping) -> Refused:
    if isinstance(error, Busy):
        return Refused(str(error), status=429, code="queue_full", kind="rate_limit_error")
    return Refused(str(error), status=503, code="stopping")


def _failed(message: str) -> Response:
    status = 503 if message == str(Stopping()) else 500
    return guard.refusal(Refused(message, status=status))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return guard.refusal(error)


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:200]}: {error.detail.lower()}"
    if error.status_code == 404:
        message += f"; there are {', '.join(guard.PLACES)}"
    return guard.refusal(Refused(message, status=error.status_code))


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


async def _fault(request: Request, error: Exception) -> Response:
    return guard.refusal(Refused("a fault of the server; its log says more", status=500))
