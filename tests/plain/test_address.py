"""Sockets that listen: on free ports, with what a reader is held, and errors that say what to do."""

import socket

import pytest

from paperlab.core.address import AddressError, is_local, listen, url


def test_a_free_port_and_its_address():
    with listen("127.0.0.1", 0, buffer=1 << 14) as opened:
        port = opened.getsockname()[1]
        assert url(opened) == f"http://127.0.0.1:{port}"
        assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < 1 << 16
        with socket.create_connection(("127.0.0.1", port), timeout=10), opened.accept()[0]:
            pass
        with pytest.raises(AddressError, match=rf"127\.0\.0\.1 port {port}: is in use; .*--port 0 takes a free one"):
            listen("127.0.0.1", port)
    listen("127.0.0.1", port).close()


def test_everybodys_address_is_told_as_one_that_works():
    with listen("0.0.0.0", 0) as opened:
        assert url(opened) == f"http://localhost:{opened.getsockname()[1]}"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6")
def test_an_address_of_ipv6_has_brackets():
    with listen("::1", 0) as opened:
        assert url(opened) == f"http://[::1]:{opened.getsockname()[1]}"


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("no.such.host.invalid", "--host 'no.such.host.invalid'"),
        ("a" * 70 + ".example", "--host"),
        ("192.0.2.1", "give another --host"),
    ],
)
def test_hosts_that_are_not_here(host, says):
    with pytest.raises(AddressError, match=r"address of this machine|another --host") as raised:
        listen(host, 0)
    assert says in str(raised.value)


def test_a_port_without_the_right_to_it(monkeypatch):
    def refuse(self, at):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(AddressError, match="port 80: Permission denied; ports below 1024 need rights"):
        listen("127.0.0.1", 80)


@pytest.mark.parametrize(
    ("host", "local"),
    [("localhost", True), ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("0.0.0.0", False),
     ("::", False), ("192.168.1.4", False), ("example.org", False)],
)  # fmt: skip
def test_which_addresses_are_this_machines_alone(host, local):
    assert is_local(host) is local
