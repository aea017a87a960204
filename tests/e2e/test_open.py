"""The unauthenticated protocol of the Go program (`--open`), between two of ours."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading

import pytest

from pt.tunnel.selftest.wire import pattern
from tests.e2e.harness import MIB, Rig, ask_echo, local_port, read_all

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]


def opened(rig: Rig, service: int | socket.socket) -> int:
    return rig.tunnel(service, "--open")[2]


def test_echo(rig: Rig) -> None:
    port = opened(rig, rig.echo_service())
    client = rig.dial(port)
    for size in (1, 1000, 1_000_000):
        ask_echo(client, bytes(pattern(0, size)))


def test_many_connections(rig: Rig) -> None:
    port = opened(rig, rig.echo_service())
    for number in range(50):
        client = rig.dial(port)
        ask_echo(client, b"%d" % number)
        client.close()


def test_a_client_that_half_closes_gets_its_whole_reply(rig: Rig) -> None:
    """The client's FIN is held back, since the Go program would drop the reply after it."""
    listener = rig.listen(rig.a)
    port = opened(rig, listener)
    client = rig.dial(port)
    service = rig.accept(listener)
    client.sendall(b"request\n")
    client.shutdown(socket.SHUT_WR)
    assert service.recv(100) == b"request\n"
    reply = bytes(pattern(0, MIB)) * 8

    def answer() -> None:
        service.sendall(reply)
        service.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=answer)
    thread.start()
    got = read_all(client)
    thread.join()
    assert hashlib.sha256(got).digest() == hashlib.sha256(reply).digest()
    assert service.recv(1) == b""


def test_a_refused_target_ends_the_client(rig: Rig) -> None:
    exposer = rig.expose("--port", "9", "--open")
    binder = rig.bind("--port", "0", "--open", to=exposer)
    client = rig.dial(local_port(binder))
    with contextlib.suppress(ConnectionResetError):
        assert client.recv(1) == b""
    exposer.wait("stream_refused")


def test_open_and_authenticated_do_not_mix(rig: Rig) -> None:
    """A binder that expects authentication never settles for none."""
    exposer = rig.expose("--port", str(rig.echo_service()), "--open")
    binder = rig.bind("--port", "0", "--once", "--timeout", "5", to=exposer, ready=False)
    assert binder.exit_code() == 4
    assert not binder.matching("connected")


def test_the_strength_is_called_open(rig: Rig) -> None:
    exposer = rig.expose("--port", "9", "--open")
    assert str(exposer.wait("started")["strength"]).startswith("open")
