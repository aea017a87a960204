"""The overlay of `pt relay`s as a medium.

Its servers are where the relays are, on UDP; relays that are given by name are resolved when they
are needed, and again after a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Final

from pt.errors import DnsError, NetworkError
from pt.kad.lookup import Cost
from pt.kad.results import Progress
from pt.overlay.address import overlay_address
from pt.overlay.aio import OverlayClient, resolve
from pt.rendezvous.epoch import EpochKeys
from pt.rendezvous.mailbox import Sealed
from pt.tunnel.media.progress import Meter
from pt.tunnel.media.stored import validate
from pt.tunnel.network import Network
from pt.wire.multiaddr import Multiaddr

__all__ = ["OverlayStore"]

MAX_SEEDS: Final = 32
MAX_ADDRESSES: Final = 64


class OverlayStore:
    """`seeds` are addresses of relays (TCP, the overlay's UDP port has the same number) or UDP."""

    medium = "overlay"

    def __init__(self, seeds: Sequence[Multiaddr], network: Network) -> None:
        self._seeds = tuple(dict.fromkeys(seeds))[:MAX_SEEDS]
        self._names = tuple(each for each in self._seeds if overlay_address(each) is None)
        self._missing = set(self._names)
        """Those of them that are not resolved."""
        self._network = network
        self._client: OverlayClient | None = None
        self._finding: asyncio.Task[None] | None = None
        self._failures: list[str] = []
        self._meter = Meter(self.medium, network.emit, self._sockets, time.monotonic)
        self._calls = 0
        self._told: dict[str, int] = {}
        """The counts of the client that were told of."""

    async def put(self, sealed: Sealed) -> str:
        """See `Store`."""
        client = await self._open()
        with self._metered(client) as stored_at:
            stored = await client.put(sealed.overlay_key, sealed.value)
            stored_at[0] = stored.acknowledged
        if stored.acknowledged or stored.refusals:
            self._network.note(self._seeds[0], None)
        if not stored.acknowledged:
            raise NetworkError(self._why(stored.asked, stored.refusals))
        return f"at {stored.acknowledged} of {stored.asked} relays"

    def _why(self, asked: int, refusals: Sequence[str]) -> str:
        if refusals:
            clock = " (is the clock wrong, here or there?)" if "expired" in refusals else ""
            return f"{asked} relays refused the record: {', '.join(refusals)}{clock}"
        self._missing = set(self._names)  # they may stand for something else by now
        where = ", ".join(str(seed) for seed in self._seeds[:3])
        return f"no relay answers on UDP ({where}): is UDP blocked, or --no-overlay set there?"

    async def values(
        self, epoch: EpochKeys, *, thorough: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """See `Store`; all that are near are asked anyway."""
        del thorough
        client = await self._open()
        before = client.counts.get("datagrams in", 0)
        nobody = True
        with self._metered(client):
            async with contextlib.aclosing(client.get(epoch.overlay_key)) as found:
                async for each in found:
                    nobody = False
                    yield each.value
        if client.counts.get("datagrams in", 0) > before:
            self._network.note(self._seeds[0], None)
        elif nobody:
            raise NetworkError(self._why(0, ()))

    def cost(self) -> str:
        """See `Store`."""
        if self._client is None:
            return ""
        counts = self._client.counts
        datagrams, carried = (
            sum(counts.get(f"{what} {way}", 0) for way in ("in", "out"))
            for what in ("datagrams", "bytes")
        )
        return f"{datagrams} datagrams, {carried / 1000:.0f} kB"

    def _sockets(self) -> int:
        """One for each family of addresses."""
        return (
            0 if self._client is None else len({":" in host for host, _ in self._client.bootstrap})
        )

    @contextlib.contextmanager
    def _metered(self, client: OverlayClient) -> Iterator[list[int]]:
        """Tell what a call has taken when it is over; its owner says who has stored the record."""
        self._calls += 1
        call, stored = self._calls, [0]
        self._meter.take(Progress.of(call, b"", Cost(), 0))
        try:
            yield stored
        finally:
            counts, told = client.counts, self._told
            self._told = counts
            count = {name: counts[name] - told.get(name, 0) for name in counts}
            cost = Cost(
                requests=count.get("datagrams out", 0),
                replies=count.get("datagrams in", 0),
                failures=count.get("timeouts", 0),
                sent=count.get("bytes out", 0),
                received=count.get("bytes in", 0),
            )
            self._meter.take(Progress.of(call, b"", cost, 0, stored=stored[0], done=True))

    async def close(self) -> None:
        """See `Store`."""
        if self._finding is not None:
            self._finding.cancel()
            await asyncio.wait([self._finding])
        if self._client is not None:
            await self._client.close()

    async def _open(self) -> OverlayClient:
        """The client; it waits for names only if nothing else is known.

        Raises:
            NetworkError: no relay's address is known.

        """
        client = self._client
        if client is None:
            plain = [found for each in self._seeds if (found := overlay_address(each))]
            client = self._client = OverlayClient(plain, validate)
        if self._missing and (self._finding is None or self._finding.done()):
            self._finding = asyncio.get_running_loop().create_task(self._find(client))
        if not client.bootstrap and self._finding is not None:
            await asyncio.shield(self._finding)
        if not client.bootstrap:
            raise NetworkError(f"no relay's address is known: {'; '.join(self._failures)}")
        return client

    async def _find(self, client: OverlayClient) -> None:
        """Resolve the names, and use what each stands for at once."""
        self._failures = []
        await asyncio.gather(*(self._find_one(client, each) for each in list(self._missing)))

    async def _find_one(self, client: OverlayClient, seed: Multiaddr) -> None:
        found, failures = await resolve([seed], self._network.resolver)
        for address, failure in failures.items():
            self._failures.append(f"{address}: {failure}")
            if isinstance(failure, DnsError):
                self._network.note(address, failure)
        if found:
            self._missing.discard(seed)
            client.bootstrap = tuple(dict.fromkeys((*found, *client.bootstrap)))[:MAX_ADDRESSES]
