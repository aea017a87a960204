"""AutoRelay: keeps reservations at relays, so that a node behind a NAT can be reached.

Which relays to try, when to refresh and how long to leave a failed one alone is decided by
`pt.relay.autorelay`; this is its shell.  Source: libp2p specs `relay/circuit-v2.md`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pt.errors import PtError, RefusedError, UsageError
from pt.identity.peer_id import PeerId
from pt.multistream.negotiation import UnsupportedError
from pt.node.circuits import RELAY_KEEP_ALIVE, Circuits
from pt.node.connection import Connection
from pt.node.node import Node
from pt.node.standard import push_all
from pt.relay import aio as relay_aio
from pt.relay.autorelay import AutoRelay, Candidate
from pt.relay.messages import AUTH, HOP, Limit
from pt.relay.raw import AuthAnswer, Notice
from pt.wire.multiaddr import Multiaddr

__all__ = ["RelayNews", "Relays", "hop_addresses"]

RESERVE_TIMEOUT: Final = 20.0
MAX_ADDRESSES: Final = 4
TRANSPORTS: Final = ("tcp", "ws", "wss", "quic-v1")
"""How a relay may be reached."""
"""Addresses taken of one relay."""
MAX_TRUSTED: Final = 3600.0
"""Seconds for which a reservation is taken to stand at most, since only the time of day at which it
ends is told, and a machine without a clock of its own may be years behind.  Relays give an hour."""


@dataclass(frozen=True, slots=True)
class RelayNews:
    """What became of one relay; `detail` is human text, empty for a reservation that stands."""

    relay: PeerId
    held: bool
    detail: str = ""
    addresses: tuple[Multiaddr, ...] = ()
    seconds: float = 0.0
    limit: Limit | None = None
    given: bool = True


@dataclass(slots=True)
class _Held:
    connection: Connection
    addresses: tuple[Multiaddr, ...]
    control: asyncio.Task[None] | None = field(default=None)


class Relays:
    """Reservations of one node at `given` relays, and at others it meets if those do not suffice.

    `secret_key` (see `pt.relay.raw.secret_key`) makes us a user of the given relays rather than a
    stranger; `meet` allows relays that the user did not name.  `on_news` is told each change.
    """

    def __init__(
        self,
        node: Node,
        *,
        given: Sequence[Multiaddr],
        secret_key: bytes | None = None,
        want: int = 2,
        meet: bool = True,
        on_news: Callable[[RelayNews], None] = lambda _: None,
    ) -> None:
        self.circuits = Circuits(node, accepts=self.holds)
        self._node = node
        self._secret_key = secret_key
        self._on_news = on_news
        self._core = AutoRelay(want, random.Random())  # noqa: S311  # jitter and choice
        self._held: dict[PeerId, _Held] = {}
        self._given: set[PeerId] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._closed = False
        self._meet = meet
        now = self._now()
        for candidate in candidates(given):
            self._given.add(candidate.peer_id)
            self._core.offer(candidate, now)
        if meet:
            node.on_identified.append(self._met)

    # --- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look for relays."""
        self._runner = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Give every reservation up."""
        self._closed = True
        tasks = [*self._tasks, *(held.control for held in self._held.values() if held.control)]
        if self._runner is not None:
            tasks.append(self._runner)
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, PtError, OSError, TimeoutError):
                await task
        await self.circuits.close()

    def holds(self, relay: PeerId) -> bool:
        """Whether this relay holds a reservation of ours."""
        return relay in self._held

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """Our addresses through relays, without our own /p2p."""
        return tuple(address for held in self._held.values() for address in held.addresses)

    async def wait_first(self, timeout: float) -> bool:
        """Wait until a reservation stands, or every given relay has failed; whether one does."""
        failed_once: set[PeerId] = set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not self._held:
                    self._changed.clear()
                    failed_once = {peer for peer in self._given if self._core.failures(peer)}
                    if self._given and failed_once >= self._given:
                        break
                    await self._changed.wait()
        return bool(self._held)

    # --- the loop --------------------------------------------------------------------------------

    def _now(self) -> float:
        return time.monotonic()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            now = self._now()
            for peer in self._core.surplus(now):
                self._let_go(peer, "enough other relays hold one, or it has expired")
            for candidate in self._core.to_try(now):
                self._start(self._try(candidate))
            for peer in self._core.refresh_due(now):
                self._start(self._refresh(peer))
            at = self._core.next_at(self._now())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if at is None else max(0.05, at - self._now())):
                    await self._wake.wait()

    def _start(self, coro: object) -> None:
        assert asyncio.iscoroutine(coro)
        task = asyncio.get_running_loop().create_task(coro)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _met(self, connection: Connection) -> None:
        """A peer said who it is: it may be a relay."""
        usable = hop_addresses(connection)
        if usable:
            self.offer(connection.peer_id, usable)

    def offer(self, relay: PeerId, addresses: Sequence[Multiaddr]) -> None:
        """Hear of a relay that nobody named: it is tried when the others do not suffice."""
        if self._meet and addresses and relay != self._node.peer_id:
            named = tuple(address.with_peer(relay.raw) for address in addresses[:MAX_ADDRESSES])
            self._core.offer(Candidate(relay, named, given=False), self._now())
            self._wake.set()

    async def _try(self, candidate: Candidate) -> None:
        relay = candidate.peer_id
        started = self._now()
        try:
            async with asyncio.timeout(RESERVE_TIMEOUT):
                held, reserved = await self._reserve(candidate)
        except (PtError, OSError, TimeoutError) as error:
            self._core.failed(relay, self._now())
            self._tell(relay, False, _why(error))
            return
        self._held[relay] = held
        self._core.reserved(relay, self._expiry(reserved.expire), self._now())
        held.connection.on_close.append(lambda reason: self._lost(relay, held, reason))
        if held.connection.closed:
            self._lost(relay, held, held.connection.close_reason)
            return
        self._publish()
        self._tell(
            relay,
            True,
            addresses=held.addresses,
            seconds=self._now() - started,
            limit=reserved.limit,
        )

    async def _reserve(self, candidate: Candidate) -> tuple[_Held, relay_aio.Reserved]:
        failure: BaseException | None = None
        connection: Connection | None = None
        for address in candidate.addresses:
            try:
                connection = await self.circuits.relay_connection(address)
                break
            except (PtError, OSError, TimeoutError) as error:
                failure = error
        if connection is None:
            assert failure is not None
            raise failure
        self.circuits.use(connection)
        control: asyncio.Task[None] | None = None
        try:
            connection.link.set_keep_alive(RELAY_KEEP_ALIVE)
            if candidate.given:
                control = await self._authenticate(connection)
            reserved = await self._ask(connection)
        except BaseException:
            if control is not None:
                control.cancel()
            self.circuits.release(connection)
            raise
        return _Held(connection, self._usable(connection, candidate, reserved), control), reserved

    async def _ask(self, connection: Connection) -> relay_aio.Reserved:
        stream = await connection.open_stream((HOP,))
        try:
            return await relay_aio.reserve(
                stream, relay=connection.peer_id, peer=self._node.peer_id, now=time.time()
            )
        finally:
            stream.finish()

    async def _authenticate(self, connection: Connection) -> asyncio.Task[None] | None:
        """Prove the operator's secret to a `pt relay`, and listen to its notices."""
        try:
            stream = await connection.open_stream((AUTH,))
        except UnsupportedError:
            return None  # a relay of somebody else's make
        answer = await relay_aio.authenticate(
            stream,
            self._secret_key,
            client=self._node.peer_id,
            relay=connection.peer_id,
            binding=connection.handshake_hash,
        )
        if answer is AuthAnswer.NOTHING:
            raise RefusedError(
                "the relay is private: give its secret with --relay-secret-file, or ask its "
                f"operator to allow {self._node.peer_id}"
            )
        if answer is AuthAnswer.STRANGER and self._secret_key is not None:
            self._tell(
                connection.peer_id,
                False,
                "the relay does not know this secret, so that its limits for strangers apply",
            )

        async def listen() -> None:
            with contextlib.suppress(PtError):
                told = False
                while notice := await stream.read(1):
                    if notice[0] == Notice.DRAINING and not told:
                        told = True  # everybody we know is told of it: once is enough
                        self._core.draining(connection.peer_id, self._now())
                        self._tell(connection.peer_id, False, "the relay is about to stop")
                        self._wake.set()

        return asyncio.get_running_loop().create_task(listen())

    def _usable(
        self, connection: Connection, candidate: Candidate, reserved: relay_aio.Reserved
    ) -> tuple[Multiaddr, ...]:
        """The relay's addresses to publish: the one that we reached, then what it says itself."""
        relay = connection.peer_id
        wide = connection.remote_addr.is_public
        found = [address for address in candidate.addresses if _same_place(address, connection)]
        for address in reserved.addresses:
            if address.peer_id_bytes not in (None, relay.raw) or address.is_loopback:
                continue
            if address.transport in TRANSPORTS and (address.is_public or not wide):
                found.append(address)
        if not found:
            found.append(connection.remote_addr)
        named = dict.fromkeys(address.with_peer(relay.raw) for address in found)
        return tuple(address.through_circuit() for address in list(named)[:MAX_ADDRESSES])

    async def _refresh(self, relay: PeerId) -> None:
        held = self._held.get(relay)
        if held is None:
            return
        try:
            async with asyncio.timeout(RESERVE_TIMEOUT):
                reserved = await self._ask(held.connection)
        except (PtError, OSError, TimeoutError) as error:
            if self._held.get(relay) is not held:
                return  # lost in the meantime, which was told
            self._core.failed(relay, self._now())
            self._node.tracer.emit("refresh_failed", relay=str(relay), reason=_why(error))
            if relay not in self._core.held:
                self._let_go(relay, f"it does not renew the reservation: {_why(error)}")
        else:
            if self._held.get(relay) is held:
                self._core.reserved(relay, self._expiry(reserved.expire), self._now())
        self._wake.set()  # the next time to ask is another now

    def _expiry(self, expire: float) -> float:
        """A wall-clock time on the core's clock; ours may be hours behind the relay's."""
        return self._now() + min(MAX_TRUSTED, max(0.0, expire - time.time()))

    # --- changes ---------------------------------------------------------------------------------

    def _lost(self, relay: PeerId, held: _Held, reason: str) -> None:
        if self._held.get(relay) is not held or self._closed:
            return
        self._drop(relay)
        self._core.lost(relay, self._now())
        self._tell(relay, False, reason)

    def _let_go(self, relay: PeerId, reason: str) -> None:
        held = self._held.get(relay)
        if held is None:
            return
        self._drop(relay)
        self._tell(relay, False, reason)
        self.circuits.release(held.connection)

    def _drop(self, relay: PeerId) -> None:
        held = self._held.pop(relay)
        if held.control is not None:
            held.control.cancel()
        self._publish()

    def _publish(self) -> None:
        self._node.relayed = self.addresses
        push_all(self._node)

    def _tell(
        self,
        relay: PeerId,
        held: bool,
        detail: str = "",
        *,
        addresses: tuple[Multiaddr, ...] = (),
        seconds: float = 0.0,
        limit: Limit | None = None,
    ) -> None:
        given = relay in self._given
        self._on_news(RelayNews(relay, held, detail, addresses, seconds, limit, given))
        self._changed.set()
        self._wake.set()


def hop_addresses(connection: Connection) -> tuple[Multiaddr, ...]:
    """Where a peer that said who it is can be asked for reservations, if it is a relay at all."""
    said = connection.identified
    if said is None or HOP not in said.protocols or connection.relay is not None:
        return ()
    near = connection.remote_addr
    return tuple(
        address
        for address in said.listen_addresses
        if address.transport in ("tcp", "quic-v1")
        and not _is_named(address)  # a name could stand for any host, also one of ours
        and (address.is_public or (address.is_private and near.is_private))
    )[:MAX_ADDRESSES]


def candidates(given: Sequence[Multiaddr]) -> list[Candidate]:
    """Addresses of the same relay are one candidate.

    Raises:
        UsageError: one is not the address of a relay.

    """
    by_relay: dict[PeerId, list[Multiaddr]] = {}
    for address in given:
        raw_id = address.peer_id_bytes
        usable = address.transport in TRANSPORTS or address.is_dnsaddr
        if raw_id is None or not usable:
            raise UsageError(
                f"{address} is not a relay's address: give one like "
                "/ip4/192.0.2.1/tcp/4001/p2p/12D3…, as pt relay prints it"
            )
        by_relay.setdefault(PeerId(raw_id), []).append(address)
    return [Candidate(peer, tuple(found), given=True) for peer, found in by_relay.items()]


def _same_place(address: Multiaddr, connection: Connection) -> bool:
    """Whether the connection was dialed at this address (or at a host's name, which we keep)."""
    if address.is_dnsaddr:
        return False  # it may stand for what the relay is reached at by other means
    bare = address.without_peer()
    return bare == connection.remote_addr.without_peer() or _is_named(address)


def _is_named(address: Multiaddr) -> bool:
    return address.host is not None and address.host[0].startswith("dns")


def _why(error: BaseException) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else str(error)
