"""An exposer's own addresses: what routers map to it, and which AutoNAT servers could dial."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pt.autonat.reachability import State
from pt.node.autonat import AutoNat
from pt.tunnel import events
from pt.tunnel.portmaps import PortMappings
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.node.nat_view import NatView
    from pt.node.node import Node

__all__ = ["OwnAddresses"]

_REACHABLE: Final = {State.REACHABLE: True, State.UNREACHABLE: False, State.UNKNOWN: None}


class OwnAddresses:
    """Finds out; `changed` is told when others are to hear of other addresses.

    The router is asked if there is a `view` of the NATs before us.
    """

    def __init__(
        self,
        node: Node,
        emit: Callable[[events.Event], None],
        *,
        view: NatView | None,
        changed: Callable[[], None],
    ) -> None:
        self._node = node
        self._emit = emit
        self._changed = changed
        self._mappings: PortMappings | None = None
        self._autonat = AutoNat(node, mapped=self._mapped, changed=self._found)
        if view is not None:
            self._mappings = PortMappings(
                node,
                view,
                emit,
                changed=self._moved,
                state=self._autonat.state,
            )

    def start(self) -> None:
        """Begin, in the background."""
        self._autonat.start()
        if self._mappings is not None:
            self._mappings.start()

    def recheck(self) -> None:
        """There is somebody else outside to ask."""
        if self._mappings is not None:
            self._mappings.recheck()

    async def close(self) -> None:
        """Ask no more, and give the mappings back."""
        await self._autonat.close()
        if self._mappings is not None:
            await self._mappings.close()

    def _mapped(self) -> tuple[Multiaddr, ...]:
        return () if self._mappings is None else self._mappings.addresses

    def _moved(self) -> None:
        """A mapping is published, or no more."""
        self._autonat.recheck()
        self._changed()

    def _found(self, address: Multiaddr, state: State) -> None:
        """AutoNAT knows something else of an address."""
        published = address in self._node.published
        self._emit(
            events.AddressReachability(
                address=address,
                reachable=_REACHABLE[state],
                published=published,
                detail=_detail(state, published=published),
            )
        )
        self.recheck()
        self._changed()


def _detail(state: State, *, published: bool) -> str:
    if state is State.REACHABLE:
        return "servers outside have dialed it: published"
    if state is State.UNREACHABLE:
        why = "servers outside could not dial it"
        return f"{why}: told all the same" if published else f"{why}: not published"
    return "nobody outside can tell any more whether it can be dialed"
