"""An exposer's record in the mailboxes of its name, on one store: written, renewed, withdrawn.

A record counts as published when a server has acknowledged it and a look-up has found it again.
What fails is tried again, ever later, up to RETRY_MOST. A change of the record is written at once,
but the more often it changes the longer it waits, up to GAP_MOST, and only the last one counts.
Tomorrow's mailbox is nobody's concern today: when it fails, it is tried again without a word.

What others have in a mailbox is kept for the next writing: one who is not seen this time, since a
server is slow, is not thrown out.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from pt.aio.scope import Scope
from pt.errors import NetworkError, PtError, message_of
from pt.rendezvous import ipns
from pt.rendezvous.epoch import EpochKeys, epochs_to_publish
from pt.rendezvous.mailbox import RENEWAL, Mailbox, Signed, merge, pack, unseal
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
UNSEEN: Final = 2
"""Attempts when it is not found again, and nobody else has written: each costs three look-ups."""
READ_TIMEOUT: Final = 20.0
"""Seconds to look for what others have put there; what is found by then counts."""
PUT_TIMEOUT: Final = 60.0
GOODBYE_TIMEOUT: Final = 5.0
GOODBYE_READ: Final = 1.5
"""Seconds of those for a look at what others have put there meanwhile."""


_Box = tuple[int, tuple[Signed, ...]]


@dataclass(slots=True)
class _Day:
    """What is known of one day's mailbox."""

    epoch: EpochKeys
    wrote: int = -1
    """The sequence of the value that was last written there."""
    others: tuple[Signed, ...] = ()
    done: int = -1
    """The sequence of our record that was found again, in this round of writing."""


class MailboxPublisher:
    """Keeps what `make` returns in the mailboxes of today and tomorrow.

    `make` gives the record as it is now; `changed` says that it would give another. `on_state` is
    told each result of today's mailbox, the same failure once.
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
        self._days: dict[int, _Day] = {}
        self._changed = asyncio.Event()
        self._scope = Scope(limit=1)
        self._said = ""
        self._withdrawn = False
        self._gap = GAP_FIRST
        self._wrote = -QUIET

    def start(self) -> None:
        """Begin to publish, and go on doing so."""
        self._scope.start(self._run())

    def changed(self) -> None:
        """The record is another one now, or the network is: write at once."""
        self._changed.set()

    async def withdraw(self, goodbye: Signed) -> None:
        """Write no more; put a goodbye in place of the record, if there was time to publish one."""
        await self._scope.aclose()
        written = [day for day in self._days.values() if day.wrote >= 0 and not self._withdrawn]
        self._withdrawn = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_TIMEOUT):
                await asyncio.gather(*(self._say_goodbye(day, goodbye) for day in written))

    async def _say_goodbye(self, day: _Day, goodbye: Signed) -> None:
        seen: list[Signed] = []
        newest = -1
        with contextlib.suppress(PtError, OSError, TimeoutError):
            seen, newest = await self._read(day.epoch, GOODBYE_READ)
        with contextlib.suppress(PtError, OSError, TimeoutError):
            await self._put(day, goodbye, seen, newest)

    async def _run(self) -> None:
        delay = RETRY_FIRST
        while True:
            self._changed.clear()
            try:
                await self._write()
            except (PtError, OSError, TimeoutError):
                wait, delay = delay, min(delay * 2, RETRY_MOST)
            else:
                wait, delay = float(RENEWAL), RETRY_FIRST
                for day in self._days.values():
                    day.done = -1
            await self._wait(wait * random.uniform(0.8, 1.0))  # noqa: S311  # jitter, no secret

    async def _write(self) -> None:
        """Bring both mailboxes up to date; what has succeeded already is not repeated.

        Raises:
            PtError, OSError, TimeoutError: one is not.

        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            mine = self._make()
            today, tomorrow = epochs_to_publish(self._wall())
            if self._day(today).done != mine.record.seq:
                detail = await self._publish(self._day(today), mine)
                self.published = mine
                self._tell(ok=True, detail=detail, seconds=loop.time() - began)
        except (PtError, OSError, TimeoutError) as error:
            self._tell(ok=False, detail=message_of(error), seconds=0.0)
            raise
        if self._day(tomorrow).done != mine.record.seq:
            await self._publish(self._day(tomorrow), mine)

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

    def _day(self, number: int) -> _Day:
        if number not in self._days:
            for old in [old for old in self._days if abs(old - number) > 1]:
                del self._days[old]
            self._days[number] = _Day(EpochKeys.derive(self._keys, number))
        return self._days[number]

    async def _publish(self, day: _Day, mine: Signed) -> str:
        """Write to one mailbox and find it there.

        Raises:
            NetworkError: others write there all the time, or servers keep it to themselves.
            PtError, OSError, TimeoutError: no server answered, or took it.

        """
        unseen = 0
        for attempt in range(WRITES):
            if attempt:
                await self._pause(random.uniform(0.2, 0.6) * attempt)  # noqa: S311  # as above
            seen, newest = await self._read(day.epoch, READ_TIMEOUT)
            detail = await self._put(day, mine, seen, newest)
            there, newest = await self._is_there(day.epoch, mine)
            if there:
                day.done = mine.record.seq
                cost = self._store.cost()
                return f"{detail}; {cost}" if cost else detail
            unseen += newest <= day.wrote
            if unseen == UNSEEN:
                break
        if unseen:
            raise NetworkError(
                "it was stored and not found again: servers near it may be withholding"
            )
        raise NetworkError(
            "somebody who knows the name replaces it again and again: use another name, or --peer"
        )

    async def _boxes(self, epoch: EpochKeys) -> AsyncGenerator[_Box, None]:
        """Sequence and records of each value that servers have; of an unreadable one, none."""
        async with contextlib.aclosing(self._store.values(epoch)) as values:
            async for value in values:
                now = self._wall()
                with contextlib.suppress(PtError):
                    outer = ipns.validate(value, epoch.name, now)
                    signed: tuple[Signed, ...] = ()
                    with contextlib.suppress(PtError):
                        signed = unseal(outer.payload, epoch, self._keys, now)
                    yield outer.seq, signed

    async def _read(self, epoch: EpochKeys, timeout: float) -> tuple[list[Signed], int]:
        """What is there by then: all records, and the highest sequence of a value."""
        seen: list[Signed] = []
        newest = -1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout), contextlib.aclosing(self._boxes(epoch)) as boxes:
                async for seq, signed in boxes:
                    newest = max(newest, seq)
                    seen += signed
        return seen, newest

    async def _put(self, day: _Day, mine: Signed, seen: list[Signed], newest: int) -> str:
        now = self._wall()
        nonce = secrets.token_bytes(NONCE_BYTES)
        everyone = merge(mine, (*seen, *day.others), now)
        sealed = pack(everyone, day.epoch, after=max(newest, day.wrote), now=now, nonce=nonce)
        day.wrote, day.others = sealed.seq, everyone[1:]
        async with asyncio.timeout(PUT_TIMEOUT):
            return await self._store.put(sealed)

    async def _is_there(self, epoch: EpochKeys, mine: Signed) -> tuple[bool, int]:
        """Whether a look-up finds our record, or a newer one; the highest sequence it met."""
        newest = -1
        async with (
            asyncio.timeout(READ_TIMEOUT),
            contextlib.aclosing(self._boxes(epoch)) as boxes,
        ):
            async for seq, signed in boxes:
                newest = max(newest, seq)
                if Mailbox(seq, signed).holds(mine):
                    return True, newest
        return False, newest
