"""A relay as an AutoNAT v2 server: it tells peers whether their addresses can be dialed.

A dial comes from an identity of its own, and from ports that nobody has seen: through a NAT that
lets in whoever was written to, the relay's own port would succeed where no other peer's does.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from pt.autonat.aio import deliver, serve
from pt.autonat.messages import DIAL_BACK, DIAL_REQUEST, DialStatus
from pt.autonat.server import Rates
from pt.errors import ConnectError, PtError, RefusedError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node.limits import NodeLimits
from pt.node.node import Node
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.aio.muxed import MuxedStream
    from pt.node.connection import Connection

__all__ = ["serve_autonat"]

TRANSPORTS: Final = frozenset({"tcp", "quic-v1"})
DIAL_TIMEOUT: Final = 5.0
_LIMITS: Final = NodeLimits(connections=1, handlers=4)


def serve_autonat(node: Node) -> None:
    """Have `node` answer requests on direct connections to it."""
    rates = Rates()

    async def answer(stream: MuxedStream, connection: Connection) -> None:
        host = connection.remote_addr.host
        if connection.relay is not None or host is None:
            raise RefusedError("AutoNAT is for peers that are connected directly")
        peer = connection.peer_id
        await serve(
            stream,
            host[1].partition("%")[0],
            peer.raw,
            rates,
            dials=lambda address: address.transport in TRANSPORTS,
            dial_back=lambda address, nonce: _dial_back(node, peer, address, nonce),
            tracer=node.tracer,
        )

    node.handle(DIAL_REQUEST, answer)


async def _dial_back(node: Node, peer: PeerId, address: Multiaddr, nonce: int) -> DialStatus:
    dialer = Node(
        identity=PrivateKey.generate(os.urandom(32)),
        limits=_LIMITS,
        resolver=node.resolver,
    )
    await dialer.start()
    try:
        try:
            connection = await dialer.connect(address, expected=peer, timeout=DIAL_TIMEOUT)
        except ConnectError:
            return DialStatus.DIAL_ERROR
        try:
            stream = await connection.open_stream((DIAL_BACK,))
        except (PtError, TimeoutError):
            return DialStatus.DIAL_BACK_ERROR
        return await deliver(stream, nonce)
    finally:
        await dialer.close()
