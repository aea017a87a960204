"""Where the exposer of a session can be reached, as far as a binder has heard."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.node.connection import Connection

__all__ = ["MAX_KNOWN", "Known"]

MAX_KNOWN: Final = 32
"""Addresses that are remembered; the oldest give way."""


class Known:
    """The addresses; `news` and `moved` are set by each that is new."""

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self.moved = asyncio.Event()
        self._addresses: dict[Multiaddr, None] = {}
        self._last_relay: object = None

    def learn(self, addresses: Iterable[Multiaddr]) -> None:
        """The exposer can (also) be dialed there."""
        for address in addresses:
            bare = address if address.is_circuit else address.without_peer()
            if bare is None or bare in self._addresses or not (bare.transport or bare.is_dnsaddr):
                continue
            if len(self._addresses) >= MAX_KNOWN:
                self._addresses.pop(next(iter(self._addresses)))
            self._addresses[bare] = None
            self.news.set()
            self.moved.set()

    def used(self, connection: Connection) -> None:
        """The session runs on it: another relay comes first next time."""
        if connection.relay is not None:
            self._last_relay = connection.relay.raw

    @property
    def direct(self) -> list[Multiaddr]:
        """Where the exposer may be reached directly."""
        return [address for address in self._addresses if not address.is_circuit]

    @property
    def circuits(self) -> list[Multiaddr]:
        """Its addresses through relays, the relay used last at the end."""
        found = [address for address in self._addresses if address.is_circuit]
        return sorted(found, key=lambda address: _relay_of(address) == self._last_relay)

    @property
    def relays(self) -> set[bytes | None]:
        """The peer ids of these relays."""
        return set(map(_relay_of, self.circuits))


def _relay_of(address: Multiaddr) -> bytes | None:
    return address.split_circuit()[0].peer_id_bytes
