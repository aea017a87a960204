from __future__ import annotations

import random

import pytest

from pt.quic.engine import Admission
from pt.quic.engine_aioquic import Aioquic, AioquicEngine
from pt.quic.packets import put_varint
from tests.contract.quic_world import Port, World, joined

SERVER, CLIENT = ("11.0.0.1", 4001), ("11.0.0.2", 4002)


def ports(world: World, **options: object) -> tuple[Port, Port]:
    return (
        Port(world, "client", Aioquic(), CLIENT, serving=False, **options),
        Port(world, "server", Aioquic(), SERVER, **options),
    )


def test_an_initial_that_cannot_be_decrypted_ends_in_silence() -> None:
    world = World()
    _, server = ports(world)
    head = b"\xc0\x00\x00\x00\x01\x08original\x06source\x00"
    junk = head + put_varint(1180) + random.Random(1).randbytes(1180)
    server.receive(junk, len(junk), CLIENT)
    assert len(server.peers) == 1
    world.run(60, lambda: not server.peers)
    assert world.network.sent[SERVER] == 0


def test_a_server_engine_before_its_first_datagram() -> None:
    world = World()
    _, server = ports(world)
    admission = Admission(b"original", b"original", b"source", validated=False)
    engine = Aioquic().accept(server.config, admission, CLIENT, 0.0)
    assert engine.trains(0.0) == []
    assert engine.next_timeout() == 10.0
    assert b"original" in engine.connection_ids


def test_a_fault_of_the_library_closes_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    ours, theirs = joined(world, *ports(world))
    assert isinstance(theirs.engine, AioquicEngine)

    def fail(*args: object) -> None:
        raise IndexError("what nobody expected")

    monkeypatch.setattr(theirs.engine._conn, "receive_datagram", fail)
    ours.open().send(b"x")
    world.poke(ours.port)
    world.run(1, lambda: ours.closed is not None)
    assert theirs.closed is not None
    assert (theirs.closed.code, theirs.closed.reason) == (1, "IndexError")


def test_reno_can_be_chosen() -> None:
    world = World()
    ours, _ = joined(world, *ports(world, congestion="reno"))
    assert isinstance(ours.engine, AioquicEngine)
    assert "Reno" in type(ours.engine._conn.recovery._cc).__name__
