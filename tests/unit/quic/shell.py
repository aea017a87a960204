"""QUIC ports on loopback: real sockets, whichever engine, and peers that misbehave."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from pt.aio.udp import Address, UdpPort
from pt.identity.peer_id import PeerId
from pt.muxer import Stream
from pt.quic.aio import QuicLink, QuicPort
from pt.quic.certificate import Certificate
from pt.quic.engine import Config, EngineFactory
from pt.quic.events import HandshakeDone
from pt.quic.limits import Limits
from pt.quic.select import default, factories
from tests.contract.carriers import End
from tests.contract.quic_world import EPOCH, certificate, identity

__all__ = ["ENGINES", "Endpoint", "Raw", "Side", "first_datagram"]

ENGINES = factories()


class Side(SimpleNamespace):
    """What `End` wants of a connection."""

    link: QuicLink

    def new_stream(self) -> Stream:
        return self.link.session.open()


class Endpoint:
    """A UDP port of its own with QUIC on it; `inbound` has the ends of streams that came."""

    def __init__(
        self,
        name: str,
        engine: EngineFactory | None = None,
        *,
        at: Address = ("127.0.0.1", 0),
        serving: bool = True,
        admit: Callable[[Address, Iterable[Address]], bool] = lambda _, __: True,
        its: Certificate | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.name = name
        self.udp = UdpPort(at)
        self.config = Config(
            certificate=its or certificate(name),
            reset_key=name.encode().ljust(32, b"r"),
            random=os.urandom,
            unix_time=lambda: EPOCH,
            limits=limits or Limits(),
        )
        self.factory = engine or default()
        self.links: list[QuicLink] = []
        """Those that were established, in either direction."""
        self.reasons: dict[QuicLink, str] = {}
        self.inbound: asyncio.Queue[End] = asyncio.Queue()
        self.changed = asyncio.Event()
        self.port = QuicPort(
            self.udp,
            self.config,
            lambda _: self.factory,
            accept=self.established if serving else None,
            admit=admit,
        )

    @property
    def address(self) -> Address:
        return self.udp.address

    @property
    def peer_id(self) -> PeerId:
        return PeerId.from_public_key(identity(self.name).public)

    def established(self, link: QuicLink, event: HandshakeDone) -> None:
        link.session.on_stream = lambda stream: self.inbound.put_nowait(
            End(Side(link=link), stream)  # type: ignore[arg-type]
        )
        link.on_lost = lambda reason: self.lost(link, reason)
        self.links.append(link)
        self.changed.set()

    def lost(self, link: QuicLink, reason: str) -> None:
        assert link not in self.reasons
        self.reasons[link] = reason
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that comes with a connection's begin or end."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    async def dial(self, other: Endpoint | Address, **options: Any) -> QuicLink:
        target, expected = other, options.get("expected")
        if isinstance(other, Endpoint):
            target, expected = other.address, expected or other.peer_id
        assert isinstance(target, tuple)
        return await self.port.dial(target, expected, self.established)

    async def joined(self, other: Endpoint) -> tuple[QuicLink, QuicLink]:
        """A connection to `other`: both ends."""
        count = len(other.links)
        link = await self.dial(other)
        await other.until(lambda: len(other.links) > count)
        return link, other.links[-1]

    def vanish(self) -> None:
        """Hear and say nothing any more, without a word of the network."""
        self.udp.use_trains(lambda *_: None, lambda: None)
        self.udp.send_train = self.udp.send = lambda *_: None  # type: ignore[assignment]

    def close(self) -> None:
        self.port.close()
        self.udp.close()


async def streams(link: QuicLink, other: Endpoint, *, reading: bool = True) -> tuple[End, End]:
    """Both ends of a new stream."""
    ours = End(Side(link=link))  # type: ignore[arg-type]
    ours.send(b"!")
    theirs = await other.inbound.get()
    await theirs.hears(1)
    theirs.received.clear()
    theirs.reading = reading
    return ours, theirs


async def talk(link: QuicLink, other: Endpoint, size: int = 10_000) -> None:
    """Show that a connection works."""
    ours, theirs = await streams(link, other)
    data = os.urandom(size)
    ours.send(data, end=True)
    assert await theirs.hears_all() == data
    theirs.send(data[::-1], end=True)
    assert await ours.hears_all() == data[::-1]


class Raw:
    """A socket that sends what a test makes up."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((host, 0))
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.sent = 0

    @property
    def address(self) -> Address:
        host, port = self.sock.getsockname()
        return str(host), int(port)

    def send(self, data: bytes, to: Endpoint | Address) -> None:
        self.sent += len(data)
        self.sock.sendto(data, to.address if isinstance(to, Endpoint) else to)

    def got(self) -> list[bytes]:
        """All that has come by now."""
        datagrams = []
        while True:
            try:
                datagrams.append(self.sock.recv(65_535))
            except BlockingIOError:
                return datagrams

    def close(self) -> None:
        self.sock.close()


def first_datagram(client: Endpoint, server: Endpoint, now: float) -> bytes:
    """An Initial that a server takes, of a connection that goes no further."""
    engine = client.factory.connect(client.config, server.address, now)
    (train,) = engine.trains(now)
    return train.segments[0]
