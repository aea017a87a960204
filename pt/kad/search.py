"""One look-up on asyncio: asks whom `pt.kad.lookup` names, and yields what is found.

A part of the shell `pt.kad.aio`, whose `Client` makes searches and owns what they share: the places
for requests under way, the routing table, the count of what was spent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar

from pt.aio.scope import Scope
from pt.errors import PtError
from pt.identity.peer_id import PeerId
from pt.kad.lookup import Cost, Lookup, News
from pt.kad.messages import PeerInfo
from pt.kad.results import unanswered

if TYPE_CHECKING:
    from pt.kad.aio import Client

__all__ = ["LOOKUP_TIMEOUT", "MAX_AT_ONCE", "REQUEST_TIMEOUT", "Search"]

REQUEST_TIMEOUT: Final = 10.0
"""Seconds for one request, with the dialing."""
LOOKUP_TIMEOUT: Final = 60.0
MAX_AT_ONCE: Final = 30
"""Requests under way together, over all look-ups and stores: what they may use of sockets."""

T = TypeVar("T")


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
        client.report(lookup)
