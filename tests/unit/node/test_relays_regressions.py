"""Reservations: relays and strangers that make much of little, and clocks that are wrong."""

from __future__ import annotations

import asyncio
import time

import pytest

from pt.aio.muxed import MuxedStream
from pt.identify.messages import Identify
from pt.node import relays as module
from pt.node.connection import Connection
from pt.node.node import Node
from pt.relay import autorelay
from pt.relay.messages import AUTH, HOP, Status
from pt.relay.raw import AuthAnswer, Notice
from pt.wire.multiaddr import Multiaddr
from tests.unit.node.relays_lab import Behaviour, Client, full, granted, node, read_hop, scripted


def granting(relay: Node) -> Behaviour:
    async def hop(stream: MuxedStream, connection: Connection) -> None:
        await read_hop(stream)
        await stream.write(granted(relay, connection))

    return hop


def test_a_relay_that_says_without_end_that_it_stops_is_heard_once() -> None:
    """Each byte of it became a message to every session and every connected peer."""

    async def main() -> None:
        async with scripted(granting) as relay:
            said = asyncio.Event()

            async def auth(stream: MuxedStream, connection: Connection) -> None:
                await stream.read_exactly(33)
                await stream.write(bytes((AuthAnswer.STRANGER,)))
                await said.wait()
                await stream.write(bytes((Notice.DRAINING,)) * 1000)
                await stream.read(1)

            relay.handle(AUTH, auth)
            async with Client(full(relay)) as client:
                await client.until(lambda news: any(each.held for each in news))
                said.set()
                await client.until(lambda news: any("stop" in each.detail for each in news))
                await asyncio.sleep(0.1)
                assert sum("stop" in each.detail for each in client.news) == 1

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_reservation_is_renewed_in_time_by_a_clock_that_is_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It stands an hour, as the relay counts; ten hours by a clock that is nine behind."""
    real = time.time

    class Behind:
        monotonic = staticmethod(time.monotonic)

        @staticmethod
        def time() -> float:
            return real() - 9 * 3600

    async def main() -> None:
        async with scripted(granting) as relay, Client(full(relay)) as client:
            await client.until(lambda news: any(each.held for each in news))
            due = client.relays._core.next_at(time.monotonic())
            assert due is not None
            assert due - time.monotonic() < 3600

    monkeypatch.setattr(module, "time", Behind)
    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_renewal_that_is_refused_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody woke up for it before the reservation had expired."""
    monkeypatch.setattr(autorelay, "REFRESH_AT", 0.0)
    monkeypatch.setattr(autorelay, "REFRESH_EARLIEST", 0.05)
    monkeypatch.setattr(autorelay, "REFRESH_RETRY", 0.05)

    async def main() -> None:
        asked = 0
        renewed = asyncio.Event()

        def refusing_the_second(relay: Node) -> Behaviour:
            async def hop(stream: MuxedStream, connection: Connection) -> None:
                nonlocal asked
                await read_hop(stream)
                asked += 1
                status = Status.RESERVATION_REFUSED if asked == 2 else Status.OK
                await stream.write(granted(relay, connection, status=status))
                if asked == 4:
                    renewed.set()

            return hop

        async with scripted(refusing_the_second) as relay, Client(full(relay)) as client:
            await renewed.wait()
            assert [each.held for each in client.news] == [True]

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_stranger_that_calls_itself_a_relay_by_name_is_not_looked_up() -> None:
    """The name might stand for our own host, or one of our network."""

    async def main() -> None:
        stranger = node()
        await stranger.start()
        async with Client() as client:
            connection = await client.node.connect(stranger.addresses[0])
            connection.identified = Identify(
                public_key=stranger.identity.public.to_protobuf(),
                protocols=(HOP,),
                listen_addresses=(Multiaddr.parse("/dns4/example.com/tcp/22"),),
            )
            client.relays._met(connection)
            assert not client.relays._core._relays
        await stranger.close()

    asyncio.run(asyncio.wait_for(main(), 10))
