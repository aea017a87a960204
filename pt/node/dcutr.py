"""DCUtR of a node: from a relayed connection to a direct one through both NATs, as libp2p does it.

Whoever was dialed through the relay begins, once the peer has said that it speaks the protocol;
whoever has dialed answers.  Both then dial each other at once, from the ports at which others see
them: TCP from the listening port, as a simultaneous open whose handshakes one side begins by
agreement; QUIC from the shared UDP port, to which the other side has opened its NAT.

The addresses are a stranger's word: only public ones are dialed, `MAX_DIALED` of them, in a bounded
number of attempts a peer, a source and in all.  Source: libp2p specs `relay/DCUtR.md`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from pt.aio.scope import Scope
from pt.dcutr.aio import initiate, respond
from pt.dcutr.machine import MAX_ATTEMPTS, PROTOCOL, Role
from pt.dcutr.messages import punchable
from pt.errors import ConnectError, LimitError, PtError, message_of
from pt.node.punch_dial import PunchDial
from pt.relay.rates import Buckets
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.aio.muxed import MuxedStream
    from pt.identity.peer_id import PeerId
    from pt.node.connection import Connection
    from pt.node.node import Node

__all__ = ["PROTOCOL", "Dcutr", "direct_of"]

MAX_AT_ONCE: Final = 8
"""Peers with which we punch at a time."""
PER_SOURCE: Final = 12
"""Attempts a minute with the peers that one relay leads to."""
MAX_DIALED: Final = 8
"""Addresses of a peer that are dialed at once."""
DIAL_BACK: Final = 5.0
"""Seconds for a peer that says to have public addresses: dialing those is tried first."""
ASK_RELAY: Final = 2.0
"""Seconds that a relay has to say where it sees us, if it has not yet."""
_TRANSPORTS: Final = ("tcp", "quic-v1")

Direct = Callable[["Connection", float], None]


class Dcutr:
    """Make it before the node's connections.

    `wanted(connection)` says whether a relayed connection needs a direct one.  `first(connection)`
    is awaited before we begin: what else may lead to one; by default, a dial of the public
    addresses that the peer says to have.  `on_direct(connection, seconds)` is told each success,
    `on_failed(relayed, reason)` that there is none.
    """

    def __init__(
        self,
        node: Node,
        *,
        wanted: Callable[[Connection], bool] = lambda _: True,
        first: Callable[[Connection], Awaitable[None]] | None = None,
        on_direct: Direct = lambda _, __: None,
        on_failed: Callable[[Connection, str], None] = lambda _, __: None,
    ) -> None:
        self._node = node
        self._wanted = wanted
        self._first = first or self._dial_back
        self._on_direct = on_direct
        self._on_failed = on_failed
        self._attempts: Counter[Connection] = Counter()
        self._crossed: set[Connection] = set()
        self._busy: dict[PeerId, asyncio.Task[None]] = {}
        self._rates = Buckets(PER_SOURCE)
        self._scope = Scope(limit=MAX_AT_ONCE * MAX_DIALED)
        node.on_connection.append(self._connected)
        node.on_identified.append(self._identified)
        node.handle(PROTOCOL, self._serve, limited=True)

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = list(self._busy.values())
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, PtError, OSError, TimeoutError):
                await task
        await self._scope.aclose()

    # --- where we are seen -----------------------------------------------------------------------

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """What we tell a peer: where others see our ports, and what is public by itself."""
        own = (*self._node.observed.addresses, *self._node.addresses)
        return punchable(each for each in own if each.transport in _TRANSPORTS)

    async def _ask_relay(self, relayed: Connection) -> None:
        """Make sure that the relay has said where it sees us."""
        if relayed.relay is None:
            return
        for each in self._node.connections_of(relayed.relay):
            if each.relay is None and each.identified is None:
                with contextlib.suppress(PtError, TimeoutError):
                    async with asyncio.timeout(ASK_RELAY):
                        await each.identify()

    # --- the peer that was dialed: we begin ------------------------------------------------------

    def _connected(self, connection: Connection) -> None:
        """There is a way to the peer: learn what will be needed at once."""
        if connection.relay is None or not self._wanted(connection):
            return
        if connection.initiator:
            self._node.spawn(self._ask_relay(connection))
        else:
            connection.curious = False
            self._node.spawn(connection.identify())

    def _identified(self, connection: Connection) -> None:
        said = connection.identified
        if (
            connection.relay is not None
            and not connection.initiator
            and not connection.closed
            and said is not None
            and PROTOCOL in said.protocols
            and not self._attempts[connection]
            and direct_of(self._node, connection.peer_id) is None
            and self._wanted(connection)
        ):
            with contextlib.suppress(LimitError):
                self._count(connection, 1)
                self._run(connection.peer_id, self._begin(connection))

    def _count(self, connection: Connection, most: int) -> None:
        """Count an attempt on this connection.

        Raises:
            LimitError: too many on this connection, in all, or from this source.
            ClosedError: it has ended.

        """
        now, source = asyncio.get_running_loop().time(), connection.route.source
        if self._attempts[connection] >= most:
            raise LimitError("too many attempts on one connection")
        others = len(self._busy.keys() - {connection.peer_id})
        if others >= MAX_AT_ONCE or not self._rates.allows(source, now):
            raise LimitError("too many attempts to get through NATs at a time")
        self._rates.count(source, now)
        if not self._attempts[connection]:
            connection.check_open()
            connection.on_close.append(lambda _: self._over(connection))
        self._attempts[connection] += 1

    def _over(self, connection: Connection) -> None:
        del self._attempts[connection]
        self._crossed.discard(connection)

    def _run(self, peer: PeerId, coro: Awaitable[None]) -> None:
        """Run it as the one attempt with `peer`, unless there is one."""
        assert asyncio.iscoroutine(coro)
        if peer in self._busy:
            coro.close()
            return
        self._enter(peer, asyncio.get_running_loop().create_task(coro))

    def _enter(self, peer: PeerId, task: asyncio.Task[None]) -> None:
        self._busy[peer] = task

        def done(task: asyncio.Task[None]) -> None:
            if self._busy.get(peer) is task:
                del self._busy[peer]

        task.add_done_callback(done)

    async def _begin(self, relayed: Connection) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await self._first(relayed)
            found = direct_of(self._node, relayed.peer_id)
            if found is not None or relayed.closed:
                return
            await self._ask_relay(relayed)
            own = self.addresses
            if not own:
                raise ConnectError("nobody has told where our ports are seen from outside")
            began = loop.time()
            found = await initiate(
                partial(relayed.open_stream, (PROTOCOL,), limited=True),
                lambda: own,
                partial(self._dial, relayed),
                tracer=self._node.tracer,
            )
        except (PtError, OSError, TimeoutError) as error:
            self._on_failed(relayed, message_of(error))
        else:
            self._on_direct(found, loop.time() - began)

    async def _dial_back(self, relayed: Connection) -> None:
        said = relayed.identified
        listening = () if said is None else said.listen_addresses
        usable = self._usable(punchable(listening))
        if usable:
            with contextlib.suppress(PtError, OSError, TimeoutError):
                await self._node.connect(usable, expected=relayed.peer_id, timeout=DIAL_BACK)

    # --- the peer that has dialed: we answer -----------------------------------------------------

    async def _serve(self, stream: MuxedStream, relayed: Connection) -> None:
        ours = relayed.relay is not None and relayed.initiator
        loop = asyncio.get_running_loop()
        if ours:
            self._count(relayed, MAX_ATTEMPTS + 1)
            before = self._busy.get(relayed.peer_id)
            if before is not None:  # the peer has given that attempt up
                before.cancel()
                await asyncio.wait([before])
            task = asyncio.current_task()
            assert task is not None
            self._enter(relayed.peer_id, task)
            await self._ask_relay(relayed)
        began = loop.time()
        try:
            found = await respond(
                stream,
                self.addresses,
                partial(self._dial, relayed),
                relayed_by_us=ours,
                role=Role.SERVER if relayed in self._crossed else Role.CLIENT,
                tracer=self._node.tracer,
            )
        except (PtError, OSError, TimeoutError) as error:
            if ours:
                self._on_failed(relayed, message_of(error))
            raise
        self._on_direct(found, loop.time() - began)

    # --- dialing ---------------------------------------------------------------------------------

    def _usable(self, addresses: Iterable[Multiaddr]) -> tuple[Multiaddr, ...]:
        found = [each for each in addresses if each.transport in _TRANSPORTS]
        return tuple(found[:MAX_DIALED])

    async def _dial(
        self, relayed: Connection, addresses: tuple[Multiaddr, ...], role: Role
    ) -> Connection:
        found = direct_of(self._node, relayed.peer_id)
        if found is not None:
            return found
        async with PunchDial(self._node, relayed, role, self._scope) as dial:
            try:
                return await dial.run(self._usable(addresses))
            finally:
                if dial.crossed and not relayed.closed:
                    self._crossed.add(relayed)


def direct_of(node: Node, peer: PeerId) -> Connection | None:
    """A direct connection to a peer that is there."""
    for each in node.connections_of(peer):
        if each.relay is None and not each.closed and each.link.session.go_away is None:
            return each
    return None
