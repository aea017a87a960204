"""Dialing candidates side by side: a dead one does not delay a living one.

The next candidate has its turn when the ones before have had a moment, or have failed; one that
comes to be known meanwhile, or whose addresses change, is dialed too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from pt.errors import IdentityChangedError, PtError, RefusedError
from pt.tunnel.answer import Answer
from pt.tunnel.lookup import Candidate

__all__ = ["AT_ONCE", "HEAD_START", "OPEN_AT_ONCE", "OPEN_HEAD_START", "hunt", "worse"]

HEAD_START: Final = 0.3
"""Seconds that a candidate has before the next one is dialed beside it."""
AT_ONCE: Final = 6
MOST: Final = 512
"""Attempts of one hunt: whoever publishes ever new addresses must not keep it from beginning anew,
and from trying others a second time."""
OPEN_HEAD_START: Final = 0.05
OPEN_AT_ONCE: Final = 32
"""The same for an open tunnel: many say to offer it, and most of them are gone."""

Result = Answer | PtError | OSError | TimeoutError


async def hunt(
    choose: Callable[[], list[Candidate]],
    dial: Callable[[Candidate], Awaitable[Answer]],
    news: asyncio.Event,
    *,
    head_start: float = HEAD_START,
    at_once: int = AT_ONCE,
) -> AsyncGenerator[tuple[Candidate, Result], None]:
    """Each candidate with its answer, or why there is none; ends when all were tried.

    To be closed (`contextlib.aclosing`): answers that come later are closed then. `choose`
    gives the candidates, the best first, and is asked again whenever `news` is set.
    """
    loop = asyncio.get_running_loop()
    tried: set[Candidate] = set()
    running: dict[asyncio.Task[Answer], Candidate] = {}
    next_at = 0.0
    try:
        while True:
            news.clear()
            fresh = [one for one in choose() if _attempt(one) not in tried][: MOST - len(tried)]
            if fresh and len(running) < at_once and (loop.time() >= next_at or not running):
                one = fresh.pop(0)
                tried.add(_attempt(one))
                running[loop.create_task(_dial(dial, one))] = one
                next_at = loop.time() + head_start
            if not running and not fresh:
                return
            timeout = max(0.0, next_at - loop.time()) if fresh and len(running) < at_once else None
            for task in await _first(running, news, timeout):
                one = running.pop(task)
                error = task.exception()
                if error is None:
                    yield one, task.result()
                elif isinstance(error, (PtError, OSError, TimeoutError)):
                    next_at = 0.0  # its place is free
                    yield one, error
                else:
                    raise error
    finally:
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        for task in running:
            if not task.cancelled() and task.exception() is None:
                task.result().close("another one answered first")


def _attempt(candidate: Candidate) -> Candidate:
    """What makes an attempt another one: not the medium that it is known from."""
    return Candidate(candidate.peer_id, candidate.addresses, "")


async def _dial(dial: Callable[[Candidate], Awaitable[Answer]], candidate: Candidate) -> Answer:
    return await dial(candidate)


async def _first(
    running: dict[asyncio.Task[Answer], Candidate], news: asyncio.Event, timeout: float | None
) -> list[asyncio.Task[Answer]]:
    """The dials that are over, once one is, or there is news, or the time is up."""
    waiter = asyncio.get_running_loop().create_task(news.wait())
    try:
        done, _ = await asyncio.wait(
            {waiter, *running}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        waiter.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiter
    return [task for task in running if task in done]


def worse(failure: BaseException | None, error: BaseException) -> BaseException:
    """Which of two failures to tell: whoever refuses us or is somebody else says most."""

    def weight(one: BaseException | None) -> int:
        if isinstance(one, IdentityChangedError):
            return 3
        if isinstance(one, RefusedError):
            return 2
        return int(isinstance(one, PtError)) if one is not None else -1

    return error if failure is None or weight(error) >= weight(failure) else failure
