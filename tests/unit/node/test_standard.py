from __future__ import annotations

import asyncio

import pytest

from pt.aio.muxed import MuxedStream
from pt.errors import PtError
from pt.identify.messages import Identify
from pt.node import standard
from pt.node.node import Node
from pt.node.route import Route
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run
from tests.sim.world import node
from tests.unit.node.pair import half, joined
from tests.unit.node.test_link import CALM


def peer(seed: int) -> Node:
    made = node(seed)
    standard.install(made)
    made.announce = (
        Multiaddr.parse("/ip4/127.0.0.1/tcp/1"),
        Multiaddr.parse("/ip4/192.168.1.2/tcp/1"),
        Multiaddr.parse("/ip4/8.8.8.8/tcp/1"),
    )
    return made


def test_both_sides_identify_each_other() -> None:
    async def scenario() -> None:
        async with joined(CALM, left=peer(1), right=peer(2)) as (left, right):
            one, two = await asyncio.gather(left.identify(), right.identify())
            assert one.agent_version == two.agent_version == "pt/0.1.0"
            assert one.protocols == (standard.IDENTIFY, standard.IDENTIFY_PUSH, standard.PING)
            assert len(one.listen_addresses) == 3  # on loopback everything is told
            assert one.observed == right.remote_addr
            assert left.identified == one
            await asyncio.sleep(0.1)
            assert left.link.session.streams == right.link.session.streams == {}

    run(scenario())


@pytest.mark.parametrize(
    ("remote", "told"),
    [
        ("/ip4/127.0.0.1/tcp/9", ["127.0.0.1", "192.168.1.2", "8.8.8.8"]),
        ("/ip4/192.168.1.9/tcp/9", ["192.168.1.2", "8.8.8.8"]),
        ("/ip4/9.9.9.9/tcp/9", ["8.8.8.8"]),
    ],
)
def test_private_addresses_stay_private(remote: str, told: list[str]) -> None:
    async def scenario() -> None:
        async with joined(CALM, left=peer(1), right=peer(2)) as (left, right):
            right.route = Route(Multiaddr.parse(remote))
            said = standard.our_identify(right.node, right)
            assert [address.host[1] for address in said.listen_addresses] == told

    run(scenario())


def test_what_cannot_be_dialed_from_outside_is_told_on_the_lan_alone() -> None:
    async def scenario() -> None:
        async with joined(CALM, left=peer(1), right=peer(2)) as (left, right):
            one, two = (Multiaddr.tcp("11.0.0.1", port) for port in (1, 2))
            left.node.announce, left.node.unreachable = (one, two), frozenset({two})
            told = {}
            for host in ("11.9.9.9", "192.168.1.9"):
                left.route = Route(Multiaddr.tcp(host, 1))
                told[host] = (await right.identify()).listen_addresses
            assert set(told["11.9.9.9"]) == {one}
            assert {one, two} <= set(told["192.168.1.9"])

    run(scenario())


def test_somebody_elses_identity_is_refused() -> None:
    async def scenario() -> None:
        liar = peer(2)
        async with joined(CALM, left=peer(1), right=liar) as (left, _):

            async def lie(stream: MuxedStream, connection: object) -> None:
                key = node(3).identity.public.to_protobuf()
                await stream.write(Identify(public_key=key).encode())
                await stream.close_write()

            liar.handle(standard.IDENTIFY, lie)
            with pytest.raises(PtError):
                await left.identify()
            assert left.identified is None
            await asyncio.sleep(0.1)
            assert left.link.session.streams == {}

    run(scenario())


def test_an_identity_that_never_ends_has_its_time_and_leaves_no_stream() -> None:
    async def scenario() -> None:
        silent = peer(2)
        async with joined(CALM, left=peer(1), right=silent) as (left, right):

            async def hang(stream: MuxedStream, connection: object) -> None:
                await asyncio.sleep(1e6)

            silent.handle(standard.IDENTIFY, hang)
            with pytest.raises(TimeoutError):
                await left.identify()
            await asyncio.sleep(0.1)
            assert left.link.session.streams == right.link.session.streams == {}

    run(scenario())


def test_a_push_replaces_what_was_known() -> None:
    async def scenario() -> None:
        async with joined(CALM, left=peer(1), right=peer(2)) as (left, right):
            await asyncio.gather(left.identify(), right.identify())
            left.node.handle("/new/1", lambda stream, connection: asyncio.sleep(0))
            standard.push_all(left.node)
            await asyncio.sleep(0.1)
            assert "/new/1" in right.identified.protocols
            assert left.link.session.streams == right.link.session.streams == {}

    run(scenario())


def test_nobody_is_pushed_to_who_does_not_take_it() -> None:
    async def scenario() -> None:
        async with joined(CALM, left=peer(1), right=peer(2)) as (left, _):
            standard.push_all(left.node)
            assert left.link.session._next_id == 1

    run(scenario())


def test_ping() -> None:
    async def scenario() -> None:
        async with joined(CALM, left=peer(1), right=peer(2)) as (left, right):
            assert 0 <= await left.ping() < 1
            assert 0 <= await right.ping() < 1
            await asyncio.sleep(0.1)
            assert left.link.session.streams == right.link.session.streams == {}

    run(scenario())


@pytest.mark.parametrize("answer", [b"", b"x" * 32])
def test_a_ping_that_is_not_answered_leaves_no_stream(answer: bytes) -> None:
    async def scenario() -> None:
        odd = peer(2)
        async with joined(CALM, left=peer(1), right=odd) as (left, right):

            async def respond(stream: MuxedStream, connection: object) -> None:
                await stream.write(answer)
                await asyncio.sleep(1e6)

            odd.handle(standard.PING, respond)
            with pytest.raises((TimeoutError, PtError)):
                await left.ping()
            await asyncio.sleep(0.1)
            assert left.link.session.streams == right.link.session.streams == {}

    run(scenario())


def test_a_new_connection_is_greeted_a_moment_later() -> None:
    async def scenario() -> None:
        async with joined(CALM, left=peer(1), right=peer(2)) as (left, _):
            standard.greet(left.node, left)
            await asyncio.sleep(standard.GREET_DELAY / 2)
            assert left.identified is None
            await asyncio.sleep(standard.GREET_DELAY)
            assert left.identified is not None

    run(scenario())


def test_a_connection_that_ended_meanwhile_is_not_greeted() -> None:
    async def scenario() -> None:
        async with half(CALM) as (connection, _):
            standard.greet(connection.node, connection)
            connection.close()
            await asyncio.sleep(1)
            assert len(connection.node._scope) == 0

    run(scenario())


def test_a_peer_that_stalls_keeps_nobody_else_from_a_push() -> None:
    """It once froze the publication on the LAN, too, which waits for all pushes."""

    async def scenario() -> None:
        here = peer(1)
        stalled, other = peer(2), peer(3)
        async with (
            joined(CALM, left=here, right=stalled) as (first, far),
            joined(CALM, left=here, right=other) as (second, heard),
        ):
            await asyncio.gather(first.identify(), second.identify())
            await asyncio.sleep(0.1)
            far.link._loop.remove_reader(far.link._fd)  # it reads nothing any more
            here.connections = [first, second]  # type: ignore[assignment]  # in this order
            here.handle("/new/1", lambda stream, connection: asyncio.sleep(0))
            standard.push_all(here)
            await asyncio.sleep(1)
            assert heard.identified is not None
            assert "/new/1" in heard.identified.protocols
            await asyncio.sleep(11)
            assert len(here._scope) == 0
            assert first.link.session.streams == {}
            here.connections = {first, second}

    run(scenario())


def test_a_ping_stream_without_pings_is_given_up() -> None:
    async def scenario() -> None:
        async with joined(CALM, left=peer(1), right=peer(2)) as (left, right):
            stream = await left.open_stream((standard.PING,))
            for _ in range(5):
                await stream.write(bytes(32))
                assert await stream.read_exactly(32) == bytes(32)
                await asyncio.sleep(45)
            assert right.link.session.streams
            await asyncio.sleep(20)
            assert right.link.session.streams == {}

    run(scenario())


def test_an_identify_that_is_not_taken_is_given_up() -> None:
    async def scenario() -> None:
        async with joined(CALM, left=peer(1), right=peer(2)) as (left, right):
            stream = await left.open_stream((standard.PING,))
            (theirs,) = right.link.session.streams.values()
            right.link._blocked = True  # as if the peer did not read
            right.node.serve(standard.IDENTIFY, MuxedStream(theirs, right.link), right)
            await asyncio.sleep(5)
            assert len(right.node._strangers) > 0
            await asyncio.sleep(60)
            assert len(right.node._strangers) == 0
            await stream.reset()

    run(scenario())
