"""An exposer's record on all media at once: published, kept up to date, withdrawn.

Each medium goes its own way: one that fails or is slow delays no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from pt.aio.scope import Scope
from pt.errors import PtError, StateError
from pt.identity.keys import PrivateKey
from pt.node.node import Node
from pt.node.standard import push_all
from pt.node.state import StateDir
from pt.rendezvous.lan import LanPublisher
from pt.rendezvous.mailbox import LIFE, Signed
from pt.rendezvous.mdns import instance_name
from pt.rendezvous.name import NameKeys
from pt.rendezvous.record import Record, seal
from pt.tunnel import events
from pt.tunnel.media.publisher import MailboxPublisher
from pt.tunnel.media.store import Store
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.tunnel.media.open_dht import OpenDht
    from pt.tunnel.media.providers import ProviderAnnouncer

__all__ = ["Publication", "most_useful"]

FRESH_FOR: Final = LIFE / 3
"""Seconds after which a record is made anew although nothing has changed."""
REFRESH: Final = 20.0
"""Seconds between looks at our own addresses; a change is published at once."""
ADDRESS_WAIT: Final = 3.0
"""Seconds that the DHTs wait at the start for an address that can be dialed from elsewhere."""
MAX_SERVICES: Final = 32
CLOCK_STEP: Final = 60.0
"""Seconds by which a clock that is set differs from one that is only kept right."""
EACH: Final = 5
"""Public addresses, those through relays and those of the local network that come first."""
NAT: Final = "nat"
"""Fact of the record: b"none" where an interface has a public address, b"some" where none has."""


def most_useful(addresses: Iterable[Multiaddr]) -> tuple[Multiaddr, ...]:
    """First those that lead here from elsewhere: what a record has no room for is cut at its end.

    A machine may have dozens of addresses of its own, of containers, say.
    """
    told = _in_turn(addresses)
    public = [each for each in told if each.is_public and not each.is_circuit][:EACH]
    relayed = [each for each in told if each.is_circuit][:EACH]
    near = [each for each in told if not each.is_public and not each.is_circuit]
    return tuple(dict.fromkeys((*public, *relayed, *near[:EACH], *told)))


def _in_turn(addresses: Iterable[Multiaddr]) -> tuple[Multiaddr, ...]:
    """Those over UDP between the others: a few of them stand for both kinds."""
    told = tuple(addresses)
    over_udp = [each for each in told if each.udp_port is not None]
    others = [each for each in told if each.udp_port is None]
    pairs = zip_longest(others, over_udp)
    return tuple(each for pair in pairs for each in pair if each is not None)


class Publication:
    """Keeps the record of one name on the LAN, if `lan`, and on `stores`, DHTs that it owns.

    So it does with the provider record of an open tunnel on `open_dht`, if there is one.
    """

    def __init__(
        self,
        node: Node,
        keys: NameKeys,
        identity: PrivateKey,
        state: StateDir,
        *,
        ports: tuple[int, ...],
        lan: bool,
        stores: Sequence[Store],
        open_dht: OpenDht | None = None,
        emit: Callable[[events.Event], None],
    ) -> None:
        self.news = asyncio.Event()
        """Set when a medium has the record, or has failed; whoever waits clears it."""
        self._node = node
        self._keys = keys
        self._identity = identity
        self._state = state
        self._ports = ports
        self._lan = lan
        self._stores = tuple(stores)
        self._open_dht = open_dht
        self._emit = emit
        self._publisher: LanPublisher | None = None
        self._announced: tuple[Multiaddr, ...] = ()
        self._mailboxes: list[MailboxPublisher] = []
        self._announcer: ProviderAnnouncer | None = None
        self._signed: Signed | None = None
        self._signed_at = 0.0
        self._said: tuple[Multiaddr, ...] = ()
        self._pushed: tuple[Multiaddr, ...] = ()
        self._changed = asyncio.Event()
        self._scope = Scope(limit=1)
        self._withdrawing: asyncio.Task[None] | None = None
        self._seq = 0
        self._ahead = 0.0
        self._unsaved = False
        self._lan_failure: str | None = None
        self._results: dict[str, bool] = {}

    @property
    def media(self) -> tuple[str, ...]:
        """Where it is published, as far as is known."""
        return tuple(medium for medium, ok in self._results.items() if ok)

    @property
    def has_stores(self) -> bool:
        """Whether there are DHTs to publish on."""
        return bool(self._stores) or self._open_dht is not None

    @property
    def settled(self) -> bool:
        """Whether each medium has once succeeded or failed."""
        wanted = len(self._stores) + self._lan + (self._open_dht is not None)
        return len(self._results) >= wanted

    @property
    def stored(self) -> frozenset[Multiaddr]:
        """The addresses in what was found again on a DHT."""
        found = [each.published.record for each in self._mailboxes if each.published is not None]
        opened = () if self._announcer is None else self._announcer.published
        return frozenset(address for record in found for address in record.addresses) | {*opened}

    async def start(self) -> None:
        """Publish, and go on doing so; returns when the LAN has it."""
        self._pushed = self._node.published
        self._clock_was_set()
        if self._lan:
            await self._announce()
        self._scope.start(self._refresh())

    def changed(self) -> None:
        """Our addresses are others now."""
        self._changed.set()

    async def withdraw(self) -> None:
        """Take the record back: a goodbye on every medium that has it, and has goodbyes.

        All at once: a DHT that does not answer keeps the others waiting for nothing. It goes on
        when whoever waits for it is cancelled, until `close`.
        """
        if self._withdrawing is None:
            self._withdrawing = asyncio.get_running_loop().create_task(self._withdraw())
        await asyncio.wait([self._withdrawing])

    async def _withdraw(self) -> None:
        await self._scope.aclose()
        mailboxes, self._mailboxes = self._mailboxes, []
        goodbye = self._sign(gone=True) if mailboxes else None
        others = (self._announcer, self._publisher)
        self._publisher = None
        await asyncio.gather(
            *(each.close() for each in others if each is not None),
            *(mailbox.withdraw(goodbye) for mailbox in mailboxes if goodbye is not None),
        )

    async def close(self) -> None:
        """Withdraw and let go of the media."""
        try:
            await self.withdraw()
        finally:
            if self._withdrawing is not None:
                self._withdrawing.cancel()
            media = (*self._stores, self._open_dht)
            await asyncio.gather(*(each.close() for each in media if each is not None))

    # --- the record ----------------------------------------------------------------------------

    def _sign(self, *, gone: bool = False) -> Signed:
        now = time.time()
        addresses = self._node.published
        public = any(each.is_public and not each.is_circuit for each in addresses)
        record = Record(
            peer_id=self._node.peer_id,
            addresses=() if gone else most_useful(addresses),
            seq=self._next_seq(now),
            expires=int(now) + LIFE,
            services=() if gone else self._ports[:MAX_SERVICES],
            gone=gone,
            facts=() if gone else ((NAT, b"none" if public else b"some"),),
        )
        self._said = addresses
        self._signed_at = now
        return Signed.make(record, self._keys, self._identity)

    def _next_seq(self, now: float) -> int:
        """One above all before; a full disk is no reason not to be found where we are now."""
        try:
            given = self._state.next_seq(now)
        except StateError as error:
            given = int(now * 1000)
            if not self._unsaved:
                told = f"the number of the record is not written down, the clock gives it: {error}"
                self._emit(events.Warned(message=told))
            self._unsaved = True
        self._seq = max(given, self._seq + 1)
        return self._seq

    def _current(self) -> Signed:
        """The record as it has to be now: the same for all media."""
        age = abs(time.time() - self._signed_at)
        if self._signed is None or self._said != self._node.published or age > FRESH_FOR:
            self._signed = self._sign()
        return self._signed

    # --- media ---------------------------------------------------------------------------------

    def _tell(self, medium: str, ok: bool, detail: str, seconds: float) -> None:
        self._results[medium] = ok
        self.news.set()
        self._emit(events.Published(medium=medium, ok=ok, detail=detail, seconds=round(seconds, 3)))

    async def _announce(self) -> None:
        started = time.monotonic()
        addresses = self._node.addresses
        try:
            port = next((a.tcp_port for a in addresses if a.tcp_port), 0)
            publisher = LanPublisher(
                instance_name(secrets.token_bytes(32)), self._full, self._sealed(), port
            )
            try:
                await publisher.start()
            except BaseException:
                await publisher.close()
                raise
        except (PtError, OSError) as error:
            self._tell_lan(str(error), 0.0)
            return
        self._publisher = publisher
        self._announced = addresses
        self._tell_lan("", time.monotonic() - started)

    async def _announce_again(self) -> None:
        assert self._publisher is not None
        started = time.monotonic()
        addresses = self._node.addresses
        try:
            await self._publisher.update(self._full, self._sealed())
        except (PtError, OSError) as error:
            self._tell_lan(str(error), 0.0)
            return
        self._announced = addresses
        self._tell_lan("", time.monotonic() - started)

    def _tell_lan(self, failure: str, seconds: float) -> None:
        """How the local network does, when that changes."""
        if failure != self._lan_failure:
            self._lan_failure = failure
            self._tell("lan", not failure, failure, seconds)

    @property
    def _full(self) -> tuple[Multiaddr, ...]:
        return tuple(a.with_peer(self._node.peer_id.raw) for a in self._node.addresses)

    def _sealed(self) -> bytes:
        """The LAN's record: others there may get in where nobody from outside does."""
        record = replace(self._current().record, addresses=most_useful(self._node.addresses))
        return seal(record, self._keys, self._identity, secrets.token_bytes(12))

    def _publish(self) -> None:
        """Begin with the DHTs."""
        for store in self._stores:

            def tell(ok: bool, detail: str, seconds: float, medium: str = store.medium) -> None:
                self._tell(medium, ok, detail, seconds)

            mailbox = MailboxPublisher(store, self._keys, self._current, tell, wall=time.time)
            mailbox.start()
            self._mailboxes.append(mailbox)
        if self._open_dht is not None:
            medium = self._open_dht.medium
            self._announcer = self._open_dht.announcer(
                lambda: self._node.published, lambda *state: self._tell(medium, *state)
            )
            self._announcer.start()

    async def _refresh(self) -> None:
        """Publish when there is something to say, and again when it changes or grows old."""
        loop = asyncio.get_running_loop()
        begin_at = loop.time() + ADDRESS_WAIT
        while True:
            waiting = self.has_stores and not (self._mailboxes or self._announcer)
            if waiting and (self._can_be_dialed or loop.time() >= begin_at):
                self._publish()
                waiting = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(begin_at - loop.time() if waiting else REFRESH):
                    await self._changed.wait()
            self._changed.clear()
            await self._refresh_once()

    def _clock_was_set(self) -> bool:
        """Whether it is another time than it was said to be: then it may be another day's mailbox.

        Small machines start without a clock, and learn of the time when the network is there.
        """
        ahead, before = time.time() - time.monotonic(), self._ahead
        self._ahead = ahead
        return abs(ahead - before) > CLOCK_STEP

    @property
    def _can_be_dialed(self) -> bool:
        return any(each.is_circuit or each.is_public for each in self._node.published)

    async def _refresh_once(self) -> None:
        addresses = self._node.addresses
        old = abs(time.time() - self._signed_at) > FRESH_FOR
        published = self._node.published
        moved = published != self._pushed
        if moved:
            self._pushed = published
            push_all(self._node)
            if self._announcer is not None:
                self._announcer.changed()
        if self._clock_was_set() or moved:
            for mailbox in self._mailboxes:
                mailbox.changed()
        if not self._lan or not addresses:
            return
        if self._publisher is None:
            await self._announce()
        elif addresses != self._announced or old or self._lan_failure:
            await self._announce_again()
