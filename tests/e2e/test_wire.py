"""TCP as if the tunnel were not there: the wire-exactness suite, ends of all kinds, memory."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from dataclasses import dataclass

import pytest

from pt.tunnel.selftest import CASES, run_case
from pt.tunnel.selftest.wire import pattern, reset
from tests.e2e.harness import MIB, PtProcess, Rig, local_port, soak

pytestmark = [pytest.mark.netns, pytest.mark.timeout(300)]
DUPLEX_SIZE = 1024 * MIB if soak() else 128 * MIB
DEAD_PORT = 9
RSS_GROWTH_LIMIT = 96 * MIB
"""More than the windows and replay buffers of one stream, far less than what is sent."""


@dataclass
class Wire:
    rig: Rig
    exposer: PtProcess
    binder: PtProcess
    service_port: int
    port: int
    dead: int


@pytest.fixture(scope="module")
def wire(shared_rig: Rig) -> Wire:
    service = shared_rig.case_service()
    exposer = shared_rig.expose("--port", str(service), "--port", str(DEAD_PORT))
    forwards = ["-p", f"0:{service}", "-p", f"0:{DEAD_PORT}"]
    binder = shared_rig.bind(*forwards, to=exposer)
    ports = [local_port(binder, index) for index in range(2)]
    return Wire(shared_rig, exposer, binder, service, *ports)


@pytest.mark.parametrize("name", [name for name in CASES if name != "duplex"])
def test_exact(wire: Wire, name: str) -> None:
    with wire.rig.b.inside():
        result = run_case(name, "127.0.0.1", wire.port, refused_port=wire.dead)
    assert not result.skipped
    assert result.ok, result.detail


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_both_ways_at_once(wire: Wire) -> None:
    argv = [sys.executable, "-m", "pt.tunnel.selftest", "run", "--size", str(DUPLEX_SIZE)]
    argv += ["127.0.0.1", str(wire.port), "duplex"]
    done = wire.rig.b.run(argv, timeout=500, check=False)
    result = json.loads(done.stdout)
    assert result["ok"], result["detail"]


def test_a_sleeping_reader_holds_the_sender_back(rig: Rig) -> None:
    """However much the service has to say, memory of both ends stays bounded."""
    listener = rig.listen(rig.a)
    exposer, binder, port = rig.tunnel(listener)
    client = rig.dial(port)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    service = rig.accept(listener)
    before = [process.baseline() for process in (exposer, binder)]
    service.settimeout(2.0)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 1024 * MIB:
            sent += service.send(pattern(sent, 256 * 1024))
    assert sent < 128 * MIB, f"{sent / MIB:.0f} MiB swallowed for a reader that sleeps"
    grown = [p.memory("VmHWM") - was for p, was in zip((exposer, binder), before, strict=True)]
    assert max(grown) < RSS_GROWTH_LIMIT, [f"{size / MIB:.0f} MiB" for size in grown]
    got = 0
    while got < sent:
        piece = client.recv(1 << 18)
        assert piece == pattern(got, len(piece))
        got += len(piece)


def test_many_sleeping_readers_are_bounded_together(rig: Rig) -> None:
    listener = rig.listen(rig.a)
    exposer, binder, port = rig.tunnel(listener)
    before = [process.baseline() for process in (exposer, binder)]
    pairs = []
    for _ in range(20):
        client = rig.dial(port)
        pairs.append((client, rig.accept(listener)))

    def fill(service: socket.socket) -> None:
        service.settimeout(2.0)
        with contextlib.suppress(TimeoutError):
            for _ in range(256):
                service.sendall(pattern(0, 256 * 1024))

    threads = [threading.Thread(target=fill, args=(service,)) for _, service in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    grown = [p.memory("VmHWM") - was for p, was in zip((exposer, binder), before, strict=True)]
    assert max(grown) < 512 * MIB, [f"{size / MIB:.0f} MiB" for size in grown]
    fresh = rig.dial(port)
    late = rig.accept(listener)
    late.sendall(b"not starved")
    assert fresh.recv(100) == b"not starved"


@pytest.mark.parametrize("resetter", ["client", "service"])
def test_rst_arrives_as_rst(rig: Rig, resetter: str) -> None:
    listener = rig.listen(rig.a)
    _, _, port = rig.tunnel(listener)
    client = rig.dial(port)
    service = rig.accept(listener)
    client.sendall(b"x")
    assert service.recv(1) == b"x"
    here, there = (client, service) if resetter == "client" else (service, client)
    reset(here)
    with pytest.raises(ConnectionResetError):
        there.recv(1)


@pytest.mark.parametrize("closer", ["client", "service"])
def test_fin_arrives_as_fin(rig: Rig, closer: str) -> None:
    listener = rig.listen(rig.a)
    _, _, port = rig.tunnel(listener)
    client = rig.dial(port)
    service = rig.accept(listener)
    here, there = (client, service) if closer == "client" else (service, client)
    here.sendall(b"last words")
    here.shutdown(socket.SHUT_WR)
    assert there.recv(100) == b"last words"
    assert there.recv(1) == b""
    there.sendall(b"reply")
    assert here.recv(100) == b"reply"
    there.shutdown(socket.SHUT_WR)
    assert here.recv(1) == b""


@pytest.mark.parametrize("fate", ["client", "service"])
def test_a_killed_program_is_noticed_on_the_other_side(rig: Rig, fate: str) -> None:
    """The kernel closes for a program killed with unread data by RST; so must the tunnel."""
    listener = rig.listen(rig.a)
    _, _, port = rig.tunnel(listener)
    client = rig.dial(port)
    service = rig.accept(listener)
    victim, other = (client, service) if fate == "client" else (service, client)
    other.sendall(b"unread")
    victim.recv(1)
    victim.close()
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        assert other.recv(1) == b""
        while True:
            other.sendall(bytes(65536))
