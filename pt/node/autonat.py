"""AutoNAT v2 of a node: the servers it has dialed are asked which of its addresses can be dialed.

Those are the public ones: of its listeners, announced, mapped by gateways, and where peers see it
that it has dialed.  What servers could dial is published; what they could not is no more, if
something else leads here.  Whoever has dialed us is not asked: a stranger must not choose itself as
our witness.

Bounds: one request at a time, `MAX_ADDRESSES` addresses; the rest is `pt.autonat.reachability`'s.
Nothing runs while no server is known.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from pt.autonat.aio import DialBacks, ask
from pt.autonat.messages import DIAL_BACK, DIAL_REQUEST, MAX_DATA
from pt.autonat.reachability import Reachability, State
from pt.errors import PtError
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.aio.muxed import MuxedStream
    from pt.node.connection import Connection
    from pt.node.node import Node

__all__ = ["AutoNat"]

LOOK: Final = 20.0
"""Seconds between two looks at our own addresses, while a server is known."""
PAUSE: Final = 1.0
"""Seconds between two looks at least, whatever is new."""
MAX_ADDRESSES: Final = 20
"""Addresses of ours that are asked about."""
_TRANSPORTS: Final = ("tcp", "quic-v1")


class AutoNat:
    """`mapped` says what gateways map to us; `changed` is told each address with another state.

    The node's `confirmed` and `unreachable` are right by then.
    """

    def __init__(
        self,
        node: Node,
        *,
        mapped: Callable[[], Iterable[Multiaddr]] = tuple,
        changed: Callable[[Multiaddr, State], None],
    ) -> None:
        self._node = node
        self._mapped = mapped
        self._changed = changed
        self._given = frozenset(node.announce)
        self._backs = DialBacks()
        self._known = Reachability()
        self._told: dict[Multiaddr, State] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        node.handle(DIAL_BACK, self._dialed_back)
        node.on_identified.append(self._met)

    def start(self) -> None:
        """Begin, in the background."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Ask no more; what was found out is forgotten."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        with contextlib.suppress(ValueError):
            self._node.on_identified.remove(self._met)
        self._node.confirmed, self._node.unreachable = (), frozenset()

    def recheck(self) -> None:
        """Our addresses are others."""
        self._wake.set()

    def state(self, address: Multiaddr) -> State:
        """What is known of an address of ours."""
        return self._known.state(address)

    async def _dialed_back(self, stream: MuxedStream, connection: Connection) -> None:
        await self._backs.answer(stream, connection.local_addr)

    def _met(self, connection: Connection) -> None:
        if _serves(connection):
            self._wake.set()

    # --- asking --------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            servers = self._servers()
            wait = await self._look(servers) if servers or self._told else None
            await asyncio.sleep(PAUSE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()

    def _servers(self) -> dict[bytes, Connection]:
        return {each.peer_id.raw: each for each in self._node.connections if _serves(each)}

    async def _look(self, servers: dict[bytes, Connection]) -> float:
        """Ask one server, if it is time for it; seconds until something may be due."""
        now = asyncio.get_running_loop().time()
        self._known.track(self._own(), now)
        self._apply()
        for server, connection in servers.items():
            wanted = self._known.wanted(server, now)
            fit = self._fit_for(connection, wanted)
            if fit:
                await self._ask(connection, fit)
                return 0.0
            self._known.passed_over(server, wanted, now)
        due = self._known.deadline(servers)
        return LOOK if due is None else min(max(due - now, PAUSE), LOOK)

    async def _ask(self, connection: Connection, addresses: list[Multiaddr]) -> None:
        known, server, loop = self._known, connection.peer_id.raw, asyncio.get_running_loop()
        about = addresses
        connection.uses += 1
        try:
            stream = await connection.open_stream((DIAL_REQUEST,))
            verdict = await ask(
                stream,
                addresses,
                self._backs,
                pay=lambda count: known.pay(count, loop.time()),
                tracer=self._node.tracer,
            )
        except (PtError, OSError, TimeoutError) as error:
            known.failed(loop.time())
            self._node.tracer.emit(
                "autonat_failed", server=str(connection.peer_id), reason=str(error) or "timed out"
            )
        else:
            known.record(verdict, loop.time())
            if verdict.address is not None:
                about = [verdict.address]
        finally:
            connection.uses -= 1
            known.asked(server, about, loop.time())
        self._apply()

    def _own(self) -> list[Multiaddr]:
        """Our public addresses, the surest first."""
        node = self._node
        seen = node.observed.by_dialed
        found = dict.fromkeys((*node.listening, *node.announce, *self._mapped(), *seen))
        return [each for each in found if _can_be_asked(each)][:MAX_ADDRESSES]

    def _fit_for(self, connection: Connection, addresses: list[Multiaddr]) -> list[Multiaddr]:
        """What this server probably can dial, and we can pay for."""
        said = connection.identified
        assert said is not None
        theirs = (connection.remote_addr, *said.listen_addresses)
        families = {each.host[0] for each in theirs if each.host is not None and each.is_public}
        found = [each for each in addresses if each.host is not None and each.host[0] in families]
        if self._known.affords(MAX_DATA, asyncio.get_running_loop().time()):
            return found
        seen = None if said.observed is None else said.observed.host
        return [each for each in found if each.host == seen]

    def _apply(self) -> None:
        """Have the node go by what is known, and tell what is another than before."""
        node, known = self._node, self._known
        reachable, unreachable = known.reachable, known.unreachable
        before = self._told
        self._told = {
            **dict.fromkeys(reachable, State.REACHABLE),
            **dict.fromkeys(unreachable, State.UNREACHABLE),
        }
        node.confirmed = tuple(reachable)
        node.unreachable = frozenset(unreachable) - self._given
        for address in dict.fromkeys((*before, *self._told)):
            state = self._told.get(address, State.UNKNOWN)
            if state is not before.get(address, State.UNKNOWN):
                self._changed(address, state)


def _serves(connection: Connection) -> bool:
    """Whether we have dialed it directly, out on the Internet, and it is an AutoNAT server."""
    said = connection.identified
    return (
        connection.initiator
        and connection.relay is None
        and not connection.closed
        and said is not None
        and DIAL_REQUEST in said.protocols
        and connection.remote_addr.is_public
    )


def _can_be_asked(address: Multiaddr) -> bool:
    host = address.host
    numeric = host is not None and host[0] in ("ip4", "ip6")
    return (
        numeric
        and address.is_public
        and not address.is_circuit
        and address.transport in _TRANSPORTS
        and address.peer_id_bytes is None
    )
