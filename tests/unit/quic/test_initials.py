from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.quic.engine import EngineFactory
from pt.quic.initials import opens, refusal
from pt.quic.packets import parse_header
from pt.quic.select import factories
from tests.contract.quic_world import SERVER, Port, World


@pytest.fixture(scope="module", params=factories(), ids=lambda engine: engine.name)
def initial(request: pytest.FixtureRequest) -> bytes:
    engine: EngineFactory = request.param
    world = World()
    client = Port(world, "client", engine, ("11.0.0.2", 1), serving=False)
    (train,) = client.connect(SERVER).engine.trains(world.now)
    return train.segments[0]


def test_genuine_ones(initial: bytes) -> None:
    assert opens(initial)
    assert opens(initial + b"whatever follows")


def test_any_change_is_noticed(initial: bytes) -> None:
    header = parse_header(initial)
    assert header is not None
    for at in range(header.end):
        changed = bytearray(initial)
        changed[at] ^= 0x01
        assert not opens(bytes(changed)), at
    assert not opens(initial[: header.end - 1])


@given(st.binary(min_size=1, max_size=1300))
def test_junk(data: bytes) -> None:
    assert not opens(data)


@pytest.mark.parametrize("engine", factories(), ids=lambda engine: engine.name)
def test_a_refusal_ends_the_dial(engine: EngineFactory) -> None:
    world = World()
    client = Port(world, "client", engine, ("11.0.0.2", 1), serving=False)
    peer = client.connect(SERVER)
    (train,) = peer.engine.trains(world.now)
    answer = refusal(train.segments[0])
    assert len(answer) < 100
    client.receive(answer[:-1] + b"!", len(answer), SERVER)
    world.settle()
    assert peer.closed is None
    client.receive(answer, len(answer), SERVER)
    world.settle()
    assert peer.closed is not None
    assert peer.closed.by_peer
    assert (peer.closed.code, peer.closed.reason) == (0x2, "too many connections")
