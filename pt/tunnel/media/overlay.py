"""The overlay of `pt relay`s as a medium.

Its servers are where the relays are, on UDP; relays that are given by name are resolved when they
are needed, and again after a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from pt.errors import NetworkError
from pt.overlay.aio import OverlayClient, resolve
from pt.rendezvous.epoch import EpochKeys
from pt.rendezvous.mailbox import Sealed
from pt.tunnel.media.stored import validate
from pt.wire.multiaddr import Multiaddr

__all__ = ["OverlayStore"]

RESOLVE_TIMEOUT: Final = 5.0
MAX_SEEDS: Final = 32


class OverlayStore:
    """`seeds` are addresses of relays (TCP, the overlay's UDP port has the same number) or UDP."""

    medium = "overlay"

    def __init__(self, seeds: Sequence[Multiaddr]) -> None:
        self._seeds = tuple(seeds)[:MAX_SEEDS]
        self._client: OverlayClient | None = None
        self._unresolved = False
        self._lock = asyncio.Lock()

    async def put(self, sealed: Sealed) -> str:
        """See `Store`."""
        client = await self._open()
        stored = await client.put(sealed.overlay_key, sealed.value)
        if not stored.acknowledged:
            raise NetworkError(self._why(stored.asked, stored.refusals))
        return f"at {stored.acknowledged} of {stored.asked} relays"

    def _why(self, asked: int, refusals: Sequence[str]) -> str:
        if refusals:
            return f"{asked} relays refused the record: {', '.join(refusals)}"
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
        async with contextlib.aclosing(client.get(epoch.overlay_key)) as found:
            async for each in found:
                nobody = False
                yield each.value
        if nobody and client.counts.get("datagrams in", 0) == before:
            raise NetworkError(self._why(0, ()))

    def cost(self) -> str:
        """See `Store`."""
        return ""

    async def close(self) -> None:
        """See `Store`."""
        if self._client is not None:
            await self._client.close()

    async def _open(self) -> OverlayClient:
        async with self._lock:
            if self._client is None or self._unresolved:
                seeds = await self._resolve()
                if self._client is not None:
                    await self._client.close()
                self._client = OverlayClient(seeds, validate)
            return self._client

    async def _resolve(self) -> list[tuple[str, int]]:
        """The addresses of the seeds, those of names too.

        Raises:
            NetworkError: none is known.

        """
        seeds: list[tuple[str, int]] = []
        failures: list[str] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RESOLVE_TIMEOUT):
                seeds, failures = await resolve(self._seeds)
        self._unresolved = bool(failures) or not seeds
        if not seeds:
            why = "; ".join(failures) or "the DNS does not answer"
            raise NetworkError(f"no relay's address is known: {why}")
        return seeds
