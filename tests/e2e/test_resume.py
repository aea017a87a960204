"""The path between the peers dies and comes back, and the applications never notice."""

from __future__ import annotations

import random
import socket
import threading
from dataclasses import dataclass

import pytest

from pt.tunnel.selftest.wire import Verifier, pattern
from tests.e2e.harness import MIB, PtProcess, Rig, ask_echo, local_port, soak
from tests.e2e.transfer import CHUNK, PATIENCE, Transfer

pytestmark = [pytest.mark.netns, pytest.mark.timeout(1800 if soak() else 300)]
CUTS = 50 if soak() else 5
SIZE = 1024 * MIB if soak() else 128 * MIB


@dataclass
class Path:
    rig: Rig
    exposer: PtProcess
    binder: PtProcess

    def black_hole(self, number: int) -> None:
        """Packets vanish until the binder has given the path up."""
        lost = len(self.binder.matching("disconnected"))
        self.rig.lan.cut(self.rig.a, self.rig.b)
        self.binder.wait("disconnected", count=lost + 1)
        self.rig.lan.restore(self.rig.a, self.rig.b)
        self.binder.wait("resumed", count=number)

    def reset(self, number: int) -> None:
        """Both kernels abort the connection."""
        self.rig.a.kill_connections(self.rig.b)
        self.binder.wait("resumed", count=number)

    def reset_one_side(self, number: int) -> None:
        """The exposer's kernel sends RST to whatever comes, for as long as the binder believes."""
        lost = len(self.binder.matching("disconnected"))
        self.rig.a.refuse(self.rig.b)
        self.binder.wait("disconnected", count=lost + 1)
        self.rig.lan.restore(self.rig.a, self.rig.b)
        self.binder.wait("resumed", count=number)


def connected(rig: Rig) -> tuple[Path, Transfer]:
    listener = rig.listen(rig.a)
    exposer, binder, port = rig.tunnel(listener)
    client = rig.dial(port)
    return Path(rig, exposer, binder), Transfer(client, rig.accept(listener), SIZE)


@pytest.mark.soak
@pytest.mark.parametrize("how", ["black_hole", "reset", "reset_one_side", "mixed"])
def test_cut_and_restored_during_a_transfer(rig: Rig, how: str) -> None:
    path, transfer = connected(rig)
    kinds = [path.black_hole, path.reset, path.reset_one_side]
    choose = random.Random(1)
    threads = transfer.start()
    for number in range(1, CUTS + 1):
        transfer.wait_for(2 * SIZE * number // (CUTS + 2))
        cut = choose.choice(kinds) if how == "mixed" else getattr(path, how)
        cut(number)
    transfer.finish(threads)
    assert len(path.binder.matching("resumed")) >= CUTS
    assert path.exposer.running()


def test_cut_again_while_resuming(rig: Rig) -> None:
    """Resets in quick succession, most of them in the middle of a handshake or a replay."""
    path, transfer = connected(rig)
    threads = transfer.start()
    transfer.wait_for(4 * MIB)
    for _ in range(60):
        rig.a.kill_connections(rig.b)
        rig.b.kill_connections(rig.a)
    transfer.finish(threads)
    assert path.binder.matching("resumed")


def test_a_short_cut_is_left_to_tcp(rig: Rig) -> None:
    """A hiccup shorter than the dead-path limit costs no reconnect."""
    path, transfer = connected(rig)
    threads = transfer.start()
    transfer.wait_for(4 * MIB)
    rig.lan.cut(rig.a, rig.b)
    path.binder.process.poll()
    threading.Event().wait(0.3)
    rig.lan.restore(rig.a, rig.b)
    transfer.finish(threads)
    assert not path.binder.matching("disconnected")


def test_many_streams_resume_together(rig: Rig) -> None:
    exposer, binder, port = rig.tunnel(rig.echo_service())
    clients = [rig.dial(port) for _ in range(60)]
    for index, client in enumerate(clients):
        ask_echo(client, b"before %d" % index)
    rig.lan.cut(rig.a, rig.b)
    for index, client in enumerate(clients):
        client.sendall(b"during %d" % index)
    binder.wait("disconnected")
    rig.lan.restore(rig.a, rig.b)
    assert binder.wait("resumed")["streams"] == len(clients)
    for index, client in enumerate(clients):
        assert client.recv(100) == b"during %d" % index
        ask_echo(client, b"after %d" % index)
    assert exposer.running()


@pytest.mark.parametrize("closer", ["client", "service"])
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_an_end_during_the_cut_arrives_after_it(rig: Rig, closer: str, how: str) -> None:
    listener = rig.listen(rig.a)
    _, binder, port = rig.tunnel(listener)
    client = rig.dial(port)
    service = rig.accept(listener)
    client.sendall(b"x")
    assert service.recv(1) == b"x"
    here, there = (client, service) if closer == "client" else (service, client)
    rig.lan.cut(rig.a, rig.b)
    if how == "fin":
        here.sendall(b"the last")
        here.shutdown(socket.SHUT_WR)
    else:
        here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        here.close()
    binder.wait("disconnected")
    rig.lan.restore(rig.a, rig.b)
    if how == "fin":
        assert there.recv(100) == b"the last"
        assert there.recv(1) == b""
        there.sendall(b"answer")
        assert here.recv(100) == b"answer"
    else:
        with pytest.raises(ConnectionResetError):
            there.recv(1)


def test_a_connection_made_during_the_cut_waits(rig: Rig) -> None:
    _, binder, port = rig.tunnel(rig.echo_service())
    ask_echo(rig.dial(port))
    rig.lan.cut(rig.a, rig.b)
    early = rig.dial(port)
    early.sendall(b"early")
    binder.wait("disconnected")
    late = rig.dial(port)
    late.sendall(b"late")
    rig.lan.restore(rig.a, rig.b)
    assert early.recv(10) == b"early"
    assert late.recv(10) == b"late"


def test_memory_does_not_grow_while_cut(rig: Rig) -> None:
    listener = rig.listen(rig.a)
    exposer, binder, port = rig.tunnel(listener)
    client = rig.dial(port)
    service = rig.accept(listener)
    before = [process.baseline() for process in (exposer, binder)]
    rig.lan.cut(rig.a, rig.b)
    sent = {}
    for name, sock in (("client", client), ("service", service)):
        sock.settimeout(2.0)
        sent[name] = 0
        try:
            while sent[name] < 512 * MIB:
                sent[name] += sock.send(pattern(sent[name], CHUNK))
        except TimeoutError:
            pass
    assert max(sent.values()) < 128 * MIB, sent
    grown = [p.memory("VmHWM") - was for p, was in zip((exposer, binder), before, strict=True)]
    assert max(grown) < 96 * MIB, [f"{size / MIB:.0f} MiB" for size in grown]
    rig.lan.restore(rig.a, rig.b)
    for name, sock in (("client", service), ("service", client)):
        sock.settimeout(PATIENCE)
        check = Verifier()
        while check.count < sent[name]:
            data = sock.recv(CHUNK)
            assert data
            check.feed(data)
    assert local_port(binder) == port
