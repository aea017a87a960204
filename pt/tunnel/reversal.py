"""Connection reversal: who was reached through a relay dials back.

A host behind a NAT gets out where others do not get in.  So when a binder came through a relay and
can itself be dialed, a direct connection is a dial of ours away; the binder then moves to it.
Source: libp2p specs `relay/DCUtR.md`, "unilateral connection upgrade".
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pt.errors import PtError
from pt.relay.rates import Buckets
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.identity.peer_id import PeerId
    from pt.node.connection import Connection
    from pt.node.node import Node

__all__ = ["Reversal"]

MAX_ADDRESSES: Final = 8
"""Addresses of one peer that are dialed: it may list more to make us knock on strangers' doors."""
DIAL_TIMEOUT: Final = 5.0
EVERY: Final = 0.5
"""Seconds between two tries for one peer, at the least."""
UNUSED: Final = 20.0
"""Seconds a connection that we made is kept for the peer to use it."""
MAX_UNDER_WAY: Final = 32
TRIES: Final = 3
"""Dials for one connection of a stranger, who may say again and again who it is."""
STRANGERS: Final = 30
"""Strangers of one relay that are dialed in a minute: they may send us to somebody else's door."""
IDENTIFY_CHURN: Final = 8
"""Streams that come and go although nobody uses a connection: identify, both ways."""


class Reversal:
    """Dials back, at most once at a time for each peer."""

    def __init__(self, node: Node, security: tuple[str, ...]) -> None:
        self._node = node
        self._security = security
        self._tasks: dict[PeerId, asyncio.Task[None]] = {}
        self._tries: Counter[Connection] = Counter()
        self._strangers = Buckets(STRANGERS)

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def settled(self, peer: PeerId) -> None:
        """Wait until the dial that is under way has led somewhere, or nowhere."""
        task = self._tasks.get(peer)
        if task is not None:
            await asyncio.wait([task])

    def invited(self, peer: PeerId, addresses: Sequence[Multiaddr], *, near: bool) -> None:
        """An authenticated peer says where it can be dialed; `near`: loopback makes sense.

        It may have other connections: several binders of one machine are one peer.
        """
        usable = [a for a in addresses if _is_plain(a) and (near or not a.is_loopback)]
        usable = usable[:MAX_ADDRESSES]
        bare = {address.without_peer() for address in usable}
        ours = (each.remote_addr for each in self._node.connections_of(peer) if each.initiator)
        if not bare.intersection(ours):
            self._begin(peer, usable)

    def met(self, connection: Connection) -> None:
        """A stranger who came through a relay said who it is: only public addresses are dialed.

        What the Go program needs on relays that limit circuits: it uses any direct connection that
        there is, and makes none itself.
        """
        said = connection.identified
        if connection.relay is None or connection.initiator or said is None or connection.closed:
            return
        wide = connection.remote_addr.is_public
        usable = [
            address
            for address in said.listen_addresses
            if _is_plain(address) and (address.is_public or not wide)
        ]
        if not usable or any(
            each.relay is None for each in self._node.connections_of(connection.peer_id)
        ):
            return
        now, source = asyncio.get_running_loop().time(), connection.route.source
        if self._tries[connection] >= TRIES or not self._strangers.allows(source, now):
            return
        if self._begin(connection.peer_id, usable[:MAX_ADDRESSES]):
            self._strangers.count(source, now)
            if not self._tries[connection]:
                connection.on_close.append(lambda _: self._forget(connection))
            self._tries[connection] += 1

    def _forget(self, connection: Connection) -> None:
        del self._tries[connection]

    def _begin(self, peer: PeerId, addresses: list[Multiaddr]) -> bool:
        """Dial, unless that is being done already; whether it is begun now."""
        if not addresses or peer in self._tasks or len(self._tasks) >= MAX_UNDER_WAY:
            return False
        task = asyncio.get_running_loop().create_task(self._dial(peer, addresses))
        self._tasks[peer] = task
        task.add_done_callback(lambda _: self._tasks.pop(peer, None))
        return True

    async def _dial(self, peer: PeerId, addresses: list[Multiaddr]) -> None:
        # One kind at a time: the peer may go on over whichever comes first, and a race would end
        # one of two that work.
        over_udp = [each for each in addresses if each.udp_port is not None]
        others = [each for each in addresses if each.udp_port is None]
        for kind in filter(None, (others, over_udp)):
            try:
                connection = await self._node.connect(
                    kind, expected=peer, security=self._security, timeout=DIAL_TIMEOUT
                )
                break
            except (PtError, OSError, TimeoutError):
                continue
        else:
            await asyncio.sleep(EVERY)
            return
        before = connection.link.session.churn

        def unused() -> None:
            muxer = connection.link.session
            idle = not muxer.streams and muxer.churn - before <= IDENTIFY_CHURN
            if idle and not connection.closed:
                connection.close("the peer does not use this connection")

        asyncio.get_running_loop().call_later(UNUSED, unused)


def _is_plain(address: Multiaddr) -> bool:
    """Whether this is TCP or QUIC at an IP address: a name could stand for a host of ours."""
    host = address.host
    return (
        address.transport in ("tcp", "quic-v1") and host is not None and host[0] in ("ip4", "ip6")
    )
