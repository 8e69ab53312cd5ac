"""The threads behind ASGI: kept from one request to the next, and never two requests in one."""

import asyncio
import threading
from typing import Any

import pytest


@pytest.fixture
def handler(store: None) -> Any:
    from paperlab.site.threads import Handler

    return Handler()


async def _ask(handler: Any) -> None:
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [(b"host", b"localhost")]}
    sent: list[Any] = []

    async def receive() -> Any:
        if not sent:
            sent.append(None)
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await handler(scope, receive, send)
    assert sent[1]["status"] == 200


def test_one_thread_answers_one_request_after_the_other_and_several_at_once(
    handler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.http import HttpResponse

    used: list[int] = []
    meet: threading.Barrier | None = None

    def answer(request: Any) -> HttpResponse:
        used.append(threading.get_ident())
        if meet is not None:
            meet.wait(20)
        return HttpResponse("ok")

    monkeypatch.setattr(handler, "get_response", answer)

    async def one_by_one() -> None:
        for _ in range(5):
            await _ask(handler)
            await asyncio.sleep(0.05)  # its thread is told to be free

    async def at_once() -> None:
        await asyncio.gather(*(_ask(handler) for _ in range(4)))

    asyncio.run(one_by_one())
    assert len(set(used)) == 1
    used.clear()
    meet = threading.Barrier(4)  # passed only when four are answered at the same time
    asyncio.run(at_once())
    assert len(set(used)) == 4


def test_nobody_waits_behind_a_request_whose_client_left(handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.http import HttpResponse

    begun, go_on = threading.Event(), threading.Event()
    used: list[int] = []

    def answer(request: Any) -> HttpResponse:
        used.append(threading.get_ident())
        if len(used) == 1:
            begun.set()
            assert go_on.wait(20)
        return HttpResponse("ok")

    monkeypatch.setattr(handler, "get_response", answer)

    async def run() -> None:
        left = asyncio.ensure_future(_ask(handler))
        await asyncio.to_thread(begun.wait, 20)
        left.cancel()
        await asyncio.wait([left], timeout=0.2)
        await asyncio.wait_for(_ask(handler), 10)
        go_on.set()
        await asyncio.wait([left])

    asyncio.run(run())
    assert len(set(used)) == 2
