"""Provider records on the public DHT: how open tunnels are found by their id, by Go's too.

Nothing here is authenticated. Whoever guesses the id can say to provide it, and the records of
those who are gone stay for two days, for there is no taking back: so a search yields everybody, and
its owner dials them side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from pt.aio.scope import Scope
from pt.errors import NetworkError, PtError, message_of
from pt.identity.peer_id import PeerId
from pt.kad.aio import Client
from pt.kad.messages import MAX_ADDRESSES, PeerInfo
from pt.kad.results import Stored
from pt.tunnel.media.rounds import Rounds
from pt.wire.multiaddr import Multiaddr

__all__ = ["ProviderAnnouncer", "ProviderSearch", "reachable"]

OnState = Callable[[bool, str, float], None]
"""(ok, detail, seconds): how an attempt went; it must not raise."""

RENEWAL: Final = 11 * 3600.0
"""Seconds until a record is written again; servers keep one for 24 hours at least."""
CHECK: Final = 20.0
"""Seconds between looks at our own addresses."""
SPACING: Final = 10.0
"""Seconds between two attempts that a change of addresses causes."""
ADDRESS_WAIT: Final = 3.0
"""Seconds that the first attempt waits for an address, which a relay may be about to give."""
RETRY_FIRST: Final = 2.0
RETRY_MOST: Final = 300.0
"""Seconds from a failure to the next attempt."""

MAX_NEW: Final = 32
"""Providers that one round of a search adds; those that are left out come in the next ones."""
MAX_PROVIDERS: Final = 256
"""Providers that are remembered, and looked at in a round."""
AGAIN_FIRST: Final = 2.0
AGAIN_MOST: Final = 60.0
"""Seconds between two rounds."""
LOOK_UPS: Final = 4
"""Providers without addresses whose addresses are looked for at the same time."""
LOOK_UP_TIMEOUT: Final = 20.0
LOOK_AGAIN_FIRST: Final = 60.0
LOOK_AGAIN_MOST: Final = 1800.0
"""Seconds until they are looked for again."""


def reachable(addresses: Iterable[Multiaddr], *, public_only: bool = True) -> tuple[Multiaddr, ...]:
    """Those that servers keep: public ones and those through public relays, some of each.

    What we cannot dial ourselves, such as QUIC, is left out.
    """
    kept = [a for a in addresses if a.transport and (a.is_public or not public_only)]
    kept = [a for a in kept if not a.is_loopback]
    direct = [address for address in kept if not address.is_circuit]
    relayed = [address for address in kept if address.is_circuit]
    half = MAX_ADDRESSES // 2
    room = max(half, MAX_ADDRESSES - len(relayed))
    first = direct[:room]
    return (*first, *relayed[: MAX_ADDRESSES - len(first)])


class ProviderAnnouncer:
    """Says on the DHT that we provide `key`, again when our addresses change and in time.

    `addresses` gives them as they are now. `on_state` is told how each attempt went, the same
    failure once; ok means that servers took the record, and that a search finds us with an address.
    """

    def __init__(
        self,
        client: Client,
        key: bytes,
        addresses: Callable[[], Iterable[Multiaddr]],
        on_state: OnState,
        *,
        public_only: bool = True,
    ) -> None:
        self.published: tuple[Multiaddr, ...] = ()
        """What a search last found of us."""
        self._client = client
        self._key = key
        self._addresses = addresses
        self._on_state = on_state
        self._public_only = public_only
        self._failure = ""
        self._changed = asyncio.Event()
        self._scope = Scope(limit=1)

    def start(self) -> None:
        """Begin, in the background."""
        self._scope.start(self._run())

    def changed(self) -> None:
        """Our addresses may be others now; if so, say so at once."""
        self._changed.set()

    async def close(self) -> None:
        """Stop; what was published stays until it expires."""
        await self._scope.aclose()

    @property
    def _current(self) -> tuple[Multiaddr, ...]:
        return reachable(self._addresses(), public_only=self._public_only)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        retry = RETRY_FIRST
        if not self._current:  # a relay is being asked
            await self._wait(frozenset(), loop.time() + ADDRESS_WAIT)
        while True:
            began = loop.time()
            addresses = self._current
            if await self._try(addresses):
                retry, due = RETRY_FIRST, loop.time() + _jittered(RENEWAL)
            else:
                due = loop.time() + _jittered(retry)
                retry = min(retry * 2, RETRY_MOST)
            if await self._wait(frozenset(addresses), due) and addresses:
                retry = RETRY_FIRST
                await asyncio.sleep(max(0.0, began + SPACING - loop.time()))

    async def _wait(self, published: frozenset[Multiaddr], due: float) -> bool:
        """Wait until it is due, or until our addresses are others: whether they are."""
        loop = asyncio.get_running_loop()
        while frozenset(self._current) == published:
            self._changed.clear()
            if loop.time() >= due:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(due, loop.time() + CHECK)):
                    await self._changed.wait()
        return True

    async def _try(self, addresses: tuple[Multiaddr, ...]) -> bool:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            ok, detail = True, await self._publish(addresses)
        except (PtError, OSError, TimeoutError) as error:
            ok, detail = False, message_of(error)
        if ok or detail != self._failure:
            self._on_state(ok, detail, loop.time() - began)
        self._failure = "" if ok else detail
        return ok

    async def _publish(self, addresses: tuple[Multiaddr, ...]) -> str:
        """One attempt; what there is to say about it.

        Raises:
            PtError: nobody would find us, and why.

        """
        if not addresses:
            raise NetworkError(
                "no public address and no relay yet: servers of the public DHT keep no other "
                "addresses. Give a relay with --relay, or a forwarded port with --announce"
            )
        stored = await self._client.provide(self._key, addresses)
        if not stored.acknowledged:
            raise NetworkError(f"none of {stored.asked} servers of the DHT took the record")
        taken = _counted(stored)
        found = False
        async with self._client.providers(self._key, MAX_PROVIDERS) as search:
            async for peer in search:
                if peer.id == self._client.own:
                    found = True
                    there = tuple(each for each in addresses if each in peer.addresses)
                    if there:
                        self.published = there
                        return taken
        if found:
            raise NetworkError(f"{taken} took the record, and none of its addresses")
        raise NetworkError(f"{taken} took the record, and a search does not find it")


class ProviderSearch(Rounds):
    """Looks for those who provide `key`, in rounds until it is closed.

    `on_found(peer, addresses)` is told each one with addresses, and again when there are more of
    them; `on_state` whether somebody was found, when that changes. Of those whom records name
    without an address the addresses are looked for meanwhile.
    """

    first, most = AGAIN_FIRST, AGAIN_MOST

    def __init__(
        self,
        client: Client,
        key: bytes,
        on_found: Callable[[PeerId, tuple[Multiaddr, ...]], None],
        on_state: OnState,
        *,
        public_only: bool = True,
    ) -> None:
        super().__init__()
        self._client = client
        self._key = key
        self._on_found = on_found
        self._on_state = on_state
        self._public_only = public_only
        self._told: OrderedDict[PeerId, tuple[Multiaddr, ...]] = OrderedDict()
        self._tries: OrderedDict[PeerId, _Tries] = OrderedDict()
        self._looking = Scope(limit=LOOK_UPS)
        self._said: tuple[bool, str] | None = None
        self._began = 0.0

    async def close(self) -> None:
        """Stop."""
        await super().close()
        await self._looking.aclose()

    async def _round(self) -> bool:
        self._began = asyncio.get_running_loop().time()
        seen: dict[PeerId, None] = {}
        left_over = False
        try:
            left_over = await self._search(seen)
            detail = "nobody provides this id"
            if seen:
                detail = f"{len(seen)} say to provide this id, and nobody knows where they are"
        except (PtError, OSError, TimeoutError) as error:
            detail = message_of(error)
        if not any(self._told.get(peer) for peer in seen):
            self._say(False, detail)
        return left_over

    def _say(self, found: bool, detail: str = "") -> None:
        if self._said != (found, detail):
            self._said = found, detail
            self._on_state(found, detail, asyncio.get_running_loop().time() - self._began)

    async def _search(self, seen: dict[PeerId, None]) -> bool:
        """One search, collecting in `seen` who is named; whether somebody had to be left out.

        Raises:
            NetworkError: no server answered.

        """
        new = 0
        left_over = False
        async with self._client.providers(self._key, MAX_PROVIDERS) as search:
            async for peer in search:
                if peer.id == self._client.own:
                    continue
                seen[peer.id] = None
                if peer.id not in self._told and self._usable(peer):
                    if new == MAX_NEW:
                        left_over = True
                        continue
                    new += 1
                if not self._tell(peer) and peer.id not in self._tries:
                    self._look_up(peer.id)
        for peer_id in seen:  # after the new ones, those who were not found the last time
            if not self._told.get(peer_id):
                self._look_up(peer_id)
        return left_over

    def _usable(self, peer: PeerInfo) -> tuple[Multiaddr, ...]:
        return reachable(peer.addresses, public_only=self._public_only)

    def _tell(self, peer: PeerInfo) -> bool:
        """Pass on what is new of a provider; whether it has an address."""
        known = self._told.get(peer.id, ())
        merged = tuple(dict.fromkeys((*self._usable(peer), *known)))[:MAX_ADDRESSES]
        if not merged:
            return False
        self._told[peer.id] = merged
        self._told.move_to_end(peer.id)
        while len(self._told) > MAX_PROVIDERS:
            self._told.popitem(last=False)
        if set(merged) != set(known):
            self._on_found(peer.id, merged)
        self._say(True)
        return True

    # --- providers without an address ----------------------------------------------------------

    def _look_up(self, peer: PeerId) -> None:
        """Look for its addresses, unless that was tried lately, or enough are looked for."""
        now = asyncio.get_running_loop().time()
        tries = self._tries.get(peer, _Tries())
        if self._looking.full or now < tries.not_before:
            return
        wait = min(LOOK_AGAIN_FIRST * 2**tries.count, LOOK_AGAIN_MOST)
        self._tries[peer] = _Tries(tries.count + 1, now + LOOK_UP_TIMEOUT + wait)
        self._tries.move_to_end(peer)
        while len(self._tries) > MAX_PROVIDERS:
            self._tries.popitem(last=False)
        self._looking.start(self._find(peer))

    async def _find(self, peer: PeerId) -> None:
        async with self._client.find_peer(peer, timeout=LOOK_UP_TIMEOUT) as search:
            async for said in search:
                if self._tell(said):
                    return


@dataclass(frozen=True, slots=True)
class _Tries:
    """How often a provider's addresses were looked for, and when they may be again."""

    count: int = 0
    not_before: float = 0.0


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311  # not a secret


def _counted(stored: Stored) -> str:
    return f"{len(stored.acknowledged)} of {stored.asked} servers"
