"""Those who say to provide the id of an open tunnel, and whom to dial first.

Nothing of it is verified. Who answered last time goes first, by the round trip; then those who were
not tried yet, in the order they came; then those who failed, the longest ago first. When it is
full, the last in this order makes room.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pt.identity.peer_id import PeerId
from pt.rendezvous.exposers import Standing
from pt.wire.multiaddr import Multiaddr

__all__ = ["MAX_PROVIDERS", "ProviderTable"]

MAX_PROVIDERS: Final = 256


@dataclass(slots=True)
class _Provider(Standing):
    addresses: tuple[Multiaddr, ...]
    number: int


class ProviderTable:
    """At most MAX_PROVIDERS; the times are seconds of one clock."""

    def __init__(self) -> None:
        self._known: dict[PeerId, _Provider] = {}
        self._count = 0

    def add(self, peer: PeerId, addresses: tuple[Multiaddr, ...]) -> bool:
        """Take what is said of a peer; whether it is new."""
        known = self._known.get(peer)
        if known is not None and known.addresses == addresses:
            return False
        if known is None and len(self._known) >= MAX_PROVIDERS:
            del self._known[self._ranked()[-1]]
        self._count += 1
        self._known[peer] = _Provider(addresses, self._count)  # it has another chance
        return True

    def answered(self, peer: PeerId, rtt: float) -> None:
        """It was reached, in `rtt` seconds."""
        if (known := self._known.get(peer)) is not None:
            known.answered(rtt)

    def failed(self, peer: PeerId, now: float) -> None:
        """It was not, or speaks of something else."""
        if (known := self._known.get(peer)) is not None:
            known.failed(now)

    def ranked(self) -> list[tuple[PeerId, tuple[Multiaddr, ...]]]:
        """Whom to dial, the best first, and where."""
        return [(peer, self._known[peer].addresses) for peer in self._ranked()]

    def _ranked(self) -> list[PeerId]:
        return sorted(self._known, key=lambda peer: _rank(self._known[peer]))


def _rank(one: _Provider) -> tuple[tuple[int, float], int]:
    return one.rank, one.number
