"""When an exposer may say READY: once a stranger who finds its record would get through.

The fastest medium decides. Only if relays were given, they and the overlay have a moment to be
done, too, so that what READY prints for the other machine is short.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from pt.errors import NetworkError
from pt.identity.peer_id import PeerId
from pt.node.relays import Relays
from pt.tunnel import events
from pt.tunnel.probe import probe, probe_relayed
from pt.tunnel.publication import Publication
from pt.wire.multiaddr import Multiaddr

__all__ = ["Readiness"]

RELAY_TIMEOUT: Final = 10.0
"""Seconds for the first reservation at the relays that were given, if there is no LAN."""
GRACE: Final = 3.0
"""Seconds that slower media have when one has the record already."""
OUTSIDE_WAIT: Final = 30.0
"""Seconds to find an address that leads here from other networks."""


class Readiness:
    """Waits; `wait` returns when READY is true."""

    def __init__(
        self,
        publication: Publication,
        relays: Relays,
        peer_id: PeerId,
        emit: Callable[[events.Event], None],
    ) -> None:
        self._publication = publication
        self._relays = relays
        self._peer_id = peer_id
        self._emit = emit
        self._probed: frozenset[Multiaddr] = frozenset()
        self._answered: list[frozenset[Multiaddr]] = []

    async def wait(self, *, relays_given: bool) -> None:
        """Wait until a published path has answered."""
        publication = self._publication
        loop = asyncio.get_running_loop()
        began = loop.time()
        relayed = False
        on_lan = "lan" in publication.media
        if relays_given and await self._relays.wait_first(GRACE if on_lan else RELAY_TIMEOUT):
            relayed = await self._answers(frozenset(self._relays.addresses))
            began = loop.time()
        while True:
            if await self._answers(frozenset(filter(_from_outside, publication.stored))):
                return
            age = loop.time() - began
            here = relayed or not publication.has_stores or "lan" in publication.media
            if here and (publication.settled or age >= GRACE or not relays_given):
                return
            if publication.stored and age >= OUTSIDE_WAIT:
                self._emit(
                    events.Warned(
                        message="published, but without a relay or a public address: only "
                        "machines of this network can connect. Give a relay with --relay"
                    )
                )
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE - age if age < GRACE else GRACE):
                    await publication.wait()

    async def _answers(self, addresses: frozenset[Multiaddr]) -> bool:
        """Whether one of the addresses leads to us; tried once."""
        if any(those <= addresses for those in self._answered):
            return True
        if not addresses or addresses <= self._probed:
            return False
        self._probed |= addresses
        circuits = tuple(each for each in addresses if each.is_circuit)
        direct = tuple(addresses - set(circuits))
        try:
            if direct:
                await probe(direct, self._peer_id)
            else:
                await probe_relayed(circuits, self._peer_id)
        except NetworkError as error:
            self._emit(events.Warned(message=str(error)))
            return False
        self._answered.append(addresses)
        return True


def _from_outside(address: Multiaddr) -> bool:
    return address.is_circuit or address.is_public
