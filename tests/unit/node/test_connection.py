from __future__ import annotations

import asyncio

import pytest

from pt.aio.muxed import MuxedStream
from pt.errors import ClosedError, ResetError
from pt.multistream.negotiation import UnsupportedError, accept_reply, lazy_open
from pt.node.connection import Connection
from pt.yamux.frames import FIN, RST, SYN
from pt.yamux.session import ACCEPT_BACKLOG
from pt.yamux.stream import Stream
from tests.sim.loop import run
from tests.sim.world import node
from tests.unit.node.pair import half, joined
from tests.unit.node.test_link import CALM, Foreign
from tests.unit.yamux.memory import Recorder, data

ECHO = "/echo/1"
RAW = "/raw/1"


async def echo(stream: MuxedStream, connection: Connection) -> None:
    while got := await stream.read(1000):
        await stream.write(got)
    await stream.close_write()


def server(calls: list[tuple[bytes, bytes]] | None = None):
    there = node(2)
    there.handle(ECHO, echo)

    def raw(connection: Connection, stream: Stream, reply: bytes, first: bytes) -> None:
        assert calls is not None
        calls.append((reply, first))
        Recorder(stream)
        connection.link.send_small(stream, reply)

    if calls is not None:
        there.handle_raw(RAW, raw)
    return there


def test_agree_and_talk() -> None:
    async def scenario() -> None:
        async with joined(CALM, right=server()) as (left, _):
            stream = await left.open_stream(("/unknown/1", ECHO))
            await stream.write(b"hello")
            assert await stream.read_exactly(5) == b"hello"
            await stream.close_write()
            assert await stream.read(1) == b""
            await asyncio.sleep(0.01)
            assert left.link.session.streams == {}

    run(scenario())


def test_a_protocol_nobody_serves_is_declined_and_leaves_nothing() -> None:
    async def scenario() -> None:
        async with joined(CALM, right=server()) as (left, right):
            with pytest.raises(UnsupportedError):
                await left.open_stream(("/unknown/1", "/unknown/2"))
            await asyncio.sleep(0.01)
            assert left.link.session.streams == right.link.session.streams == {}

    run(scenario())


def test_an_optimistic_opening_reaches_its_handler_at_once() -> None:
    async def scenario() -> None:
        calls: list[tuple[bytes, bytes]] = []
        async with joined(CALM, right=server(calls)) as (left, _):
            stream = MuxedStream(left.new_stream(), left.link)
            await stream.write(lazy_open(RAW) + b"first")
            assert await stream.read_exactly(len(accept_reply(RAW))) == accept_reply(RAW)
            assert calls == [(accept_reply(RAW), b"first")]

    run(scenario())


def test_a_stream_of_a_known_protocol_is_written_before_the_peer_has_answered() -> None:
    async def scenario() -> None:
        async with joined(CALM, right=server()) as (left, _):
            stream = await left.open_known(ECHO)
            await stream.write(b"first")
            assert (stream.protocol, left.link.session.rtt) == (ECHO, None), "nothing came yet"
            assert await stream.read_exactly(5) == b"first"

    run(scenario())


def test_a_stream_of_a_protocol_that_was_not_known_after_all() -> None:
    async def scenario() -> None:
        async with joined(CALM, right=server()) as (left, _):
            stream = await left.open_known("/unknown/1")
            await stream.write(b"first")
            with pytest.raises(UnsupportedError, match="/unknown/1"):
                await stream.read(1)
            await stream.reset()

    run(scenario())


def test_a_stream_of_a_likely_protocol_waits_only_where_none_can_be_had_now() -> None:
    async def scenario() -> None:
        async with joined(CALM, right=server()) as (left, _):
            stream = await left.open_likely(ECHO)
            assert left.link.session.rtt is None, "nothing came yet"
            await stream.write(b"first")
            assert await stream.read_exactly(5) == b"first"
            others = [left.new_stream() for _ in range(ACCEPT_BACKLOG)]
            assert not left.link.session.can_open
            waiting = asyncio.ensure_future(left.open_likely(ECHO))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            for other in others:
                other.reset()
            left.link.flush()
            late = await waiting
            await late.write(b"late")
            assert await late.read_exactly(4) == b"late"

    run(scenario())


def test_why_a_likely_stream_was_reset_is_told_when_nobody_can_be_asked_again() -> None:
    async def scenario() -> None:
        async with joined(CALM, right=server()) as (left, right):

            def refuse(stream: Stream) -> None:
                stream.reset(7)
                right.link.flush()
                right.close("refused")

            right.link.session._on_stream = refuse
            stream = await left.open_likely(ECHO)
            with pytest.raises(ResetError) as caught:
                await stream.read(1)
            assert caught.value.code == 7
            assert left.closed

    run(scenario())


@pytest.mark.parametrize("cut", [1, 5, 20, 25, 28])
def test_an_opening_in_pieces_reaches_it_as_well(cut: int) -> None:
    async def scenario() -> None:
        calls: list[tuple[bytes, bytes]] = []
        async with joined(CALM, right=server(calls)) as (left, _):
            stream = MuxedStream(left.new_stream(), left.link)
            wire = lazy_open(RAW)
            await stream.write(wire[:cut])
            await asyncio.sleep(0.01)
            await stream.write(wire[cut:] + b"first")
            assert await stream.read_exactly(len(accept_reply(RAW))) == accept_reply(RAW)
            whole = cut == len(wire)  # then the handler takes over before more has come
            assert [first for _, first in calls] == [b"" if whole else b"first"]

    run(scenario())


def test_a_cautious_opening_of_a_raw_protocol() -> None:
    async def scenario() -> None:
        calls: list[tuple[bytes, bytes]] = []
        async with joined(CALM, right=server(calls)) as (left, _):
            await left.open_stream((RAW,))
            assert [first for _, first in calls] == [b""]

    run(scenario())


@pytest.mark.parametrize(
    "wire", [b"\xff" * 50, b"\x05hello", b"\x13/multistream/9.9.9\n", bytes(9)]
)
def test_a_stream_that_speaks_something_else_is_reset_alone(wire: bytes) -> None:
    async def scenario() -> None:
        async with joined(CALM, right=server()) as (left, right):
            stream = MuxedStream(left.new_stream(), left.link)
            await stream.write(wire)
            with pytest.raises(ResetError):
                while await stream.read(100):
                    pass
            assert not right.closed
            assert (await left.open_stream((ECHO,))).stream.id > stream.stream.id

    run(scenario())


def test_a_negotiation_has_its_time() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with joined(CALM, right=server()) as (left, right):
            stream = MuxedStream(left.new_stream(), left.link)
            started = loop.time()
            await stream.write(lazy_open(ECHO)[:10])
            with pytest.raises(ResetError):
                while await stream.read(100):
                    pass  # the other side's header comes first
            assert loop.time() - started == pytest.approx(10, abs=0.1)
            await asyncio.sleep(0.01)
            assert right.link.session.streams == {}

    run(scenario())


def test_a_stream_that_says_nothing_has_its_time() -> None:
    async def scenario() -> None:
        async with joined(CALM, right=server()) as (left, right):
            stream = left.new_stream()
            left.link.session.announce(stream)
            left.link.flush()
            await asyncio.sleep(1)
            assert len(right.link.session.streams) == 1
            await asyncio.sleep(9.1)
            assert right.link.session.streams == {}

    run(scenario())


def test_our_own_negotiation_has_its_time() -> None:
    async def scenario() -> None:
        async with half(CALM) as (connection, sock):
            with pytest.raises(TimeoutError):
                await connection.open_stream((ECHO,), timeout=3)
            assert connection.link.session.streams == {}
            said = await Foreign(sock).hear()
            assert said[-1][1] & RST

    run(scenario())


def test_an_end_before_any_agreement() -> None:
    async def scenario() -> None:
        async with half(CALM) as (connection, sock):
            foreign = Foreign(sock)
            await foreign.send(foreign.sealed(data(1, b"", SYN | FIN)))
            said = await foreign.hear()
            assert said[-1][1] & RST
            assert connection.link.session.streams == {}

    run(scenario())


def test_a_handler_that_fails_resets_its_stream_alone() -> None:
    async def fails(stream: MuxedStream, connection: Connection) -> None:
        raise OSError("no")

    async def scenario() -> None:
        there = server()
        there.handle("/fails/1", fails)
        async with joined(CALM, right=there) as (left, right):
            stream = await left.open_stream(("/fails/1",))
            with pytest.raises(ResetError):
                await stream.read(1)
            assert not right.closed

    run(scenario())


def test_openers_wait_for_the_peers_acknowledgement() -> None:
    async def scenario() -> None:
        async with half(CALM) as (connection, _):
            for _ in range(ACCEPT_BACKLOG):
                connection.new_stream()
            waiting = asyncio.ensure_future(connection.open_stream((ECHO,)))
            await asyncio.sleep(0.01)
            connection.link.session.streams[2].reset()
            await asyncio.sleep(0.01)
            assert 2 + 2 * ACCEPT_BACKLOG in connection.link.session.streams
            waiting.cancel()

    run(scenario())


def test_openers_are_told_of_the_end() -> None:
    async def scenario() -> None:
        async with half(CALM) as (connection, _):
            for _ in range(ACCEPT_BACKLOG):
                connection.new_stream()
            waiting = asyncio.ensure_future(connection.open_stream((ECHO,)))
            await asyncio.sleep(0.01)
            connection.close()
            with pytest.raises(ClosedError):
                await waiting
            with pytest.raises(ClosedError):
                await connection.open_stream((ECHO,))

    run(scenario())


def test_a_thousand_streams_at_once() -> None:
    async def scenario() -> None:
        there = server()
        async with joined(CALM, right=there) as (left, right):
            right.link.session.limits.streams = 2000

            async def talk(number: int) -> None:
                stream = await left.open_stream((ECHO,))
                await stream.write(b"%d" % number)
                await stream.close_write()
                got = b""
                while part := await stream.read(100):
                    got += part
                assert got == b"%d" % number

            await asyncio.gather(*(talk(number) for number in range(1000)))
            await asyncio.sleep(0.1)
            assert left.link.session.streams == right.link.session.streams == {}

    run(scenario())
