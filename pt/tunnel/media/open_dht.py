"""The public DHT as a medium of open tunnels: provider records of the Go program's topic.

An exposer asks it itself, since servers take a provider record from the provider alone; a binder
has it asked by a peer of its own, whose id says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pt.identity.peer_id import PeerId
from pt.node.node import Node
from pt.node.state import StateDir
from pt.rendezvous.topic import provider_key
from pt.tunnel.media.amino import AminoPeer, OnHop
from pt.tunnel.media.providers import OnState, ProviderAnnouncer, ProviderSearch
from pt.tunnel.network import Network
from pt.wire.multiaddr import Multiaddr

__all__ = ["OpenDht"]


class OpenDht(AminoPeer):
    """The DHT for one id; an exposer gives its own `node`."""

    def __init__(
        self,
        name: str,
        state: StateDir,
        bootstrap: Sequence[Multiaddr],
        network: Network,
        *,
        node: Node | None = None,
        on_hop: OnHop | None = None,
    ) -> None:
        super().__init__(state, bootstrap, network, node=node, on_hop=on_hop)
        self._key = provider_key(name)

    def announcer(
        self, addresses: Callable[[], Iterable[Multiaddr]], on_state: OnState
    ) -> ProviderAnnouncer:
        """What publishes that our node, at these addresses, provides the id."""

        def tell(ok: bool, detail: str, seconds: float) -> None:
            told = f"at {detail}; {self.cost()}" if ok else self._explained(detail)
            on_state(ok, told, seconds)

        return ProviderAnnouncer(
            self._amino.client, self._key, addresses, tell, public_only=self._public_only
        )

    def search(
        self, on_found: Callable[[PeerId, tuple[Multiaddr, ...]], None], on_state: OnState
    ) -> ProviderSearch:
        """What looks for those who provide the id."""

        def tell(ok: bool, detail: str, seconds: float) -> None:
            on_state(ok, self.cost() if ok else self._explained(detail), seconds)

        return ProviderSearch(
            self._amino.client, self._key, on_found, tell, public_only=self._public_only
        )

    def _explained(self, detail: str) -> str:
        """The cause, when no server answers at all."""
        facts = self._amino.facts
        return facts.detail if facts.state == "offline" else detail
