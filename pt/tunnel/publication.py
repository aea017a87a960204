"""An exposer's record on the local network: published, kept up to date, withdrawn."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from typing import Final

from pt.errors import NetworkError, PtError, StateError
from pt.identity.keys import PrivateKey
from pt.node.node import Node
from pt.node.standard import push_all
from pt.node.state import StateDir
from pt.rendezvous.lan import LanPublisher
from pt.rendezvous.mdns import instance_name
from pt.rendezvous.name import NameKeys
from pt.rendezvous.record import Record, seal
from pt.tunnel import events
from pt.wire.multiaddr import Multiaddr

__all__ = ["Publication"]

RECORD_LIFE: Final = 3600
REFRESH: Final = 20.0
"""Seconds between looks at our own addresses; a change is published at once."""
MAX_SERVICES: Final = 32


class Publication:
    """Keeps the record of one name; `lan` says whether there is a medium to publish it on."""

    def __init__(
        self,
        node: Node,
        keys: NameKeys,
        identity: PrivateKey,
        state: StateDir,
        *,
        ports: tuple[int, ...],
        lan: bool,
        emit: Callable[[events.Event], None],
    ) -> None:
        self._node = node
        self._keys = keys
        self._identity = identity
        self._state = state
        self._ports = ports
        self._lan = lan
        self._emit = emit
        self._publisher: LanPublisher | None = None
        self._published: tuple[Multiaddr, ...] = ()
        self._changed = asyncio.Event()
        self._refresher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Publish, and go on doing so."""
        if self._lan:
            await self._publish()
        self._refresher = asyncio.get_running_loop().create_task(self._refresh())

    def changed(self) -> None:
        """Our addresses are others now."""
        self._changed.set()

    async def withdraw(self) -> None:
        """Take the record back."""
        if self._refresher is not None:
            self._refresher.cancel()
            with contextlib.suppress(asyncio.CancelledError, PtError, OSError):
                await self._refresher
            self._refresher = None
        if self._publisher is not None:
            await self._publisher.close()
            self._publisher = None

    @property
    def _full(self) -> tuple[Multiaddr, ...]:
        return tuple(a.with_peer(self._node.peer_id.raw) for a in self._node.addresses)

    async def _publish(self) -> None:
        started = time.monotonic()
        addresses = self._node.addresses
        try:
            sealed = self._sealed(addresses)
            port = next((a.tcp_port for a in addresses if a.tcp_port), 0)
            publisher = LanPublisher(
                instance_name(secrets.token_bytes(32)), self._full, sealed, port
            )
            await publisher.start()
        except (NetworkError, StateError) as error:
            self._emit(events.Published(medium="lan", ok=False, detail=str(error)))
            return
        self._publisher = publisher
        self._published = addresses
        self._emit(
            events.Published(medium="lan", ok=True, seconds=round(time.monotonic() - started, 3))
        )

    def _sealed(self, addresses: tuple[Multiaddr, ...]) -> bytes:
        now = time.time()
        record = Record(
            peer_id=self._node.peer_id,
            addresses=addresses,
            seq=self._state.next_seq(now),
            expires=int(now) + RECORD_LIFE,
            services=self._ports[:MAX_SERVICES],
        )
        return seal(record, self._keys, self._identity, secrets.token_bytes(12))

    async def _refresh(self) -> None:
        """Publish again when our addresses change, and before the record expires."""
        age = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH):
                    await self._changed.wait()
            self._changed.clear()
            age += REFRESH
            addresses = self._node.addresses
            publisher = self._publisher
            if publisher is None and self._lan and addresses:
                await self._publish()
            elif publisher is not None and (addresses != self._published or age > RECORD_LIFE / 3):
                age = 0.0
                changed = addresses != self._published
                self._published = addresses
                try:
                    await publisher.update(self._full, self._sealed(addresses))
                    if changed:
                        push_all(self._node)
                except (PtError, OSError, TimeoutError) as error:
                    self._emit(events.Published(medium="lan", ok=False, detail=str(error)))
