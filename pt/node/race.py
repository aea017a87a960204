"""One dial of one peer: staggered attempts in parallel, the first finished upgrade wins.

Names are looked up beside them, and what they stand for joins the attempts: a DNS that is slow or
dead delays nothing that can be dialed without it.

Source: RFC 8305, sections 3 and 5, with "connected" meaning authenticated and multiplexed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pt.errors import ConnectError, Dial, DialOutcome, PtError
from pt.identity.peer_id import PeerId
from pt.node.diagnosis import outcome_of, reason_of
from pt.node.dial_plan import MAX_ADDRESSES, Attempt
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.node.connection import Connection

__all__ = ["Dials", "Race", "party_of"]


class Dials(Protocol):
    """Who dials one address: a node."""

    async def dial_one(
        self, address: Multiaddr, expected: PeerId | None, security: Sequence[str]
    ) -> Connection:
        """Dial and upgrade one address."""
        ...


def party_of(address: Multiaddr, expected: PeerId | None) -> str:
    """Who is dialed at an address: the relay, if it leads through one."""
    if address.is_circuit:
        raw = next((value for name, value in address.components if name == "p2p"), None)
        return raw or ""
    return "" if expected is None else str(expected)


def _close_late(task: asyncio.Task[Connection]) -> None:
    """An attempt that ends after the race: nobody wants its connection, or why it failed."""
    if not task.cancelled() and task.exception() is None:
        task.result().close("another address was faster")


class Race:
    """One dial of one peer: staggered attempts, the first success ends the others."""

    def __init__(self, node: Dials, expected: PeerId | None, security: tuple[str, ...]) -> None:
        self._node = node
        self._expected = expected
        self._security = security
        self._waiting: list[Attempt] = []
        self._known: set[Multiaddr] = set()
        self._running: dict[asyncio.Task[Connection], Multiaddr] = {}
        self._names: dict[asyncio.Future[Sequence[Attempt]], Multiaddr] = {}
        self._failures: list[Dial] = []
        self._last_error: BaseException | None = None

    async def run(
        self,
        attempts: Sequence[Attempt],
        timeout: float,
        names: Mapping[Multiaddr, Awaitable[Sequence[Attempt]]] | None = None,
    ) -> Connection:
        """Run the attempts; raises the one failure, or a ConnectError that lists them.

        `names` are addresses that are still looked up, each with the attempts that come of it.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        winner: Connection | None = None
        self._add(attempts, 0.0)
        for address, found in (names or {}).items():
            self._names[asyncio.ensure_future(found)] = address
        try:
            while self._waiting or self._running or self._names:
                now = loop.time() - started
                if now >= timeout:
                    self._give_up()
                    break
                waiting, running = self._waiting, self._running
                if waiting and (not running or waiting[0].delay <= now):
                    address = waiting.pop(0).address
                    coro = self._node.dial_one(address, self._expected, self._security)
                    running[loop.create_task(coro)] = address
                    continue
                pause = timeout - now
                if waiting:
                    pause = min(pause, waiting[0].delay - now)
                winner = await self._next(pause, started)
                if winner is not None:
                    return winner
        finally:
            for name in self._names:
                name.cancel()
            for task in self._running:
                task.add_done_callback(_close_late)
                task.cancel()
            try:
                losers: list[asyncio.Future[Any]] = [*self._running, *self._names]
                if losers:
                    await asyncio.wait(losers)
            except asyncio.CancelledError:  # of the dial itself, which must not get lost here
                if winner is not None:
                    winner.close("given up")
                raise
        if len(self._failures) == 1 and isinstance(self._last_error, PtError):
            raise self._last_error
        listed = "; ".join(f"{one.address}: {one.reason}" for one in self._failures[:5])
        raise ConnectError(
            f"no address of the peer could be reached ({listed or 'no answer in time'})",
            self._failures,
        ) from self._last_error

    async def _next(self, pause: float, started: float) -> Connection | None:
        """Wait for the next dials and names that end; the connection, if one of them has it."""
        tasks: list[asyncio.Future[Any]] = [*self._running, *self._names]
        done, _ = await asyncio.wait(tasks, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        for task in [task for task in self._running if task in done]:
            address = self._running.pop(task)
            error = task.exception()
            if error is None:
                return task.result()
            self._failed(address, error)
        for name in [name for name in self._names if name in done]:
            address = self._names.pop(name)
            error = name.exception()
            if error is None:
                self._add(name.result(), asyncio.get_running_loop().time() - started)
            else:
                self._failed(address, error)
        return None

    def _add(self, attempts: Sequence[Attempt], now: float) -> None:
        """Attempts that start `now`, seconds after the start of the race, or that much later."""
        for attempt in attempts:
            if attempt.address not in self._known and len(self._known) < MAX_ADDRESSES:
                self._known.add(attempt.address)
                self._waiting.append(Attempt(attempt.delay + now, attempt.address))
        self._waiting.sort(key=lambda attempt: attempt.delay)

    def _failed(self, address: Multiaddr, error: BaseException) -> None:
        self._last_error = error
        party = party_of(address, self._expected)
        self._failures.append(Dial(str(address), reason_of(error), outcome_of(error), party))

    def _give_up(self) -> None:
        """The time is over: whoever is being waited for has not answered."""
        self._last_error = None
        for address in self._running.values():
            self._failed(address, TimeoutError())
        self._last_error = None
        for address in self._names.values():
            party = party_of(address, self._expected)
            reason = "the DNS gave no answer in time"
            self._failures.append(Dial(str(address), reason, DialOutcome.NO_DNS, party))
