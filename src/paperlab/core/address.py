"""Where a server listens: its socket, opened with errors that say what to do, and its address for people."""

import errno
import ipaddress
import socket


class AddressError(RuntimeError):
    """There can be no server at this address; the message says why and what to do."""


def listen(host: str, port: int, *, buffer: int | None = None) -> socket.socket:
    """A TCP socket that listens. port: 0 takes a free one. Raises AddressError.

    buffer: bytes that the system holds for a slow reader; None leaves it to the system.
    """
    try:
        family, kind, _, _, at = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        opened = socket.socket(family, kind)
    except (socket.gaierror, UnicodeError) as error:
        said = getattr(error, "strerror", None) or "no name of a machine"
        raise AddressError(f"--host {host!r}: {said}; give an address of this machine") from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if buffer is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        opened.bind(at)
        opened.listen(1024)
    except PermissionError as error:
        opened.close()
        raise AddressError(
            f"port {port}: {error.strerror}; ports below 1024 need rights, give another --port"
        ) from error
    except OSError as error:
        opened.close()
        taken = "is in use; does it run already? --port 0 takes a free one"
        said = taken if error.errno == errno.EADDRINUSE else f"{error.strerror}; give another --host"
        raise AddressError(f"{host} port {port}: {said}") from error
    return opened


def url(opened: socket.socket) -> str:
    """What to call it by from this machine, without a slash at its end."""
    host, port = opened.getsockname()[:2]
    shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def is_local(host: str) -> bool:
    """Whether an address to listen at is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
