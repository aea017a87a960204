"""Dialing libp2p's WebSocket transport: how a relay is reached where only 443 or HTTP gets out.

The certificate of a /wss address is not what we trust: whoever answers has to prove the peer id of
the address inside, by Noise, and a relay in somebody's cellar may well have signed its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pt.aio.tcp import address_of
from pt.errors import ClosedError
from pt.node.route import Route
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.identity.peer_id import PeerId
    from pt.node.connection import Connection
    from pt.node.node import Node
    from pt.websocket.aio import WebSockets

__all__ = ["WebSocketDialer"]

ATTEMPT: Final = 2.0
"""Seconds each address of a name has, but the last; the first may be one that leads nowhere."""


class WebSocketDialer:
    """Gives a node the dialers of /ws and /wss; what they need is loaded at the first use."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._sockets: WebSockets | None = None
        for transport in ("ws", "wss"):
            node.dialers[transport] = self.dial

    async def aclose(self) -> None:
        """End the connections' bridges."""
        if self._sockets is not None:
            await self._sockets.aclose()

    async def dial(
        self, address: Multiaddr, expected: PeerId | None, security: Sequence[str]
    ) -> Connection:
        """A `Node.dialers` entry.

        Raises:
            PtError, OSError, TimeoutError: it failed.

        """
        from pt.websocket.aio import WebSockets  # noqa: PLC0415

        if self._sockets is None:
            self._sockets = WebSockets()
        host, port = address.host, address.tcp_port
        assert host is not None
        assert port is not None
        sock = await self._connect(host, port)
        local = address_of(sock.getsockname())
        tls = _any_certificate() if address.transport == "wss" else None
        try:
            async with asyncio.timeout(self._node.limits.handshake_timeout):
                inner = await self._sockets.dial(sock, host=host[1], tls=tls)
                try:
                    return await self._node.adopt(
                        inner,
                        Route(address, local, "direct/ws"),
                        initiator=True,
                        expected=expected,
                        security=security,
                    )
                except BaseException:
                    inner.close()
                    raise
        except TimeoutError as error:
            raise ClosedError("it took the connection, and said too little in time") from error

    async def _connect(self, host: tuple[str, str], port: int) -> socket.socket:
        """The first of a name's addresses that answers, of the family that the name asks for."""
        kind, name = host
        resolver = self._node.resolver
        hosts = await resolver.addresses(kind, name) if kind.startswith("dns") else [name]
        targets = [Multiaddr.tcp(each, port) for each in hosts]
        for target in targets[:-1]:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(ATTEMPT):
                    return await self._node.dial_socket(target)
        return await self._node.dial_socket(targets[-1])


def _any_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
