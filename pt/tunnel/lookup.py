"""Where an exposer may be: addresses the user gave, and verified records from all media."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pt.errors import NetworkError, PtError, UsageError
from pt.identity.peer_id import PeerId
from pt.rendezvous.exposers import Change, Exposers
from pt.rendezvous.lan import LanBrowser, LanRecord
from pt.rendezvous.name import NameKeys
from pt.rendezvous.record import Record, open_record
from pt.tunnel.media.rounds import Rounds
from pt.tunnel.media.search import MailboxSearch
from pt.tunnel.media.store import Store
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.tunnel.media.open_dht import OpenDht
    from pt.tunnel.media.provider_table import ProviderTable

__all__ = ["LAN", "Candidate", "Lookup"]

LAN: Final = "lan"
MAX_INSTANCES: Final = 128
"""Announcements of candidates; the same one may come over several interfaces."""
LAN_SILENCE: Final = 5.0
"""Seconds after which it is told that nobody is heard on the local network."""
SILENT: Final = "nobody announces this name here"
GIVEN_ALONE: Final = 3.0
"""Seconds until the DHTs are asked, too, when addresses were given that do not answer."""
_NEWS: Final = frozenset({Change.NEW, Change.UPDATED})
_THERE: Final = _NEWS | {Change.CONFIRMED, Change.SAME}

OnSearched = Callable[[str, bool, str, float], None]
"""(medium, found somebody, detail, seconds)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A peer to try; `peer_id` is None when the user gave a bare address."""

    peer_id: PeerId | None
    addresses: tuple[Multiaddr, ...]
    medium: str


class Lookup:
    """Collects candidates as they come; `on_found(candidate, seconds)` is told each new one.

    `on_searched` is told how each medium does, when that changes; `pins` come before others.
    """

    def __init__(
        self,
        peers: tuple[Multiaddr, ...],
        on_found: Callable[[Candidate, float], None],
        on_searched: OnSearched,
        *,
        pins: frozenset[PeerId] = frozenset(),
    ) -> None:
        self.exposers = Exposers(pins=pins)
        self.news = asyncio.Event()
        """Set when there is a new candidate or a medium is done; whoever waits clears it."""
        self._given = tuple(_grouped(peers))
        self._instances: OrderedDict[str, PeerId] = OrderedDict()
        self._on_found = on_found
        self._on_searched = on_searched
        self._browser: LanBrowser | None = None
        self._searches: list[Rounds] = []
        self._stores: tuple[Store, ...] = ()
        self._open_dht: OpenDht | None = None
        self._providers: ProviderTable | None = None
        self._keys: NameKeys | None = None
        self._started = time.monotonic()
        self._lan_heard = False
        self._waiting: asyncio.TimerHandle | None = None
        self._silence: asyncio.TimerHandle | None = None

    async def start_lan(self, keys: NameKeys) -> NetworkError | None:
        """Search the LAN; returns why it cannot, since other media may do."""
        self._keys = keys
        browser = LanBrowser(self._heard)
        try:
            await browser.start()
        except NetworkError as error:
            return error
        self._browser = browser
        self._silence = asyncio.get_running_loop().call_later(LAN_SILENCE, self._silent)
        return None

    def _silent(self) -> None:
        if not self._lan_heard:
            self._on_searched(LAN, False, SILENT, LAN_SILENCE)

    def search(self, keys: NameKeys, stores: Sequence[Store]) -> None:
        """Search these, too, and own them; addresses that were given have a while of their own."""
        self._stores = tuple(stores)
        for store in stores:

            def tell(found: bool, detail: str, seconds: float, medium: str = store.medium) -> None:
                self._on_searched(medium, found, detail, seconds)

            self._begin(MailboxSearch(store, keys, self._take, tell))

    def search_open(self, dht: OpenDht) -> None:
        """Search for the providers of an open tunnel, too, and own the DHT."""
        from pt.tunnel.media.provider_table import ProviderTable  # noqa: PLC0415

        self._open_dht = dht
        table = self._providers = ProviderTable()

        def found(peer: PeerId, addresses: tuple[Multiaddr, ...]) -> None:
            if table.add(peer, addresses):
                self.news.set()
                candidate = Candidate(peer, addresses, dht.medium)
                self._on_found(candidate, time.monotonic() - self._started)

        def tell(ok: bool, detail: str, seconds: float) -> None:
            self._on_searched(dht.medium, ok, detail, seconds)

        self._begin(dht.search(found, tell))

    def _begin(self, search: Rounds) -> None:
        search.on_round = self.news.set  # one who waits for all media may go on
        search.start(now=not self._given)
        self._searches.append(search)
        if self._given and self._waiting is None:
            loop = asyncio.get_running_loop()
            self._waiting = loop.call_later(GIVEN_ALONE, self.resume)

    @property
    def rounds(self) -> tuple[int, ...]:
        """How many look-ups each DHT has had."""
        return tuple(search.rounds for search in self._searches)

    def pause(self) -> None:
        """Somebody was reached: ask the DHTs no more."""
        self._end_wait()
        for search in self._searches:
            search.pause()

    def resume(self) -> None:
        """Nobody who was found answers: ask the DHTs again."""
        for search in self._searches:
            search.resume()

    def _end_wait(self) -> None:
        for timer in (self._waiting, self._silence):
            if timer is not None:
                timer.cancel()

    def hurry(self) -> None:
        """Ask the DHTs now, whether or not their time has come."""
        for search in self._searches:
            search.resume()
            search.hurry()

    async def close(self) -> None:
        """Stop searching."""
        self._end_wait()
        await asyncio.gather(*(search.close() for search in self._searches))
        media = (*self._stores, self._open_dht, self._browser)
        await asyncio.gather(*(each.close() for each in media if each is not None))

    def answered(self, peer: PeerId, seconds: float) -> None:
        """A peer was reached."""
        self.exposers.answered(peer, seconds)
        if self._providers is not None:
            self._providers.answered(peer, seconds)

    def failed(self, peer: PeerId) -> None:
        """A peer was not reached, or did not let us in."""
        now = time.time()
        self.exposers.failed(peer, now)
        if self._providers is not None:
            self._providers.failed(peer, now)

    def candidates(self) -> list[Candidate]:
        """Who to try, the best first: given ones, then as `Exposers` ranks them, then providers."""
        found = [
            Candidate(one.peer_id, one.record.addresses, one.media[0])
            for one in self.exposers.ranked(time.time())
            if one.record.addresses
        ]
        if self._open_dht is not None and self._providers is not None:
            medium = self._open_dht.medium
            found += [Candidate(*provider, medium) for provider in self._providers.ranked()]
        pins = self.exposers.pins
        return sorted([*self._given, *found], key=lambda one: one.peer_id not in pins)

    def _heard(self, said: LanRecord) -> None:
        """A machine of the LAN announces something, or falls silent."""
        if said.ttl == 0:
            peer = self._instances.pop(said.instance, None)
            if peer is not None and peer not in self._instances.values():
                self.exposers.lost(peer, LAN)
            return
        if said.sealed is None or self._keys is None:
            return
        try:
            record = open_record(said.sealed, self._keys, None)
        except PtError:
            return  # somebody else's tunnel
        change = self.exposers.add(record, LAN, time.time())
        if change in _THERE:
            self._instances[said.instance] = record.peer_id
            self._instances.move_to_end(said.instance)
            while len(self._instances) > MAX_INSTANCES:
                self._instances.popitem(last=False)
            if not self._lan_heard and not record.gone:
                self._lan_heard = True
                self._on_searched(LAN, True, "", time.monotonic() - self._started)
        self._found(record, LAN, change)

    def _take(self, record: Record, medium: str) -> bool:
        change = self.exposers.add(record, medium, time.time())
        self._found(record, medium, change)
        return change in _THERE and not record.gone and bool(record.addresses)

    def _found(self, record: Record, medium: str, change: Change) -> None:
        if change in _NEWS and record.addresses:
            self.news.set()
            candidate = Candidate(record.peer_id, record.addresses, medium)
            self._on_found(candidate, time.monotonic() - self._started)


def _grouped(peers: tuple[Multiaddr, ...]) -> Iterator[Candidate]:
    """Addresses of the same peer are one candidate.

    Raises:
        UsageError: an address cannot be dialed.

    """
    by_peer: dict[PeerId | None, list[Multiaddr]] = {}
    for address in peers:
        if not address.transport and not address.is_dnsaddr:
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
