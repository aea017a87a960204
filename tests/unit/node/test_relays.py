"""Reservations at relays that lie, stall, refuse, die, or keep their word."""

from __future__ import annotations

import asyncio

import pytest

from pt.aio.muxed import MuxedStream
from pt.errors import UsageError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node import relays as module
from pt.node.connection import Connection
from pt.node.node import Node
from pt.relay.messages import MAX_MESSAGE, HopMessage, HopType, Limit, Status
from pt.wire import uvarint
from pt.wire.multiaddr import Multiaddr
from tests.unit.node.relays_lab import (
    Behaviour,
    Client,
    full,
    granted,
    read_hop,
    scripted,
)


def saying(answer: object) -> object:
    """A relay whose answer to everything is `answer(relay, connection)`."""

    def behave(relay: Node) -> Behaviour:
        async def hop(stream: MuxedStream, connection: Connection) -> None:
            await read_hop(stream)
            await stream.write(answer(relay, connection))  # type: ignore[operator]

        return hop

    return behave


def test_a_reservation_is_held_and_published() -> None:
    async def main() -> None:
        limit = Limit(120, 131072)
        async with (
            scripted(saying(lambda r, c: granted(r, c, limit=limit))) as relay,
            Client(full(relay)) as client,
        ):
            await client.until(lambda news: news)
            (news,) = client.news
            assert (news.held, news.relay, news.limit) == (True, relay.peer_id, limit)
            wanted = full(relay).through_circuit()
            assert client.relays.addresses == (wanted,)
            assert wanted in client.node.addresses
            assert client.relays.holds(relay.peer_id)
            assert await client.relays.wait_first(1.0)

    asyncio.run(main())


LIES = {
    "expired": (lambda r, c: granted(r, c, expire=-5), "expired"),
    "forged voucher": (
        lambda r, c: granted(r, c, signer=PrivateKey.generate(b"x" * 32)),
        "voucher is not valid",
    ),
    "no reservation in it": (
        lambda r, c: HopMessage(HopType.STATUS, status=Status.OK).encode(),
        "without saying until when",
    ),
    "wrong type": (lambda r, c: granted(r, c, kind=HopType.CONNECT), "without a status"),
    "refusal": (
        lambda r, c: HopMessage(HopType.STATUS, status=Status.RESERVATION_REFUSED).encode(),
        "full",
    ),
    "permission": (
        lambda r, c: HopMessage(HopType.STATUS, status=Status.PERMISSION_DENIED).encode(),
        "does not serve us",
    ),
    "a status nobody knows": (
        lambda r, c: HopMessage(HopType.STATUS, status=999).encode(),
        "status 999",
    ),
    "cut off": (lambda r, c: granted(r, c)[:40], "closed the stream"),
    "nothing": (lambda r, c: b"", "closed the stream"),
    "garbage": (lambda r, c: b"\x05\xff\xff\xff\xff\xff", ""),
    "too long": (lambda r, c: uvarint.encode(MAX_MESSAGE + 1) + b"x" * 100, ""),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_relay_that_lies_is_not_used(lie: str) -> None:
    answer, why = LIES[lie]

    async def main() -> None:
        async with scripted(saying(answer)) as relay, Client(full(relay)) as client:
            await client.until(lambda news: news)
            assert not client.news[0].held
            assert why in client.news[0].detail
            assert client.relays.addresses == ()
            assert not client.relays.holds(relay.peer_id)
            assert not await client.relays.wait_first(5.0)

    asyncio.run(main())


def test_a_relay_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESERVE_TIMEOUT", 0.3)

    def behave(_: Node) -> Behaviour:
        async def hop(stream: MuxedStream, connection: Connection) -> None:
            await asyncio.Event().wait()

        return hop

    async def main() -> None:
        async with scripted(behave) as relay, Client(full(relay)) as client:
            await client.until(lambda news: news)
            assert client.news[0].detail == "no answer in time"

    asyncio.run(main())


def test_a_relay_that_dies_is_replaced_by_one_that_was_met() -> None:
    keep = saying(granted)

    async def main() -> None:
        async with (
            scripted(keep) as one,
            scripted(keep) as two,
            scripted(keep) as met,
            Client(full(one), full(two)) as client,
        ):
            await client.until(lambda news: sum(each.held for each in news) == 2)
            connection = await client.node.connect(full(met))
            await connection.identify()
            assert not client.relays.holds(met.peer_id)  # two are enough
            await one.close()
            await client.until(lambda news: sum(each.held for each in news) == 3)
            assert client.relays.holds(met.peer_id)
            assert client.relays.holds(two.peer_id)
            assert not client.relays.holds(one.peer_id)
            assert set(client.relays.addresses) == {
                full(two).through_circuit(),
                connection.remote_addr.with_peer(met.peer_id.raw).through_circuit(),
            }

    asyncio.run(main())


def test_a_relay_that_comes_back_is_used_again() -> None:
    async def main() -> None:
        async with scripted(saying(granted)) as relay, Client(full(relay)) as client:
            await client.until(lambda news: news)
            for connection in list(relay.connections):
                connection.close("restarting")
            await client.until(lambda news: [each.held for each in news] == [True, False, True])
            assert client.relays.holds(relay.peer_id)

    asyncio.run(main())


def test_peers_met_that_are_relays_fill_up_what_is_missing() -> None:
    async def main() -> None:
        async with scripted(saying(granted)) as met, Client() as client:
            connection = await client.node.connect(full(met))
            await connection.identify()
            await client.until(lambda news: news)
            assert client.news[0].held
            assert not client.news[0].given
            assert client.relays.addresses == (full(met).through_circuit(),)

    asyncio.run(main())


def test_relays_that_somebody_else_met_fill_up_what_is_missing() -> None:
    async def main() -> None:
        async with scripted(saying(granted)) as relay, Client() as client:
            client.relays.offer(relay.peer_id, relay.addresses)
            client.relays.offer(client.node.peer_id, client.node.addresses)
            client.relays.offer(PeerId(b"\x00\x01x"), ())
            await client.until(lambda news: news)
            (news,) = client.news
            assert (news.relay, news.held, news.given) == (relay.peer_id, True, False)
            assert client.relays.addresses == (full(relay).through_circuit(),)

    asyncio.run(main())


def test_who_does_not_want_strangers_relays_takes_none_that_is_offered() -> None:
    async def main() -> None:
        async with scripted(saying(granted)) as relay, Client(meet=False) as client:
            client.relays.offer(relay.peer_id, relay.addresses)
            assert not client.relays._core._relays

    asyncio.run(main())


def test_whoever_does_not_want_strangers_relays_meets_none() -> None:
    async def main() -> None:
        async with scripted(saying(granted)) as met, Client(meet=False) as client:
            connection = await client.node.connect(full(met))
            await connection.identify()
            assert len(client.node.on_identified) == 1  # where we are seen is noted

    asyncio.run(main())


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/127.0.0.1/tcp/4001",
        "/ip4/127.0.0.1/udp/4001/quic/p2p/12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq",
    ],
)
def test_what_is_no_relays_address(text: str) -> None:
    with pytest.raises(UsageError, match="not a relay's address"):
        module.candidates((Multiaddr.parse(text),))
