"""Client of the DHT: look-ups, puts and provider records over a callable that asks one peer.

The owner gives `ask`: it dials a peer, opens a stream of `PROTOCOL` and has `exchange` send one
request and read its reply, over a connection whose other end is the peer and nobody else. Here is
what a request may take in time, how many are under way together, who is asked, and what is
believed. Nothing runs in the background unless a search is open or a call is awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import FIRST_COMPLETED
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Generic, Self, TypeVar

from pt.aio.scope import Scope
from pt.aio.stream import ByteStream
from pt.errors import ClosedError, LocalProtocolError, PtError
from pt.identity.peer_id import PeerId
from pt.kad.keyspace import K, point
from pt.kad.lookup import Cost, Limits, Lookup, News
from pt.kad.messages import (
    KadMessageError,
    Message,
    MessageReader,
    MessageType,
    PeerInfo,
    Record,
)
from pt.kad.results import (
    Found,
    Progress,
    Stored,
    addresses,
    nothing,
    unanswered,
    valid_value,
)
from pt.kad.table import RoutingTable
from pt.wire.multiaddr import Multiaddr

__all__ = [
    "MAX_AT_ONCE",
    "Ask",
    "Client",
    "Search",
    "exchange",
]

Ask = Callable[[PeerInfo, Message], Awaitable[Message]]
"""Ask one peer; raises PtError, OSError or TimeoutError when there is no answer."""

T = TypeVar("T")

REQUEST_TIMEOUT: Final = 10.0
"""Seconds for one request of a look-up, with the dialing."""
STORE_TIMEOUT: Final = 30.0
"""Seconds for storing at one server, with the dialing, as Go."""
STORE_GRACE: Final = 3.0  # between two, once half of the servers have acknowledged
LOOKUP_TIMEOUT: Final = 60.0
MAX_AT_ONCE: Final = 30
"""Requests under way together, over all look-ups and stores: what they may use of sockets."""
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
    try:
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
    except BaseException:
        await stream.reset()
        raise
    return reply


async def _wait_end(stream: ByteStream) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            while await stream.read(_READ):
                pass


class Search(Generic[T]):
    """A look-up that runs as long as it is used in `async with`; iterate over what it finds.

        async with client.providers(key) as search:
            async for peer in search:
                ...

    The iteration ends with the look-up; leaving the block ends the look-up. `take` says what of an
    answer is a find, and raises a `PtError` when the answer is a lie.
    """

    def __init__(
        self,
        client: Client,
        lookup: Lookup,
        take: Callable[[PeerId, News], Iterable[T]],
        timeout: float,
    ) -> None:
        self.lookup: Final = lookup
        self.timed_out = False
        self._client = client
        self._take = take
        self._timeout = timeout
        self._found: deque[T] = deque()
        self._failed: list[PeerId] = []
        self._changed = asyncio.Event()
        self.wake = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._over = False

    @property
    def cost(self) -> Cost:
        """What it has cost so far."""
        return self.lookup.cost

    async def __aenter__(self) -> Self:
        self._runner = asyncio.get_running_loop().create_task(self._run())
        return self

    async def __aexit__(self, *error: object) -> None:
        runner = self._runner
        assert runner is not None
        runner.cancel()
        await asyncio.wait([runner])
        if not runner.cancelled() and (crash := runner.exception()) is not None:
            raise crash

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """What was found next.

        Raises:
            NetworkError: the look-up is over, and no server has answered.

        """
        while not self._found:
            if self._over:
                self._check()
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._found.popleft()

    async def finish(self) -> None:
        """Wait for the end of the look-up.

        Raises:
            NetworkError: no server has answered.

        """
        while not self._over:
            self._changed.clear()
            await self._changed.wait()
        self._check()

    def _check(self) -> None:
        if not self.lookup.cost.replies:
            raise unanswered(self.lookup.heard)

    async def _run(self) -> None:
        client, lookup = self._client, self.lookup
        scope = Scope(limit=MAX_AT_ONCE)
        client.searches.add(self)
        try:
            async with asyncio.timeout(self._timeout):
                await self._drive(scope)
        except TimeoutError:
            self.timed_out = True
        finally:
            lookup.stop()
            self._failed += lookup.stalled
            await scope.aclose()
            client.searches.discard(self)
            client.ended(lookup, self._failed)
            self._over = True
            self._changed.set()

    async def _drive(self, scope: Scope) -> None:
        client, lookup = self._client, self.lookup
        loop = asyncio.get_running_loop()
        while True:
            self.wake.clear()
            for peer in lookup.to_ask(loop.time(), client.room):
                client.take_slot()
                scope.start(self._ask(peer)).add_done_callback(client.release_slot)
            if lookup.done and (lookup.cost.replies or not client.seeding):
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(lookup.next_at(loop.time())):
                    await self.wake.wait()

    async def _ask(self, peer: PeerInfo) -> None:
        client, lookup = self._client, self.lookup
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                reply = await client.ask(peer, lookup.request)
            self._found.extend(self._take(peer.id, lookup.answered(peer.id, reply)))
        except (PtError, OSError, TimeoutError):
            lookup.failed(peer.id)
            self._failed.append(peer.id)
        except asyncio.CancelledError:
            raise  # the look-up is over, and nothing is known about the peer
        except BaseException:
            lookup.failed(peer.id)
            raise
        else:
            client.table.answered(peer, asyncio.get_running_loop().time())
        self._changed.set()
        client.report(lookup.request.key, lookup.cost, lookup.heard)


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
        limits: Limits | None = None,
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
        search = self._search(MessageType.FIND_NODE, key, nothing, timeout, patient=False)
        async with search:
            await search.finish()
        return search.lookup.closest()

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

        `timeout` is for finding them; each then has STORE_TIMEOUT.

        Raises:
            NetworkError: no server answered the look-up.
            LocalProtocolError: the value is too long for a message.

        """
        request = Message(MessageType.PUT_VALUE, key, Record(key, value))
        request.encode()
        return await self._store(await self.closest(key, timeout=timeout), request)

    async def provide(
        self, key: bytes, own_addresses: Sequence[Multiaddr], *, timeout: float = LOOKUP_TIMEOUT
    ) -> Stored:
        """Tell the K servers nearest to a key (a multihash) that we provide it.

        Public servers keep only public addresses and those through public relays, and ignore a
        record without addresses.

        Raises:
            NetworkError: no server answered the look-up.
            LocalProtocolError: there is no address.

        """
        if not own_addresses:
            raise LocalProtocolError("a provider record without addresses is ignored by servers")
        me = PeerInfo(self.own, tuple(own_addresses))
        request = Message(MessageType.ADD_PROVIDER, key, providers=(me,))
        request.encode()
        return await self._store(await self.closest(key, timeout=timeout), request)

    # --- for searches ----------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many more requests may be under way now."""
        return MAX_AT_ONCE - self._busy

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
        if lookup.cost.replies:  # otherwise it is we who are cut off
            for peer in failed:
                self.table.failed(peer)

    def report(self, key: bytes, cost: Cost, heard: int, stored: int = 0) -> None:
        """Say how far a call has come."""
        if self._on_progress is not None:
            self._on_progress(
                Progress(key, cost.requests, cost.replies, cost.failures, heard, stored)
            )

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
        patient: bool = True,
    ) -> Search[T]:
        now = asyncio.get_running_loop().time()
        bootstrap = self._bootstrap.values()
        lookup = Lookup(
            Message(kind, key),
            self.own,
            self.table.closest(point(key), K),
            bootstrap if self.table.fresh(now) < FRESH_ENOUGH else (),
            limits=self._limits,
            patient=patient,
            public_only=self._public_only,
        )
        return Search(self, lookup, take, timeout)

    async def _store(self, peers: Sequence[PeerInfo], request: Message) -> Stored:
        cost = Cost()
        acknowledged: set[PeerId] = set()
        scope = Scope(limit=len(peers))
        try:
            todo = {
                scope.start(self._store_at(peer, request, cost, acknowledged)) for peer in peers
            }
            while todo:
                patience = STORE_GRACE if 2 * len(acknowledged) >= len(peers) else None
                done, todo = await asyncio.wait(todo, timeout=patience, return_when=FIRST_COMPLETED)
                if not done:
                    break
        finally:
            await scope.aclose()
            self.spent.add(cost)
        return Stored(tuple(p.id for p in peers if p.id in acknowledged), len(peers), cost)

    async def _store_at(
        self, peer: PeerInfo, request: Message, cost: Cost, acknowledged: set[PeerId]
    ) -> None:
        wake = asyncio.Event()
        self._waiting.add(wake)
        try:
            while self.room <= 0:
                wake.clear()
                await wake.wait()
        finally:
            self._waiting.discard(wake)
        self.take_slot()
        cost.requests += 1
        cost.sent += len(request.encode())
        cost.at_once = max(cost.at_once, self._busy)
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                reply = await self.ask(peer, request)
            if reply.type != request.type or reply.record not in (None, request.record):
                raise KadMessageError("the peer acknowledged something else than it was to store")
        except (PtError, OSError, TimeoutError):
            cost.failures += 1
        else:
            cost.replies += 1
            cost.received += reply.size
            acknowledged.add(peer.id)
        finally:
            self.release_slot()
        self.report(request.key, cost, cost.requests, len(acknowledged))
