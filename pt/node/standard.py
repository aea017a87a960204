"""The protocols every libp2p peer serves: identify, identify/push and ping.

Source: libp2p specs `identify/README.md`, `ping/ping.md`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from pt.aio.stream import ResetOnError
from pt.identify import aio as identify_aio
from pt.identify.messages import Identify
from pt.identity.peer_record import PeerRecord
from pt.ping import aio as ping_aio

if TYPE_CHECKING:
    from pt.aio.muxed import MuxedStream
    from pt.node.connection import Connection
    from pt.node.node import Node
    from pt.wire.multiaddr import Multiaddr

__all__ = [
    "IDENTIFY",
    "IDENTIFY_PUSH",
    "PING",
    "greet",
    "identify",
    "install",
    "our_identify",
    "ping",
    "push_all",
]

IDENTIFY: Final = "/ipfs/id/1.0.0"
IDENTIFY_PUSH: Final = "/ipfs/id/push/1.0.0"
PING: Final = "/ipfs/ping/1.0.0"
PROTOCOL_VERSION: Final = "ipfs/0.1.0"
IDENTIFY_TIMEOUT: Final = 10.0
GREET_DELAY: Final = 0.25
"""Seconds before a new connection's peer is asked who it is: the tunnel's first bytes go first."""
PING_TIMEOUT: Final = 10.0


def install(node: Node) -> None:
    """Serve the standard protocols on `node`."""

    async def on_identify(stream: MuxedStream, connection: Connection) -> None:
        async with asyncio.timeout(IDENTIFY_TIMEOUT):
            await identify_aio.answer(stream, our_identify(node, connection))

    async def on_push(stream: MuxedStream, connection: Connection) -> None:
        async with asyncio.timeout(IDENTIFY_TIMEOUT):
            said = await identify_aio.ask(stream)
        _remember(connection, said.verified(connection.peer_id))

    async def on_ping(stream: MuxedStream, connection: Connection) -> None:
        await ping_aio.respond(stream)

    node.handle(IDENTIFY, on_identify, limited=True)
    node.handle(IDENTIFY_PUSH, on_push, limited=True)
    node.handle(PING, on_ping, limited=True)


def _remember(connection: Connection, said: Identify) -> None:
    connection.identified = said
    for told in connection.node.on_identified:
        told(connection)


def our_identify(node: Node, connection: Connection) -> Identify:
    """What we say to this peer; a peer beyond the LAN is not told our private addresses."""
    addresses = _fit_for(node, connection.remote_addr)
    record = PeerRecord(node.peer_id, time.time_ns(), addresses).sealed(node.identity)
    return Identify(
        public_key=node.identity.public.to_protobuf(),
        listen_addresses=addresses,
        protocols=node.protocols,
        observed=connection.remote_addr.without_peer(),
        protocol_version=PROTOCOL_VERSION,
        agent_version=node.agent,
        signed_record=record,
    )


def _fit_for(node: Node, remote: Multiaddr) -> tuple[Multiaddr, ...]:
    if remote.is_loopback:
        return node.addresses
    if remote.is_private:
        return tuple(address for address in node.addresses if not address.is_loopback)
    return tuple(address for address in node.published if address.is_public)


def greet(node: Node, connection: Connection) -> None:
    """Ask a new connection's peer who it is, in the background and a moment later."""

    def start() -> None:
        if connection.curious and not connection.closed:
            node.spawn(_ask(connection))

    asyncio.get_running_loop().call_later(GREET_DELAY, start)


async def _ask(connection: Connection) -> None:
    if connection.identified is None and connection.limited:  # what it costs is scarce there
        for other in connection.node.connections_of(connection.peer_id):
            connection.identified = connection.identified or other.identified
    if connection.identified is None:
        await identify(connection)


async def identify(connection: Connection) -> Identify:
    """Ask the peer to identify itself, and remember the answer.

    Raises:
        PtError: the answer is forged or malformed, or the peer refused.
        TimeoutError: no answer in time.

    """
    async with asyncio.timeout(IDENTIFY_TIMEOUT):
        stream = await connection.open_stream((IDENTIFY,), limited=True)
        async with ResetOnError(stream):
            said = (await identify_aio.ask(stream)).verified(connection.peer_id)
    _remember(connection, said)
    return said


def push_all(node: Node) -> None:
    """Tell every connected peer that takes pushes what has changed about us, in the background.

    Each by itself: one that stalls or is gone keeps nobody else from being told.
    """
    for connection in list(node.connections):
        said = connection.identified
        if said is not None and IDENTIFY_PUSH in said.protocols:
            node.spawn(_push(node, connection))


async def _push(node: Node, connection: Connection) -> None:
    async with asyncio.timeout(IDENTIFY_TIMEOUT):
        stream = await connection.open_stream((IDENTIFY_PUSH,), limited=True)
        async with ResetOnError(stream):
            await identify_aio.push(stream, our_identify(node, connection))
        stream.finish()


async def ping(connection: Connection, payload: bytes) -> float:
    """One libp2p ping; the round-trip time in seconds."""
    async with asyncio.timeout(PING_TIMEOUT):
        stream = await connection.open_stream((PING,), limited=True)
        started = time.monotonic()
        async with ResetOnError(stream):
            await ping_aio.ping(stream, payload)
        seconds = time.monotonic() - started
        await stream.close_write()
    return seconds
