"""The public libp2p DHT as a medium: sealed records in the form of IPNS records.

It is asked by a peer of its own, which lives as long as the command and listens nowhere, so that
servers of the DHT do not learn the exposer's peer id or the binder's.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final

from pt.errors import NetworkError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node.amino import DEFAULT_BOOTSTRAP, Amino
from pt.node.node import Node
from pt.node.state import StateDir
from pt.rendezvous import ipns
from pt.rendezvous.epoch import EpochKeys
from pt.rendezvous.mailbox import Sealed
from pt.tunnel.media.progress import Meter
from pt.tunnel.network import Network
from pt.wire.multiaddr import Multiaddr

__all__ = ["AminoPeer", "AminoStore", "OnHop"]

OnHop = Callable[[PeerId, tuple[Multiaddr, ...]], None]

HOLDERS: Final = 8
"""Servers whose values are enough at first: the others most likely hold the same, at 10 kB each."""


class AminoPeer:
    """The DHT as asked by `node`, or by a peer of its own that listens nowhere.

    The public one's bootstrap peers if none are given; `on_hop` is told of relays that are met.
    """

    medium = "amino"

    def __init__(
        self,
        state: StateDir,
        bootstrap: Sequence[Multiaddr],
        network: Network,
        *,
        node: Node | None = None,
        on_hop: OnHop | None = None,
    ) -> None:
        self._own: Node | None = None
        if node is None:
            self._own = node = network.make_node(PrivateKey.generate(secrets.token_bytes(32)))
            node.quic.brief = True
        meter = Meter(self.medium, network.emit, self._most_sockets, time.monotonic)
        self._public_only = not any(each.is_private or each.is_loopback for each in bootstrap)
        self._amino = Amino(
            node,
            bootstrap=tuple(bootstrap) or DEFAULT_BOOTSTRAP,
            cache=state.path / "dht_peers.json",
            public_only=self._public_only,
            on_progress=meter.take,
            on_hop=on_hop,
        )

    async def start(self) -> None:
        """Begin to find servers, in the background; nothing is left of what does not start."""
        try:
            if self._own is not None:
                await self._own.start()
            await self._amino.start()
        except BaseException:
            await self.close()
            raise

    def _most_sockets(self) -> int:
        return self._amino.facts.most_sockets

    def cost(self) -> str:
        """What it has taken so far, for people to read."""
        facts = self._amino.facts
        kilobytes = (facts.sent + facts.received) / 1000
        return (
            f"{facts.requests} requests, {kilobytes:.0f} kB, {facts.most_sockets} sockets at most"
        )

    async def close(self) -> None:
        """Stop; what is under way ends with an error."""
        try:
            await self._amino.close()
        finally:
            if self._own is not None:
                await self._own.close()


class AminoStore(AminoPeer):
    """See `Store`."""

    async def put(self, sealed: Sealed) -> str:
        """See `Store`."""
        try:
            stored = await self._amino.client.put_value(sealed.routing_key, sealed.value)
        except NetworkError as error:
            raise self._explained(error) from error
        if not stored.acknowledged:
            raise NetworkError(f"none of {stored.asked} servers of the DHT took the record")
        return f"at {len(stored.acknowledged)} of {stored.asked} servers"

    async def values(
        self, epoch: EpochKeys, *, thorough: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """See `Store`."""

        def checked(value: bytes) -> None:
            with contextlib.suppress(ipns.ExpiredError):  # the server need not know the time
                ipns.validate(value, epoch.name, time.time())

        seen: set[bytes] = set()
        holders = 0
        try:
            async with self._amino.client.get_value(epoch.routing_key, checked) as search:
                async for found in search:
                    if found.value not in seen:
                        seen.add(found.value)
                        yield found.value
                    holders += 1
                    if holders == HOLDERS and not thorough:
                        return
        except NetworkError as error:
            raise self._explained(error) from error

    def _explained(self, error: NetworkError) -> NetworkError:
        """The same with the cause, when nobody answers at all."""
        return NetworkError(self._amino.facts.detail or str(error))
