from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from pt.aio import tcp
from tests.sim.loop import run
from tests.sim.world import tcp_pair


@pytest.mark.parametrize(
    ("host", "family"),
    [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6), ("fe80::1%lo", socket.AF_INET6)],
)
def test_family(host: str, family: int) -> None:
    assert tcp.ip_family(host) == family


def test_network_sockets_are_tuned() -> None:
    left, right = tcp_pair()
    with left, right:
        algorithm = tcp.tune_network_socket(left, "no-such-algorithm")
        assert left.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert left.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert left.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == tcp.USER_TIMEOUT_MS
        assert algorithm
        assert tcp.tune_network_socket(right, algorithm) == algorithm


@pytest.mark.parametrize("share", [False, True])
def test_a_taken_port_is_refused_even_if_ports_are_shared(share: bool) -> None:
    with tcp.listen("127.0.0.1", 0, share_port=share) as first:
        port = first.getsockname()[1]
        with pytest.raises(OSError) as caught:
            tcp.listen("127.0.0.1", port, share_port=share)
        assert caught.value.errno == errno.EADDRINUSE


def test_a_dial_from_a_port_that_is_taken_uses_a_fresh_one(monkeypatch) -> None:
    calls = []

    async def from_port(host: str, port: int, local: tuple[str, int] | None) -> str:
        calls.append(local)
        if local:
            raise OSError(errno.EADDRNOTAVAIL, "taken")
        return "socket"

    monkeypatch.setattr(tcp, "dial_from", from_port)
    assert asyncio.run(tcp.dial("127.0.0.1", 1, local_port=5)) == "socket"
    assert calls == [("0.0.0.0", 5), None]


def test_a_refusal_is_not_tried_twice(monkeypatch) -> None:
    calls = []

    async def from_port(host: str, port: int, local: tuple[str, int] | None) -> None:
        calls.append(local)
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    monkeypatch.setattr(tcp, "dial_from", from_port)
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(tcp.dial("127.0.0.1", 1, local_port=5))
    assert calls == [("0.0.0.0", 5)]


def test_an_abort_arrives_as_a_reset() -> None:
    left, right = tcp_pair()
    with right:
        tcp.abort(left)
        with pytest.raises(ConnectionResetError):
            right.recv(1)


def test_closing_in_order_delivers_what_is_under_way() -> None:
    left, right = tcp_pair()
    with right:
        tcp.abort_on_exit(left)
        left.send(b"last words")
        tcp.close_in_order(left)
        right.setblocking(True)
        assert right.recv(100) == b"last words"
        assert right.recv(100) == b""


def test_detaching_gives_what_was_read_and_not_used() -> None:
    async def scenario() -> None:
        left, right = tcp_pair()
        with left, right:
            stream = tcp.SocketStream(left)
            right.send(b"abcdef")
            stream.unread(await stream.read(4))
            assert await stream.read(1) == b"a"
            assert stream.detach() == (left, b"bcd")
            assert stream.detach() == (left, b"")

    run(scenario())
