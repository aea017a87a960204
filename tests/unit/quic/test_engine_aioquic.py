from __future__ import annotations

import pytest

from pt.quic.engine_aioquic import AioquicEngine
from tests.contract.quic_world import Port, World, joined, two_ports


def ports(world: World, **options: object) -> tuple[Port, Port]:
    return two_ports(world, AioquicEngine, AioquicEngine, **options)


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
