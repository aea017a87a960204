"""Who may keep a node's handlers busy: strangers among themselves, and none of them all."""

from __future__ import annotations

import asyncio

from pt.aio.muxed import MuxedStream
from pt.errors import PtError
from pt.node.connection import Connection
from pt.node.node import NodeLimits
from pt.node.route import Route
from pt.wire.multiaddr import Multiaddr
from tests.unit.node.relays_lab import node
from tests.unit.tunnel.loopback import until

HOLD, ECHO = "/hold/1", "/echo/1"


async def hold(stream: MuxedStream, connection: Connection) -> None:
    await stream.read(1)


async def echo(stream: MuxedStream, connection: Connection) -> None:
    await stream.write(await stream.read(100))


async def asked(connection: Connection) -> bool:
    """Whether a stream of this connection is served at the other end."""
    stream = await connection.open_stream((ECHO,))
    try:
        await stream.write(b"?")
        return await stream.read(1) == b"?"
    except PtError:
        return False


def test_strangers_do_not_take_the_places_of_whom_we_dialed() -> None:
    """A few hundred idle streams, and no circuit through our relay was accepted any more."""

    async def main() -> None:
        here = node(limits=NodeLimits(handlers=8))
        stranger, relay = node(), node()
        here.handle(HOLD, hold)
        here.handle(ECHO, echo)
        for each in (here, stranger, relay):
            await each.start()
        await here.connect(relay.addresses[0], expected=relay.peer_id)
        await until(lambda: relay.connections)
        (from_relay,) = relay.connections_of(here.peer_id)
        connection = await stranger.connect(here.addresses[0])
        for _ in range(8):
            await connection.open_stream((HOLD,))
        assert await asked(from_relay)
        assert not await asked(connection)
        for each in (here, stranger, relay):
            await each.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_one_source_does_not_take_the_places_of_others() -> None:
    async def main() -> None:
        here = node(limits=NodeLimits(handlers=8))
        one, two = node(), node()
        here.handle(HOLD, hold)
        here.handle(ECHO, echo)
        for each in (here, one, two):
            await each.start()
        connection = await one.connect(here.addresses[0])
        for _ in range(8):
            await connection.open_stream((HOLD,))
        other = await two.connect(here.addresses[0])
        await until(lambda: here.connections_of(two.peer_id))
        (theirs,) = here.connections_of(two.peer_id)
        theirs.route = Route(Multiaddr.parse("/ip4/192.0.2.9/tcp/9"))
        assert await asked(other)
        assert not await asked(connection)
        connection.close()
        await until(lambda: not here._serving[connection.route.source])
        connection = await one.connect(here.addresses[0])
        assert await asked(connection)
        for each in (here, one, two):
            await each.close()

    asyncio.run(asyncio.wait_for(main(), 10))
