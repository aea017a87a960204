"""An exposer's record on all media at once: published, kept up to date, withdrawn.

Each medium goes its own way: one that fails or is slow delays no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from pt.errors import NetworkError, PtError, StateError
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

__all__ = ["Publication"]

FRESH_FOR: Final = LIFE / 3
"""Seconds after which a record is made anew although nothing has changed."""
REFRESH: Final = 20.0
"""Seconds between looks at our own addresses; a change is published at once."""
ADDRESS_WAIT: Final = 3.0
"""Seconds that the DHTs wait at the start for an address that can be dialed from elsewhere."""
MAX_SERVICES: Final = 32
NAT: Final = "nat"
"""Fact of the record: b"none" where an interface has a public address, b"some" where none has."""


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
        self._refresher: asyncio.Task[None] | None = None
        self._results: dict[str, bool] = {}
        self._result = asyncio.Event()

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
        self._pushed = self._node.addresses
        if self._lan:
            await self._announce()
        self._refresher = asyncio.get_running_loop().create_task(self._refresh())

    async def wait(self) -> None:
        """Wait until one more medium has the record, or has failed."""
        await self._result.wait()
        self._result.clear()

    def changed(self) -> None:
        """Our addresses are others now."""
        self._changed.set()

    async def withdraw(self) -> None:
        """Take the record back: a goodbye on every medium that has it, and has goodbyes."""
        refresher, self._refresher = self._refresher, None
        if refresher is not None:
            refresher.cancel()
            await asyncio.wait([refresher])
        mailboxes, self._mailboxes = self._mailboxes, []
        publisher, self._publisher = self._publisher, None
        if self._announcer is not None:
            await self._announcer.close()
        try:
            if mailboxes:
                goodbye = self._sign(gone=True)
                await asyncio.gather(*(mailbox.withdraw(goodbye) for mailbox in mailboxes))
        except StateError as error:
            self._emit(events.Warned(message=f"no goodbye was published: {error}"))
        finally:
            if publisher is not None:
                await publisher.close()

    async def close(self) -> None:
        """Withdraw and let go of the media."""
        await self.withdraw()
        stores, self._stores = self._stores, ()
        await asyncio.gather(*(store.close() for store in stores))
        if self._open_dht is not None:
            await self._open_dht.close()

    # --- the record ----------------------------------------------------------------------------

    def _sign(self, *, gone: bool = False) -> Signed:
        now = time.time()
        addresses = self._node.addresses
        public = any(each.is_public and not each.is_circuit for each in addresses)
        record = Record(
            peer_id=self._node.peer_id,
            addresses=() if gone else addresses,
            seq=self._state.next_seq(now),
            expires=int(now) + LIFE,
            services=() if gone else self._ports[:MAX_SERVICES],
            gone=gone,
            facts=() if gone else ((NAT, b"none" if public else b"some"),),
        )
        self._said = addresses
        self._signed_at = now
        return Signed.make(record, self._keys, self._identity)

    def _current(self) -> Signed:
        """The record as it has to be now: the same for all media."""
        age = abs(time.time() - self._signed_at)
        if self._signed is None or self._said != self._node.addresses or age > FRESH_FOR:
            self._signed = self._sign()
        return self._signed

    # --- media ---------------------------------------------------------------------------------

    def _tell(self, medium: str, ok: bool, detail: str, seconds: float) -> None:
        self._results[medium] = ok
        self._result.set()
        self._emit(events.Published(medium=medium, ok=ok, detail=detail, seconds=round(seconds, 3)))

    async def _announce(self) -> None:
        started = time.monotonic()
        addresses = self._node.addresses
        try:
            port = next((a.tcp_port for a in addresses if a.tcp_port), 0)
            publisher = LanPublisher(
                instance_name(secrets.token_bytes(32)), self._full, self._sealed(), port
            )
            await publisher.start()
        except (NetworkError, StateError) as error:
            self._tell("lan", False, str(error), 0.0)
            return
        self._publisher = publisher
        self._announced = addresses
        self._tell("lan", True, "", time.monotonic() - started)

    @property
    def _full(self) -> tuple[Multiaddr, ...]:
        return tuple(a.with_peer(self._node.peer_id.raw) for a in self._node.addresses)

    def _sealed(self) -> bytes:
        record = self._current().record
        return seal(record, self._keys, self._identity, secrets.token_bytes(12))

    def _publish(self) -> None:
        """Begin with the DHTs."""
        for store in self._stores:

            def tell(ok: bool, detail: str, seconds: float, medium: str = store.medium) -> None:
                self._tell(medium, ok, detail, seconds)

            mailbox = MailboxPublisher(store, self._keys, self._current, tell)
            mailbox.start()
            self._mailboxes.append(mailbox)
        if self._open_dht is not None:
            medium = self._open_dht.medium
            self._announcer = self._open_dht.announcer(
                lambda: self._node.addresses, lambda *state: self._tell(medium, *state)
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
            try:
                await self._refresh_once()
            except (PtError, OSError, TimeoutError) as error:
                self._tell("lan", False, str(error), 0.0)

    @property
    def _can_be_dialed(self) -> bool:
        return any(each.is_circuit or each.is_public for each in self._node.addresses)

    async def _refresh_once(self) -> None:
        addresses = self._node.addresses
        old = abs(time.time() - self._signed_at) > FRESH_FOR
        if addresses != self._pushed:
            self._pushed = addresses
            push_all(self._node)
            for mailbox in self._mailboxes:
                mailbox.changed()
            if self._announcer is not None:
                self._announcer.changed()
        if not self._lan or not addresses:
            return
        if self._publisher is None:
            await self._announce()
        elif addresses != self._announced or old:
            self._announced = addresses
            await self._publisher.update(self._full, self._sealed())
