"""Client of the DHT: look-ups, puts and provider records over a callable that asks one peer.

The owner gives `ask`: it dials a peer, opens a stream of `PROTOCOL` and has `exchange` send one
request and read its reply, over a connection whose other end is the peer and nobody else. Here is
what a request may take in time, how many are under way together, who is asked, and what is
believed. Nothing runs in the background unless a search is open or a call is awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from pt.aio.scope import Scope
from pt.aio.stream import ByteStream, ResetOnError
from pt.errors import ClosedError, LocalProtocolError, PtError, ResetError
from pt.identity.peer_id import PeerId
from pt.kad.keyspace import K, point
from pt.kad.lookup import Cost, Limits, Lookup, News
from pt.kad.messages import KadMessageError, Message, MessageReader, MessageType, PeerInfo, Record
from pt.kad.placement import MOST, Placement, reserve
from pt.kad.results import Found, Progress, Stored, addresses, nothing, valid_value
from pt.kad.search import LOOKUP_TIMEOUT, MAX_AT_ONCE, Search
from pt.kad.table import RoutingTable
from pt.wire.multiaddr import Multiaddr

__all__ = [
    "MAX_AT_ONCE",
    "Ask",
    "Client",
    "exchange",
]

Ask = Callable[[PeerInfo, Message], Awaitable[Message]]
"""Ask one peer; raises PtError, OSError or TimeoutError when there is no answer."""

T = TypeVar("T")

STORE_TIMEOUT: Final = 30.0
"""Seconds for storing at one server, with the dialing, as Go."""
FRESH_ENOUGH: Final = 3
"""With fewer servers that have answered lately, bootstrap peers are asked along with them."""
MAX_BOOTSTRAP: Final = 64
_READ: Final = 16 * 1024
_CLOSE_TIMEOUT: Final = 5.0
"""Seconds a server has for taking note of a provider record, which it never answers."""


async def exchange(stream: ByteStream, request: Message) -> Message:
    """Send a request on a fresh stream and read the reply; the stream is over then.

    ADD_PROVIDER has no reply: it was taken if the server ends the stream without a reset, or does
    nothing for a while; the request itself is returned.

    Raises:
        KadMessageError: the reply is malformed or too long.
        ClosedError: the stream ended first.

    """
    async with ResetOnError(stream):
        await stream.write(request.encode())
        await stream.close_write()
        reader = MessageReader()
        reply: Message | None = None
        if request.type is MessageType.ADD_PROVIDER:
            await _wait_end(stream)
            reply = request
        while reply is None:
            data = await stream.read(_READ)
            if not data:
                raise ClosedError("the peer closed the stream without a reply")
            reply = reader.receive_data(data)
        if reader.cut:
            await stream.reset()
    return reply


async def _wait_end(stream: ByteStream) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            while await stream.read(_READ):
                pass


class Client:
    """A client of the DHT; its table grows by every look-up.

    `table.to_json` is worth keeping. `bootstrap` peers are asked when the table knows nobody who
    has answered lately. All methods need a running loop; the times are seconds.
    """

    def __init__(
        self,
        ask: Ask,
        own: PeerId,
        *,
        bootstrap: Iterable[PeerInfo] = (),
        limits: Limits = Limits(),  # noqa: B008  # frozen
        public_only: bool = True,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.ask: Final = ask
        self.own: Final = own
        self.table: Final = RoutingTable(own, public_only=public_only)
        self.spent: Final = Cost()
        """What all calls together have cost."""
        self.searches: Final[set[Search[Any]]] = set()
        self.seeding = False
        """Whether `offer` is still to come: look-ups that nobody has answered wait for it."""
        self._public_only = public_only
        self._limits = limits
        self._on_progress = on_progress
        self._bootstrap: dict[PeerId, PeerInfo] = {}
        self._busy = 0
        self._waiting: set[asyncio.Event] = set()
        self.offer(bootstrap)

    # --- calls -----------------------------------------------------------------------------------

    def offer(self, peers: Iterable[PeerInfo]) -> None:
        """Learn of bootstrap peers, at most MAX_BOOTSTRAP.

        Look-ups under way to which nobody has answered yet use them, and what the table knows now.
        """
        told = list(peers)
        for peer in told:
            if len(self._bootstrap) < MAX_BOOTSTRAP or peer.id in self._bootstrap:
                self._bootstrap[peer.id] = peer
        for search in self.searches:
            near = self.table.closest(point(search.lookup.request.key), K)
            search.lookup.add_seeds([*told, *near])
        self._wake_searches()

    def seeded(self) -> None:
        """Nobody else will be offered for now."""
        self.seeding = False
        self._wake_searches()

    async def closest(self, key: bytes, *, timeout: float = LOOKUP_TIMEOUT) -> list[PeerInfo]:
        """The K servers nearest to a key, nearest first; in the end those that were found by then.

        Raises:
            NetworkError: no server answered.

        """
        return (await self._find(key, timeout, self._limits)).closest()

    async def refresh(self, *, timeout: float = LOOKUP_TIMEOUT) -> list[PeerInfo]:
        """Look for ourselves: fills the table, and the nearest servers see us.

        Raises:
            NetworkError: no server answered.

        """
        return await self.closest(self.own.raw, timeout=timeout)

    def get_value(
        self, key: bytes, validate: Callable[[bytes], object], *, timeout: float = LOOKUP_TIMEOUT
    ) -> Search[Found]:
        """Each value under a key, with who had it; `validate` raises a PtError for a bad one.

        Who has a bad one is not believed in this look-up any more.
        """

        def take(peer: PeerId, news: News) -> Iterable[Found]:
            return valid_value(peer, news, validate)

        return self._search(MessageType.GET_VALUE, key, take, timeout)

    def find_peer(self, peer: PeerId, *, timeout: float = LOOKUP_TIMEOUT) -> Search[PeerInfo]:
        """The addresses of a peer, again with each reply that knows more of them: try them."""
        return self._search(MessageType.FIND_NODE, peer.raw, addresses, timeout)

    def providers(
        self, key: bytes, count: int, *, timeout: float = LOOKUP_TIMEOUT
    ) -> Search[PeerInfo]:
        """Who says to provide a key (a multihash): `count` peers with addresses, if there are.

        One comes again when more addresses of it are known; one without any is to be looked for
        with `find_peer`. Nothing is verified: dial them all.
        """
        complete: set[PeerId] = set()

        def take(peer: PeerId, news: News) -> Iterable[PeerInfo]:
            del peer
            complete.update(found.id for found in news.providers if found.addresses)
            if len(complete) >= count:
                search.lookup.stop()
            return news.providers

        search = self._search(MessageType.GET_PROVIDERS, key, take, timeout)
        return search

    async def put_value(
        self, key: bytes, value: bytes, *, timeout: float = LOOKUP_TIMEOUT
    ) -> Stored:
        """Store a value at the K servers nearest to its key, all in parallel.

        `timeout` is for finding them; each then has STORE_TIMEOUT. What the store itself takes is
        kept back from the budget of the look-up, up to half of it; when the budget is used up, the
        nearest servers known by then are stored at.

        Raises:
            NetworkError: no server answered the look-up.
            LocalProtocolError: the value is too long for a message.

        """
        request = Message(MessageType.PUT_VALUE, key, Record(key, value))
        return await self._store(request, timeout)

    async def provide(
        self, key: bytes, own_addresses: Sequence[Multiaddr], *, timeout: float = LOOKUP_TIMEOUT
    ) -> Stored:
        """Tell the K servers nearest to a key (a multihash) that we provide it, as `put_value`.

        Public servers keep only public addresses and those through public relays, and ignore a
        record without addresses.

        Raises:
            NetworkError: no server answered the look-up.
            LocalProtocolError: there is no address.

        """
        if not own_addresses:
            raise LocalProtocolError("a provider record without addresses is ignored by servers")
        me = PeerInfo(self.own, tuple(own_addresses))
        return await self._store(Message(MessageType.ADD_PROVIDER, key, providers=(me,)), timeout)

    # --- for searches ----------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many more requests may be under way now."""
        return MAX_AT_ONCE - self._busy

    @property
    def idle(self) -> bool:
        """Whether nothing is looked for, or stored."""
        return not self.searches and not self._busy

    def take_slot(self) -> None:
        """One more request is under way."""
        self._busy += 1
        self.spent.at_once = max(self.spent.at_once, self._busy)

    def release_slot(self, _: object = None) -> None:
        """A request is over: somebody else may have its turn."""
        self._busy -= 1
        for event in self._waiting:
            event.set()
        self._wake_searches()

    def ended(self, lookup: Lookup, failed: Iterable[PeerId]) -> None:
        """Account for a look-up that is over; who failed or stalled leaves the table."""
        self.spent.add(lookup.cost)
        self.report(lookup, done=True)
        if lookup.cost.replies:  # otherwise it is we who are cut off
            for peer in failed:
                self.table.failed(peer)

    def report(self, lookup: Lookup, *, done: bool = False) -> None:
        """Say how far a look-up has come."""
        if self._on_progress is not None:
            call, key = id(lookup), lookup.request.key
            cut = done and lookup.cut
            self._on_progress(Progress.of(call, key, lookup.cost, lookup.heard, done=done, cut=cut))

    # --- inside ----------------------------------------------------------------------------------

    def _wake_searches(self) -> None:
        for search in self.searches:
            search.wake.set()

    def _search(
        self,
        kind: MessageType,
        key: bytes,
        take: Callable[[PeerId, News], Iterable[T]],
        timeout: float,
        *,
        limits: Limits | None = None,
        patient: bool = True,
        follow_up: bool = True,
    ) -> Search[T]:
        now = asyncio.get_running_loop().time()
        bootstrap = self._bootstrap.values()
        lookup = Lookup(
            Message(kind, key),
            self.own,
            self.table.closest(point(key), K),
            bootstrap if self.table.fresh(now) < FRESH_ENOUGH else (),
            limits=limits or self._limits,
            patient=patient,
            follow_up=follow_up,
            public_only=self._public_only,
        )
        return Search(self, lookup, take, timeout)

    async def _find(
        self, key: bytes, timeout: float, limits: Limits, *, follow_up: bool = True
    ) -> Lookup:
        """Look for the servers nearest to a key.

        Raises:
            NetworkError: no server answered.

        """
        kind = MessageType.FIND_NODE
        search = self._search(
            kind, key, nothing, timeout, limits=limits, patient=False, follow_up=follow_up
        )
        async with search:
            await search.finish()
        return search.lookup

    async def _store(self, request: Message, timeout: float) -> Stored:
        """Find the nearest servers, and have them store what is in the request.

        Raises:
            NetworkError: no server answered the look-up.
            LocalProtocolError: the request is too long.

        """
        budget = self._limits.budget
        kept = min(reserve(len(request.encode())), budget // 2)
        limits = replace(self._limits, budget=budget - kept)
        lookup = await self._find(request.key, timeout, limits, follow_up=False)
        return await self._spread(lookup.closest(MOST), request)

    async def _spread(self, candidates: Sequence[PeerInfo], request: Message) -> Stored:
        """Store at the nearest of the candidates."""
        loop = asyncio.get_running_loop()
        placement, cost = Placement(candidates), Cost()
        scope = Scope(limit=MOST)
        wake = asyncio.Event()
        self._waiting.add(wake)
        try:
            while not placement.done:
                wake.clear()
                for peer in placement.to_ask(loop.time(), self.room):
                    self.take_slot()
                    cost.requests += 1
                    cost.at_once = max(cost.at_once, self._busy)
                    work = self._store_at(peer, request, placement, cost)
                    scope.start(work).add_done_callback(self.release_slot)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(placement.next_at(loop.time())):
                        await wake.wait()
        finally:
            self._waiting.discard(wake)
            await scope.aclose()
            self.spent.add(cost)
            self._tell(placement, request.key, cost, done=True)
        return Stored(placement.acknowledged, placement.wanted, cost)

    async def _store_at(
        self, peer: PeerInfo, request: Message, placement: Placement, cost: Cost
    ) -> None:
        loop = asyncio.get_running_loop()
        cost.sent += len(request.encode())
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                reply = await self.ask(peer, request)
            cost.received += reply.size
            cost.overhead += reply.overhead
            if reply.type != request.type or reply.record not in (None, request.record):
                raise KadMessageError("the peer acknowledged something else than it was to store")
        except (ResetError, KadMessageError):
            cost.failures += 1
            placement.refuse(peer.id, loop.time())
        except (PtError, OSError, TimeoutError):
            cost.failures += 1
            self.table.failed(peer.id)
            placement.fail(peer.id)
        except BaseException:
            placement.fail(peer.id)
            raise
        else:
            cost.replies += 1
            self.table.answered(peer, loop.time())
            placement.acknowledge(peer.id, loop.time())
        self._tell(placement, request.key, cost)

    def _tell(self, placement: Placement, key: bytes, cost: Cost, *, done: bool = False) -> None:
        """Say how far a store has come."""
        if self._on_progress is not None:
            stored = len(placement.acknowledged)
            call = id(placement)
            self._on_progress(Progress.of(call, key, cost, cost.requests, stored=stored, done=done))
