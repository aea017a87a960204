"""One dial of one peer: staggered attempts in parallel, the first finished upgrade wins.

Source: RFC 8305, section 5, with "connected" meaning authenticated and multiplexed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from pt.errors import ConnectError, PtError
from pt.identity.peer_id import PeerId
from pt.node.dial_plan import Attempt
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.node.connection import Connection

__all__ = ["Dials", "Race", "reason_of"]


class Dials(Protocol):
    """Who dials one address: a node."""

    async def dial_one(
        self, address: Multiaddr, expected: PeerId | None, security: Sequence[str]
    ) -> Connection:
        """Dial and upgrade one address."""
        ...


def reason_of(error: BaseException) -> str:
    """Why an attempt failed, in words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, asyncio.CancelledError):
        return "given up"
    if isinstance(error, OSError):
        return os.strerror(error.errno).lower() if error.errno else str(error)
    return str(error)


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
        self._failures: list[tuple[str, str]] = []
        self._last_error: BaseException | None = None

    async def run(self, attempts: Sequence[Attempt], timeout: float) -> Connection:
        """Run the attempts; raises the one failure, or a ConnectError that lists them."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        waiting = list(attempts)
        running: dict[asyncio.Task[Connection], Multiaddr] = {}
        winner: Connection | None = None
        try:
            while waiting or running:
                now = loop.time() - started
                if now >= timeout:
                    break
                if waiting and (not running or waiting[0].delay <= now):
                    attempt = waiting.pop(0)
                    coro = self._node.dial_one(attempt.address, self._expected, self._security)
                    running[loop.create_task(coro)] = attempt.address
                    continue
                pause = timeout - now
                if waiting:
                    pause = min(pause, waiting[0].delay - now)
                done, _ = await asyncio.wait(
                    running, timeout=pause, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    address = running.pop(task)
                    error = task.exception()
                    if error is None:
                        winner = task.result()
                        return winner
                    self._last_error = error
                    self._failures.append((str(address), reason_of(error)))
        finally:
            for task in running:
                task.add_done_callback(_close_late)
                task.cancel()
            try:
                if running:
                    await asyncio.wait(running)
            except asyncio.CancelledError:  # of the dial itself, which must not get lost here
                if winner is not None:
                    winner.close("given up")
                raise
        if len(self._failures) == 1 and isinstance(self._last_error, PtError):
            raise self._last_error
        listed = "; ".join(f"{address}: {reason}" for address, reason in self._failures[:5])
        raise ConnectError(
            f"no address of the peer could be reached ({listed or 'no answer in time'})",
            tuple(self._failures),
        ) from self._last_error
