"""When an exposer may say READY: once a stranger who finds its record would get through.

The fastest medium decides. Only if relays were given, they and the overlay have a moment to be
done, too, so that what READY prints for the other machine is short. The fastest may be the local
network: then it is told later when machines of other networks would get through as well.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from pt.aio.scope import Scope
from pt.errors import NetworkError
from pt.identity.peer_id import PeerId
from pt.node.relays import Relays
from pt.node.resolve import Resolver
from pt.tunnel import events
from pt.tunnel.probe import probe
from pt.tunnel.publication import Publication
from pt.wire.multiaddr import Multiaddr

__all__ = ["Readiness"]

RELAY_TIMEOUT: Final = 10.0
"""Seconds for the first reservation at the relays that were given, if nothing else works."""
GRACE: Final = 3.0
"""Seconds that slower media have when one has the record already."""
OUTSIDE_WAIT: Final = 30.0
"""Seconds to find an address that leads here from other networks."""
PROBE_AGAIN: Final = 10.0
"""Seconds from the beginning of a probe to the next one of the same addresses."""
PROBE_MOST: Final = 300.0
"""The same after OUTSIDE_WAIT, in the end: a probe takes a circuit of a relay."""
MAX_PROBES: Final = 6
"""With what waits for a relay, and the watch."""
MAX_REMEMBERED: Final = 32
NOT_OUTSIDE: Final = (
    "published, but without a relay or a public address: only machines of this network can "
    "connect. Give a relay with --relay"
)
NOT_ANSWERING: Final = (
    "published, but no address that leads here from other networks answers: if others do not get "
    "through either, check that the port is forwarded, or give a relay with --relay"
)


class Readiness:
    """Waits; `wait` returns when READY is true, `watch` goes on until other networks lead here."""

    def __init__(
        self,
        publication: Publication,
        relays: Relays,
        peer_id: PeerId,
        emit: Callable[[events.Event], None],
        resolver: Resolver | None = None,
    ) -> None:
        self._publication = publication
        self._relays = relays
        self._peer_id = peer_id
        self._emit = emit
        self._resolver = resolver
        self._scope = Scope(limit=MAX_PROBES)
        self._probed: dict[frozenset[Multiaddr], tuple[float, float]] = {}
        """When what is probed, or has failed, may be tried again; and how long that was to wait."""
        self._answered: set[frozenset[Multiaddr]] = set()
        self._warned: set[str] = set()
        self._relayed: frozenset[Multiaddr] = frozenset()
        self._relays_given = False
        self._began = 0.0

    async def wait(self, *, relays_given: bool) -> None:
        """Wait until a published path has answered."""
        self._relays_given = relays_given
        publication = self._publication
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        asking = self._scope.start(self._await_relay()) if relays_given else None
        while True:
            outside = self._stored_outside
            if self._leads_here(outside):
                return
            asked = asking is None or asking.done()
            age = loop.time() - self._began
            self._probe(self._relayed)
            here = self._leads_here(self._relayed) or (asked and not publication.has_stores)
            if here or "lan" in publication.media:
                settled = publication.settled and not len(self._scope)
                if settled or age >= GRACE or not relays_given:
                    return
            if publication.stored and age >= OUTSIDE_WAIT:
                self._warn(NOT_ANSWERING if outside else NOT_OUTSIDE)
                return
            self._probe(outside)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE - age if age < GRACE else GRACE):
                    await publication.news.wait()
            publication.news.clear()

    @property
    def outside(self) -> bool | None:
        """Whether machines of other networks get through; None: nothing was to lead them here."""
        if self._leads_here(self._stored_outside) or self._leads_here(self._relayed):
            return True
        return False if self._publication.has_stores or self._relays_given else None

    def watch(self, on_outside: Callable[[], None]) -> None:
        """Tell when machines of other networks get through, which they do not yet."""
        self._scope.start(self._watch(on_outside))

    async def close(self) -> None:
        """Probe no more."""
        await self._scope.aclose()

    async def _watch(self, on_outside: Callable[[], None]) -> None:
        publication = self._publication
        loop = asyncio.get_running_loop()
        while not self.outside:
            outside = self._stored_outside
            self._probe(outside)
            self._probe(self._relayed)
            idle = len(self._scope) == 1  # but for this
            if idle and publication.stored and loop.time() - self._began >= OUTSIDE_WAIT:
                self._warn(NOT_ANSWERING if outside else NOT_OUTSIDE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_AGAIN):
                    await publication.news.wait()
            publication.news.clear()
        on_outside()

    @property
    def _stored_outside(self) -> frozenset[Multiaddr]:
        return frozenset(filter(_from_outside, self._publication.stored))

    async def _await_relay(self) -> None:
        """The first reservation; slower media have GRACE from then on."""
        if await self._relays.wait_first(RELAY_TIMEOUT):
            self._relayed = frozenset(self._relays.addresses)
            self._began = asyncio.get_running_loop().time()
        self._wake()

    def _wake(self) -> None:
        """Look again, once the task that says so has ended."""
        asyncio.get_running_loop().call_soon(self._publication.news.set)

    def _leads_here(self, addresses: frozenset[Multiaddr]) -> bool:
        """Whether some of them have answered."""
        return any(those <= addresses for those in self._answered)

    def _probe(self, addresses: frozenset[Multiaddr]) -> None:
        """Dial these in the background, those through relays apart, unless it was done lately."""
        now = asyncio.get_running_loop().time()
        circuits = frozenset(each for each in addresses if each.is_circuit)
        for those in (addresses - circuits, circuits):
            again_at, pause = self._probed.get(those, (now, PROBE_AGAIN / 2))
            if those and again_at <= now and not self._scope.full and those not in self._answered:
                if len(self._probed) >= MAX_REMEMBERED:
                    self._probed.clear()
                patient = now - self._began >= OUTSIDE_WAIT
                pause = min(2 * pause, PROBE_MOST) if patient else PROBE_AGAIN
                self._probed[those] = now + pause, pause
                self._scope.start(self._dial(those))

    async def _dial(self, addresses: frozenset[Multiaddr]) -> None:
        try:
            await probe(tuple(addresses), self._peer_id, resolver=self._resolver)
        except NetworkError as error:
            self._warn(str(error))
        else:
            self._answered.add(addresses)
        self._wake()

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self._emit(events.Warned(message=message))


def _from_outside(address: Multiaddr) -> bool:
    return address.is_circuit or address.is_public
