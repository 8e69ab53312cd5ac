"""Requests that take without end, on real sockets: bytes, seconds before they are whole, seconds of the site's own."""

# ruff: noqa: F401, F811 (fixtures of another file)

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import psutil
import pytest
from tests.services.test_up import Up, start, wait


def line(up: Up) -> socket.socket:
    opened = socket.create_connection((str(urlsplit(up.address).hostname), urlsplit(up.address).port or 0), 60)
    opened.settimeout(60)
    return opened


def rest(opened: socket.socket) -> bytes:
    """What comes until the other side closes."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while part := opened.recv(65536):
            got += part
    return got


def written(process: psutil.Process) -> int:
    """Bytes that the servers have written, to files and sockets."""
    return int(process.io_counters().write_chars)


def test_a_long_body_is_refused_before_any_of_it_is_taken(start: Callable[..., Up], tmp_path: Path) -> None:
    up = start()
    assert up.get("health").text == "ok\n"
    server = up.children()["server"][0]
    before = written(server)
    for path in ("sign-in", "admin/login/", "api/papers", "account/delete", "health"):
        with line(up) as one:
            one.sendall(f"POST /{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000000\r\n\r\n".encode())
            assert rest(one).startswith(b"HTTP/1.1 413 "), path
    with line(up) as one:  # whose length is not said, piece by piece
        one.sendall(b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"%x\r\n" % 65536 + b"x" * 65536 + b"\r\n"
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 200_000_000:
                one.sendall(piece)
                sent += 65536
        assert sent < 20_000_000
    assert written(server) - before < 500_000  # the answers alone
    answer = httpx.post(up.address + "api/papers", content=b"x" * 1_000_001)
    assert (answer.status_code, answer.headers["Content-Type"]) == (413, "application/problem+json")
    assert httpx.post(up.address + "api/papers", content=b"x" * 1_000_000).status_code == 405
    assert up.end() == 0


def test_half_sent_requests_are_not_waited_for(start: Callable[..., Up]) -> None:
    up = start()
    begun, lines = time.monotonic(), []
    for n in range(200):
        lines.append(line(up))
        head = (b"", b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")[n % 4]
        lines[-1].sendall(head)
    slow = [line(up) for _ in range(20)]
    for one in slow:
        one.sendall(b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
    stop = threading.Event()

    def drip() -> None:
        """A byte now and then, as who wants to be waited for sends it."""
        while not stop.wait(2):
            for one in (*lines, *slow):
                with contextlib.suppress(OSError):
                    one.sendall(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        assert up.get("health").status_code == 200  # others are served meanwhile
        for one in lines:
            assert rest(one)[:12] in (b"", b"HTTP/1.1 400")
        assert time.monotonic() - begun < 40
        for one in slow:
            assert rest(one).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - begun < 60
    finally:
        stop.set()
        thread.join()
        for one in (*lines, *slow):
            one.close()
    with httpx.Client(base_url=up.address) as client:  # a connection that is used goes on
        for _ in range(4):
            assert client.get("health").status_code == 200
            time.sleep(3)
    assert up.end() == 0


@pytest.mark.kill
def test_a_server_that_does_not_answer_is_replaced(start: Callable[..., Up]) -> None:
    """Stopped, as a pattern that takes for ever stops it: the interpreter runs no other line."""
    up = start()
    assert up.get("health").status_code == 200
    before = up.children()["server"][0]
    before.suspend()
    wait(lambda: "the server 1 does not answer; it is replaced" in up.text(), up.text)
    found = wait(lambda: [one for one in up.children()["server"] if one.pid != before.pid], up.text)
    assert found
    assert up.get("papers/easyquant").status_code == 200
    assert "3 times" not in up.text()
    assert up.end() == 0


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, paperlab_home: Path) -> Iterator[tuple[str, threading.Event]]:
    """A real server with a page that lasts until the event is set."""
    import uvicorn
    from asgiref.sync import sync_to_async

    from paperlab.site import bounds
    from paperlab.site.start import configure

    configure()
    monkeypatch.setattr(bounds, "PAGE_SECONDS", 0.5)
    monkeypatch.setattr(bounds, "STUCK", 1.0)
    done = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["path"].endswith("/slow"):
            await sync_to_async(done.wait)(60)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"late" if scope["path"].endswith("/slow") else b"soon"})

    opened = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(bounds.Bounds(app), lifespan="off", log_level="warning", http=bounds.Timely)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    yield f"http://127.0.0.1:{opened.getsockname()[1]}", done
    done.set()
    server.should_exit = True
    thread.join(20)


def test_a_page_that_takes_too_long_is_given_up(slow: tuple[str, threading.Event]) -> None:
    from paperlab.site import bounds

    address, done = slow
    answer = httpx.get(f"{address}/slow", timeout=20)
    assert answer.status_code == 503
    assert "takes too long" in answer.text
    assert int(answer.headers["Retry-After"]) > 0
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert httpx.get(f"{address}/api/slow", timeout=20).json()["status"] == 503
    assert httpx.get(f"{address}/other").text == "soon"
    wait(bounds.is_stuck, seconds=20)  # its process writes no more signs of life, and is replaced
    done.set()
    wait(lambda: not bounds.is_stuck() and not bounds._overdue, seconds=20)
