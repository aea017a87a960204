"""What gets a binder's session through the NATs on both sides, made when it is needed first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING

from pt.tunnel import events, rotation
from pt.tunnel.nat import Nats
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    import asyncio

    from pt.node.connection import Connection
    from pt.node.node import Node
    from pt.tunnel.session import BinderSession

__all__ = ["Traversal"]


class Traversal:
    """Punching, rotation and port mappings of one session; its `circuits` are asked about NATs."""

    def __init__(
        self,
        node: Node,
        session: BinderSession,
        circuits: Callable[[], Sequence[Multiaddr]],
        emit: Callable[[events.Event], None],
        *,
        security: tuple[str, ...],
    ) -> None:
        self._node = node
        self._session = session
        self._emit = emit
        self._nats = Nats(node, circuits, emit, security=security)

    async def close(self) -> None:
        """Look at the NATs no more; what was begun is the caller's to end first."""
        await self._nats.close()

    async def punch(
        self,
        relayed: Connection,
        *,
        moved: asyncio.Event,
        wanted: Callable[[], bool],
        own: Callable[[], bool],
        take: Callable[[Connection], Awaitable[bool]],
    ) -> None:
        """See `punching.until_through`."""
        from pt.tunnel.punching import until_through  # noqa: PLC0415  # who is not relayed needs none

        punching, secret = self._nats.punching, self._session.secret
        await until_through(
            punching, relayed, secret, moved=moved, wanted=wanted, own=own, take=take
        )

    def rotate(
        self,
        current: Connection,
        ages: rotation.Ages,
        take: Callable[[Connection], Awaitable[bool]],
    ) -> Coroutine[None, None, None]:
        """Be on a path through fresh mappings before those of this one are dropped."""
        secret = self._session.secret
        return rotation.rotate(
            current,
            ages,
            lambda path, number: self._nats.punching.punch(path, secret, number, own=True),
            take,
        )

    async def map(self) -> None:
        """Ask the gateway to let the exposer in, while the session is on a relay."""
        from pt.tunnel.portmaps import map_meanwhile  # noqa: PLC0415  # for the same reason

        await map_meanwhile(
            self._node,
            self._nats.view,
            self._emit,
            changed=lambda: self._session.say_addresses(self._node.addresses),
        )
