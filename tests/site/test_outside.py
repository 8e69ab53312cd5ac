"""Feeds come from outside: no name, no redirect and no second look-up leads to this machine or its net."""

import socket
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_server import Server, Told, serving

from paperlab.site.store.item import SourceError
from paperlab.site.store.sources import named
from paperlab.site.store.sources.outside import is_outside


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A server of this machine that has a feed; the net knows it as a.example.org and b.example.org too."""
    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    real = socket.getaddrinfo

    def known(host: Any, *more: Any, **named: Any) -> Any:
        return real("127.0.0.1" if str(host).endswith(".example.org") else host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", known)
    monkeypatch.setattr(named, "GAP", 0.0)
    with serving(Server([Told(7)])) as one:
        yield one


def read(address: str) -> int:
    return sum(len(page.items) for page in named.source(f"feed:{address}").pages({}, {}))


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "169.254.169.254", "10.1.2.3", "172.16.0.9", "192.168.1.1", "100.64.0.1", "0.0.0.0", "::",
     "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::",
     "::127.0.0.1", "224.0.0.1", "ff02::1", "255.255.255.255", "198.18.0.1", "192.0.2.1", "240.0.0.1"],
)  # fmt: skip
def test_addresses_inside(address: str) -> None:
    assert not is_outside(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "151.101.131.42", "2a04:4e42::81", "::ffff:8.8.8.8"])
def test_addresses_outside(address: str) -> None:
    assert is_outside(address)


def test_what_is_inside_is_not_asked(server: Server) -> None:
    port = server.url.rsplit(":", 1)[1]
    for host in ("127.0.0.1", "localhost", "a.example.org", "2130706433", "127.1", "0x7f.1", "[::ffff:127.0.0.1]"):
        with pytest.raises(SourceError, match="inside"):
            read(f"http://{host}:{port}/feed")
    assert server.asked == []


def test_one_that_is_named_is_asked_and_its_redirects_are_looked_at(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = server.url.rsplit(":", 1)[1]
    monkeypatch.setenv("PAPERLAB_INSIDE", "127.0.0.1, a.example.org")
    assert read(f"http://127.0.0.1:{port}/feed") == read(f"http://a.example.org:{port}/feed") == 1
    server.wrong.append(f"to:http://b.example.org:{port}/feed")
    with pytest.raises(SourceError, match=r"b\.example\.org is 127\.0\.0\.1"):
        read(f"http://a.example.org:{port}/feed")
    assert len(server.asked) == 3


def test_the_address_that_was_looked_at_is_the_one_connected_to(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is outside at the first look-up and inside at the next."""
    answers, connected = ["8.8.8.8", "127.0.0.1"], []

    def known(host: str, port: int, *more: Any, **named: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers.pop(0), port))]

    def connect(address: Any, *more: Any, **named: Any) -> Any:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", known)
    monkeypatch.setattr(socket, "create_connection", connect)
    source = named.source("feed:http://c.example.org:8080/feed")
    source.client.tries = 1  # type: ignore[attr-defined]
    with pytest.raises(SourceError):
        list(source.pages({}, {}))
    assert connected == [("8.8.8.8", 8080)]


def test_an_answer_that_unfolds_without_end_is_left(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERLAB_INSIDE", "127.0.0.1")
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = packer.compress(b"<rss>") + b"".join(packer.compress(b" " * 1_000_000) for _ in range(400)) + packer.flush()
    assert len(body) < 500_000
    server.packed = body
    with pytest.raises(SourceError, match="more than 16 MB"):
        read(f"{server.url}/feed")
    server.packed = zlib.compress(server.rss().encode(), wbits=31)
    assert read(f"{server.url}/feed") == 1


def test_what_follows_a_compressed_answer_is_not_kept_without_end(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAPERLAB_INSIDE", "127.0.0.1")
    server.packed = zlib.compress(server.rss().encode(), wbits=31) + bytes(17 * 2**20)
    with pytest.raises(SourceError, match="more than 16 MB"):
        read(f"{server.url}/feed")


@pytest.mark.parametrize("through", ["", "http://proxy.example.net:3128"])
def test_a_proxy_that_is_not_used_opens_no_way_inside(
    server: Server, monkeypatch: pytest.MonkeyPatch, through: str
) -> None:
    """NO_PROXY alone is no proxy; and a host that it names is asked directly, at the address that was looked at."""
    answers, connected = ["8.8.8.8", "127.0.0.1"], []

    def known(host: str, port: int, *more: Any, **named: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers.pop(0), port))]

    def connect(address: Any, *more: Any, **named: Any) -> Any:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setenv("no_proxy", "c.example.org")
    if through:
        monkeypatch.setenv("http_proxy", through)
    monkeypatch.setattr(socket, "getaddrinfo", known)
    monkeypatch.setattr(socket, "create_connection", connect)
    source = named.source("feed:http://c.example.org:8080/feed")
    source.client.tries = 1  # type: ignore[attr-defined]
    with pytest.raises(SourceError):
        list(source.pages({}, {}))
    assert connected == [("8.8.8.8", 8080)]
    monkeypatch.delenv("no_proxy")
    if through:  # and one that is used is asked
        answers[:] = ["8.8.8.8"]
        with pytest.raises(SourceError):
            list(source.pages({}, {}))
        assert connected[1:] == [("proxy.example.net", 3128)]
