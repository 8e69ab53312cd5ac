"""Connections to the outside alone: never to this machine, its own net, or a cloud's address of secrets.

A feed's address, and every address that it redirects to, is somebody else's word. The name is looked up here, each
address that it has is looked at, and the connection goes to the one that was: asking again later could give another.
"""

import ipaddress
import socket
import time
from collections.abc import Iterable
from typing import Any

from httpcore2 import ConnectError, NetworkStream, SyncBackend

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


class Outside(SyncBackend):
    """The HTTP client's way to the net. inside: names and addresses that may be anywhere."""

    def __init__(self, inside: Iterable[str]) -> None:
        super().__init__()
        self.inside = frozenset(name.lower() for name in inside)

    def connect_tcp(  # type: ignore[override]  # what else there may be is handed on as it is
        self, host: str, port: int, timeout: float | None = None, **more: Any
    ) -> NetworkStream:
        """A connection to an address of the host that was looked at. Raises SourceError where it has none outside."""
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
