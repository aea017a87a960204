"""A real relay in this process, and peers that ask it for things, well-behaved or not."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Self, TypeVar

from pt.aio.muxed import MuxedStream
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node.circuits import Circuits
from pt.node.connection import Connection
from pt.node.node import Node
from pt.node.state import StateDir
from pt.relay import aio as relay_aio
from pt.relay.messages import AUTH, HOP, HopMessage, HopType, Peer
from pt.relay.raw import AuthAnswer, secret_key
from pt.relayd.config import RelayConfig
from pt.relayd.server import RelayServer
from pt.tunnel.events import Event
from pt.wire.multiaddr import Multiaddr

SECRET = "the-secret-of-unit-tests"
LOOPBACK = Multiaddr.tcp("127.0.0.1", 0)
E = TypeVar("E", bound=Event)


class Guest:
    """A peer of the relay."""

    def __init__(
        self, relay: RelayServer, key: PrivateKey | None = None, *, over: str = "tcp"
    ) -> None:
        self.relay = relay
        self.over = over
        self.node = Node(
            identity=key or PrivateKey.generate(os.urandom(32)),
            listen=(LOOPBACK,) if over == "tcp" else (LOOPBACK, Multiaddr.quic("127.0.0.1", 0)),
            congestion="",
        )
        self.circuits = Circuits(self.node, accepts=lambda _: True)
        self.connection: Connection

    async def __aenter__(self) -> Self:
        await self.node.start()
        address = next(each for each in self.relay.addresses if each.transport == self.over)
        self.connection = await self.circuits.relay_connection(address)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.node.close()
        await self.circuits.close()

    @property
    def peer_id(self) -> PeerId:
        return self.node.peer_id

    async def ask(self, message: bytes, protocol: str = HOP) -> tuple[MuxedStream, HopMessage]:
        """Send something on a hop stream; its answer."""
        stream = await self.connection.open_stream((protocol,))
        await stream.write(message)
        async with asyncio.timeout(5):
            return stream, await relay_aio.read_hop(stream)

    async def reserve(self) -> HopMessage:
        return (await self.ask(HopMessage(HopType.RESERVE).encode()))[1]

    async def connect(self, target: PeerId, protocol: str = HOP) -> tuple[MuxedStream, HopMessage]:
        return await self.ask(HopMessage(HopType.CONNECT, peer=Peer(target)).encode(), protocol)

    async def prove(self, secret: str | None = SECRET) -> AuthAnswer:
        stream = await self.connection.open_stream((AUTH,))
        return await relay_aio.authenticate(
            stream,
            None if secret is None else secret_key(secret),
            client=self.peer_id,
            relay=self.connection.peer_id,
            binding=self.connection.handshake_hash,
        )


class Lab:
    """The relay and what it said."""

    def __init__(self, tmp: Path, **options: object) -> None:
        self.said: list[Event] = []
        self._news = asyncio.Event()
        options.setdefault("listen", (LOOPBACK,))
        self.config = RelayConfig(**options)
        self.relay = RelayServer(self.config, StateDir(tmp / "relay"), self._heard)

    def _heard(self, event: Event) -> None:
        self.said.append(event)
        self._news.set()

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.said if isinstance(event, kind)]

    async def until(self, true: Callable[[], object], seconds: float = 10.0) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not true():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(self.said) from None

    def guest(self, over: str = "tcp") -> Guest:
        return Guest(self.relay, over=over)


@contextlib.asynccontextmanager
async def lab(tmp: Path, **options: object) -> AsyncIterator[Lab]:
    made = Lab(tmp, **options)
    await made.relay.start()
    try:
        yield made
    finally:
        await made.relay.close()
