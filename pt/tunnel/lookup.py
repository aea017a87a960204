"""Where an exposer may be: addresses the user gave, and verified records from the LAN."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from pt.errors import NetworkError, PtError, UsageError
from pt.identity.peer_id import PeerId
from pt.rendezvous.lan import LanBrowser, LanRecord
from pt.rendezvous.name import NameKeys
from pt.rendezvous.record import Freshness, Record, open_record
from pt.wire.multiaddr import Multiaddr

__all__ = ["Candidate", "Lookup"]

MAX_CANDIDATES: Final = 32
MAX_INSTANCES: Final = 128
"""Announcements of candidates; the same one may come over several interfaces."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A peer to try; `peer_id` is None when the user gave a bare address."""

    peer_id: PeerId | None
    addresses: tuple[Multiaddr, ...]
    medium: str


class Lookup:
    """Collects candidates as they come; `on_found(candidate)` is told each new one."""

    def __init__(
        self, peers: tuple[Multiaddr, ...], on_found: Callable[[Candidate, float], None]
    ) -> None:
        self._given = tuple(_grouped(peers))
        self._found: OrderedDict[PeerId, Candidate] = OrderedDict()
        self._seqs: OrderedDict[PeerId, int] = OrderedDict()  # of the newest record taken
        self._instances: dict[str, PeerId] = {}
        self._on_found = on_found
        self._fresh = Freshness()
        self._changed = asyncio.Event()
        self._browser: LanBrowser | None = None
        self._keys: NameKeys | None = None
        self._started = time.monotonic()

    async def start_lan(self, keys: NameKeys) -> NetworkError | None:
        """Search the LAN; returns why it cannot, since other media may do."""
        self._keys = keys
        browser = LanBrowser(self._heard)
        try:
            await browser.start()
        except NetworkError as error:
            return error
        self._browser = browser
        return None

    async def close(self) -> None:
        """Stop searching."""
        if self._browser is not None:
            await self._browser.close()

    def candidates(self, first: PeerId | None) -> list[Candidate]:
        """Who to try, `first` before the others, newest records before old ones."""
        found = list(reversed(self._found.values()))
        everyone = [*self._given, *found]
        everyone.sort(key=lambda candidate: candidate.peer_id != first)
        return everyone

    async def wait(self) -> None:
        """Wait until there is news."""
        self._changed.clear()
        await self._changed.wait()

    def _heard(self, said: LanRecord) -> None:
        keys = self._keys
        if keys is None:
            return
        if said.ttl == 0:
            peer = self._instances.pop(said.instance, None)
            if peer is not None and peer not in self._instances.values():
                self._found.pop(peer, None)
            return
        if said.sealed is None:
            return
        try:
            record = open_record(said.sealed, keys, None)
        except PtError:
            return  # somebody else's tunnel
        peer = record.peer_id
        news = self._fresh.accept(record)
        if record.gone:
            if news:
                self._found.pop(peer, None)
                self._seqs.pop(peer, None)
            return
        if not news and self._seqs.get(peer) == record.seq:
            self._instances[said.instance] = peer  # the same over another interface,
            news = peer not in self._found  # or back after a silence
        if news and record.addresses:
            self._add(said.instance, record)

    def _add(self, instance: str, record: Record) -> None:
        candidate = Candidate(record.peer_id, record.addresses, "lan")
        self._instances[instance] = record.peer_id
        self._found[record.peer_id] = candidate
        self._found.move_to_end(record.peer_id)
        self._seqs[record.peer_id] = record.seq
        self._seqs.move_to_end(record.peer_id)
        for table in (self._found, self._seqs):
            if len(table) > MAX_CANDIDATES:
                table.popitem(last=False)
        while len(self._instances) > MAX_INSTANCES:
            del self._instances[next(iter(self._instances))]
        self._changed.set()
        self._on_found(candidate, time.monotonic() - self._started)


def _grouped(peers: tuple[Multiaddr, ...]) -> Iterator[Candidate]:
    """Addresses of the same peer are one candidate.

    Raises:
        UsageError: an address cannot be dialed.

    """
    by_peer: dict[PeerId | None, list[Multiaddr]] = {}
    for address in peers:
        if not address.transport:
            raise UsageError(
                f"cannot dial {address}: give an address like /ip4/192.0.2.1/tcp/4001/p2p/12D3…"
            )
        raw = address.peer_id_bytes
        if address.is_circuit and raw is None:
            raise UsageError(
                f"{address} does not say who to reach through the relay: add its /p2p/12D3…"
            )
        by_peer.setdefault(None if raw is None else PeerId(raw), []).append(address)
    for peer_id, addresses in by_peer.items():
        if peer_id is None:
            for address in addresses:
                yield Candidate(None, (address,), "peer")
        else:
            yield Candidate(peer_id, tuple(addresses), "peer")
