"""Relays that do what a test tells them, and nodes around them, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

from pt.aio.muxed import MuxedStream
from pt.identity.keys import PrivateKey
from pt.node.connection import Connection
from pt.node.node import Node
from pt.node.relays import RelayNews, Relays
from pt.relay import aio as relay_aio
from pt.relay.messages import HOP, HopMessage, HopType, Limit, Reservation, Status
from pt.relay.voucher import Voucher
from pt.wire.multiaddr import Multiaddr

LOOPBACK = Multiaddr.tcp("127.0.0.1", 0)
Behaviour = Callable[[MuxedStream, Connection], Awaitable[None]]


def node(**options: object) -> Node:
    return Node(
        identity=PrivateKey.generate(os.urandom(32)), listen=(LOOPBACK,), congestion="", **options
    )


def full(of: Node) -> Multiaddr:
    return of.addresses[0].with_peer(of.peer_id.raw)


def granted(
    relay: Node,
    client: Connection,
    *,
    expire: float = 3600.0,
    signer: PrivateKey | None = None,
    limit: Limit | None = None,
    kind: HopType = HopType.STATUS,
    status: Status = Status.OK,
) -> bytes:
    """The answer to RESERVE, true or not."""
    until = int(time.time() + expire)
    voucher = Voucher(relay.peer_id, client.peer_id, until).sealed(signer or relay.identity)
    return HopMessage(
        kind,
        reservation=Reservation(until, (full(relay),), voucher),
        limit=limit,
        status=status,
    ).encode()


@contextlib.asynccontextmanager
async def scripted(behave: Callable[[Node], Behaviour]) -> AsyncIterator[Node]:
    """A node that answers on hop streams as told."""
    relay = node()
    relay.handle(HOP, behave(relay))
    await relay.start()
    try:
        yield relay
    finally:
        await relay.close()


class Client:
    """A node that wants reservations; `news` is what it heard of them."""

    def __init__(self, *relays: Multiaddr, **options: object) -> None:
        self.node = node()
        self.news: list[RelayNews] = []
        self._waiters: list[asyncio.Future[None]] = []
        self.relays = Relays(self.node, given=relays, on_news=self._heard, **options)

    def _heard(self, news: RelayNews) -> None:
        self.news.append(news)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, true: Callable[[list[RelayNews]], object]) -> None:
        async with asyncio.timeout(10):
            while not true(self.news):
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.append(waiter)
                await waiter

    async def __aenter__(self) -> Self:
        await self.node.start()
        self.relays.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.node.close()
        await self.relays.close()


async def read_hop(stream: MuxedStream) -> HopMessage:
    return await relay_aio.read_hop(stream)
