"""Connections to the outside alone: never to this machine, its own net, or a cloud's address of secrets.

A feed's address, and every address that it redirects to, is somebody else's word. The name is looked up here, each
address that it has is looked at, and the connection goes to the one that was: asking again later could give another.
"""

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable
from typing import Any

from httpcore2 import ConnectError, NetworkStream, ReadTimeout, SyncBackend

from paperlab.site.store.item import SourceError


def is_outside(address: str) -> bool:
    """Whether an IP address is one that everybody reaches: not loopback, link-local, private, shared, multicast or
    reserved, also as IPv6 writes IPv4 (mapped, 6to4, NAT64)."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and (ip in _NAT64 or ip in _COMPATIBLE):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_outside(str(inner))
    return ip.is_global and not ip.is_multicast


_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE = ipaddress.ip_network("::/96")


def look_up(host: str, port: int) -> list[str]:
    """The addresses of a host. Raises SourceError where one of them is inside, ConnectError where it has none."""
    try:
        known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConnectError(f"{host}: {error}") from error
    addresses = list(dict.fromkeys(str(row[4][0]) for row in known))
    refused = [address for address in addresses if not is_outside(address)]
    if refused:
        raise SourceError(f"{host} is {refused[0]}, an address inside; name it in PAPERLAB_INSIDE if it may be asked")
    return addresses


class _Limited(NetworkStream):
    """A connection with a time by which all must be through: the client's own limit is one for each piece, and begins
    anew with every byte of an answer's head that drips."""

    def __init__(self, stream: NetworkStream, end: float) -> None:
        self.stream, self.end = stream, end

    def _left(self, timeout: float | None) -> float:
        left = self.end - time.monotonic()
        if left <= 0:
            raise ReadTimeout("no whole answer in the time that it has")
        return left if timeout is None else min(left, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What has come."""
        return self.stream.read(max_bytes, self._left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send."""
        self.stream.write(buffer, self._left(timeout))

    def close(self) -> None:
        """End it."""
        self.stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> NetworkStream:
        """The same connection, encrypted."""
        return _Limited(self.stream.start_tls(ssl_context, server_hostname, self._left(timeout)), self.end)

    def get_extra_info(self, info: str) -> Any:
        """What is known of it."""
        return self.stream.get_extra_info(info)


class Outside(SyncBackend):
    """The HTTP client's way to the net. inside: names and addresses that may be anywhere; deadline: seconds that a
    connection has in all."""

    def __init__(self, inside: Iterable[str], deadline: float) -> None:
        super().__init__()
        self.inside, self.deadline = frozenset(name.lower() for name in inside), deadline

    def connect_tcp(  # type: ignore[override]  # what else there may be is handed on as it is
        self, host: str, port: int, timeout: float | None = None, **more: Any
    ) -> NetworkStream:
        """A connection to an address of the host that was looked at. Raises SourceError where it has none outside."""
        return _Limited(self._connected(host, port, timeout, **more), time.monotonic() + self.deadline)

    def _connected(self, host: str, port: int, timeout: float | None, **more: Any) -> NetworkStream:
        if host.lower() in self.inside:
            return super().connect_tcp(host, port, timeout, **more)
        addresses = look_up(host, port)
        end = None if timeout is None else time.monotonic() + timeout
        for number, address in enumerate(addresses, 1):
            left = None if end is None else max(end - time.monotonic(), 0.1)
            try:
                return super().connect_tcp(address, port, left, **more)
            except ConnectError:
                if number == len(addresses):
                    raise
        raise ConnectError(f"{host}: no address")
