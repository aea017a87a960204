"""An exposer's record in the mailboxes of its name, on one store: written, renewed, withdrawn.

A record counts as published when a server has acknowledged it and a look-up has found it again.
What fails is tried again, ever later, up to RETRY_MOST. A change of the record is written at once,
but the more often it changes the longer it waits, up to GAP_MOST, and only the last one counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Final

from pt.errors import NetworkError, PtError
from pt.rendezvous import ipns
from pt.rendezvous.epoch import EpochKeys, epochs_to_publish
from pt.rendezvous.mailbox import RENEWAL, Signed, merge, open_mailbox, pack
from pt.rendezvous.name import NameKeys
from pt.rendezvous.record import NONCE_BYTES
from pt.tunnel.media.store import Store

__all__ = ["GAP_MOST", "MailboxPublisher", "OnState"]

OnState = Callable[[bool, str, float], None]
"""(published, detail, seconds it took)."""

GAP_FIRST: Final = 0.25
GAP_MOST: Final = 16.0
"""Seconds from the end of one writing to the next when much changes."""
QUIET: Final = 60.0
"""Seconds after which a change is the first one again."""
RETRY_FIRST: Final = 1.0
RETRY_MOST: Final = 60.0
WRITES: Final = 4
"""Attempts to be in a mailbox that others write to at the same time."""
READ_TIMEOUT: Final = 20.0
"""Seconds to look for what others have put there; what is found by then counts."""
PUT_TIMEOUT: Final = 60.0
GOODBYE_TIMEOUT: Final = 5.0


class MailboxPublisher:
    """Keeps what `make` returns in the mailboxes of today and tomorrow.

    `make` gives the record as it is now; `changed` says that it would give another. `on_state` is
    told each result, the same failure once.
    """

    def __init__(
        self,
        store: Store,
        keys: NameKeys,
        make: Callable[[], Signed],
        on_state: OnState,
        *,
        wall: Callable[[], float] = time.time,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.medium = store.medium
        self.published: Signed | None = None
        """What was last found again in today's mailbox."""
        self._store = store
        self._keys = keys
        self._make = make
        self._on_state = on_state
        self._wall = wall
        self._pause = pause
        self._after: dict[int, int] = {}
        self._epochs: dict[int, EpochKeys] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._said = ""
        self._withdrawn = False
        self._gap = GAP_FIRST
        self._wrote = -QUIET

    def start(self) -> None:
        """Begin to publish, and go on doing so."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def changed(self) -> None:
        """The record is another one now, or the network is: write at once."""
        self._changed.set()

    async def withdraw(self, goodbye: Signed) -> None:
        """Write no more; put a goodbye in place of the record, if there was time to publish one."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        written = {} if self._withdrawn else dict(self._after)
        self._withdrawn = True
        with contextlib.suppress(PtError, OSError, TimeoutError):
            async with asyncio.timeout(GOODBYE_TIMEOUT), asyncio.TaskGroup() as group:
                for number, seq in written.items():
                    group.create_task(self._say_goodbye(number, seq, goodbye))

    async def _say_goodbye(self, number: int, seq: int, goodbye: Signed) -> None:
        epoch = self._epoch(number)
        with contextlib.suppress(PtError, OSError, TimeoutError):
            seen, newest = await self._read(epoch)
            await self._put(epoch, goodbye, seen, max(seq, newest))

    async def _run(self) -> None:
        delay = RETRY_FIRST
        while True:
            self._changed.clear()
            loop = asyncio.get_running_loop()
            began = loop.time()
            try:
                mine = self._make()
                today, *later = epochs_to_publish(self._wall())
                detail = await self._publish(today, mine)
                self.published = mine
                self._tell(
                    ok=True, detail=detail, seconds=asyncio.get_running_loop().time() - began
                )
                for number in later:
                    await self._publish(number, mine)
            except (PtError, OSError, TimeoutError) as error:
                self._tell(ok=False, detail=str(error) or "no answer in time", seconds=0.0)
                wait, delay = delay, min(delay * 2, RETRY_MOST)
            else:
                wait, delay = float(RENEWAL), RETRY_FIRST
            await self._wait(wait * random.uniform(0.8, 1.0))  # noqa: S311  # jitter, no secret

    async def _wait(self, seconds: float) -> None:
        """Until it is time again, or there is news."""
        now = asyncio.get_running_loop().time()
        often = now - self._wrote < QUIET
        self._wrote = now
        self._gap = min(self._gap * 2, GAP_MOST) if often else GAP_FIRST
        gap = min(self._gap, seconds)
        await self._pause(gap)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds - gap):
                await self._changed.wait()

    def _tell(self, *, ok: bool, detail: str, seconds: float) -> None:
        said = f"{ok} {detail}"
        if ok or said != self._said:
            self._on_state(ok, detail, seconds)
        self._said = said

    def _epoch(self, number: int) -> EpochKeys:
        if number not in self._epochs:
            while len(self._epochs) >= 4:
                del self._epochs[min(self._epochs)]
            self._epochs[number] = EpochKeys.derive(self._keys, number)
        return self._epochs[number]

    async def _publish(self, number: int, mine: Signed) -> str:
        """Write to one mailbox and find it there.

        Raises:
            NetworkError: others write there all the time, or servers keep it to themselves.
            PtError, OSError, TimeoutError: no server answered, or took it.

        """
        epoch = self._epoch(number)
        for old in [old for old in self._after if old < number - 1]:
            del self._after[old]
        for attempt in range(WRITES):
            if attempt:
                await self._pause(random.uniform(0.2, 0.6) * attempt)  # noqa: S311  # as above
            seen, newest = await self._read(epoch)
            newest = max(newest, self._after.get(number, -1))
            detail = await self._put(epoch, mine, seen, newest)
            if await self._is_there(epoch, mine):
                cost = self._store.cost()
                return f"{detail}; {cost}" if cost else detail
        raise NetworkError("it was stored and not found again: servers near it may be withholding")

    async def _read(self, epoch: EpochKeys) -> tuple[list[Signed], int]:
        """What is there: all records, and the highest sequence of a value."""
        seen: list[Signed] = []
        newest = -1
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(READ_TIMEOUT),
                contextlib.aclosing(self._store.values(epoch)) as values,
            ):
                async for value in values:
                    with contextlib.suppress(PtError):
                        now = self._wall()
                        newest = max(newest, ipns.validate(value, epoch.name, now).seq)
                        seen += open_mailbox(value, epoch, self._keys, now).signed
        return seen, newest

    async def _put(self, epoch: EpochKeys, mine: Signed, seen: list[Signed], newest: int) -> str:
        now = self._wall()
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = pack(merge(mine, seen, now), epoch, after=newest, now=now, nonce=nonce)
        self._after[epoch.epoch] = sealed.seq
        async with asyncio.timeout(PUT_TIMEOUT):
            return await self._store.put(sealed)

    async def _is_there(self, epoch: EpochKeys, mine: Signed) -> bool:
        async with (
            asyncio.timeout(READ_TIMEOUT),
            contextlib.aclosing(self._store.values(epoch)) as values,
        ):
            async for value in values:
                with contextlib.suppress(PtError):
                    if open_mailbox(value, epoch, self._keys, self._wall()).holds(mine):
                        return True
        return False
