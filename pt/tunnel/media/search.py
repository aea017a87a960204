"""Looking for the exposers of a name in its mailboxes, on one store, for as long as it is wanted.

A look-up that finds nobody is repeated, ever later, up to AGAIN_MOST; so is one whose finds do not
answer, since they may have published anew. `pause` ends all that while there is a session.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import Final

from pt.errors import PtError
from pt.rendezvous.epoch import EpochKeys, epochs_to_search
from pt.rendezvous.mailbox import open_mailbox
from pt.rendezvous.name import NameKeys
from pt.rendezvous.record import Record
from pt.tunnel.media.store import Store

__all__ = ["MailboxSearch", "OnState"]

OnState = Callable[[bool, str, float], None]
"""(found somebody, detail, seconds since the look-up began)."""

AGAIN_FIRST: Final = 1.0
AGAIN_MOST: Final = 45.0
LOOKUP_TIMEOUT: Final = 60.0
MIN_GAP: Final = 1.0
"""Seconds between two look-ups, however often somebody asks for another."""


class MailboxSearch:
    """`on_record(record, medium)` is told every verified record, in no order, goodbyes too."""

    def __init__(
        self,
        store: Store,
        keys: NameKeys,
        on_record: Callable[[Record, str], None],
        on_state: OnState,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.medium = store.medium
        self._store = store
        self._keys = keys
        self._on_record = on_record
        self._on_state = on_state
        self._wall = wall
        self._wanted = asyncio.Event()
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._said: tuple[bool, str] | None = None

    @property
    def settled(self) -> bool:
        """Whether a look-up has ended, or found somebody."""
        return self._said is not None

    def start(self, *, now: bool = True) -> None:
        """Look from now on, or when `resume` says so."""
        if now:
            self._wanted.set()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def pause(self) -> None:
        """Look no more after the look-up under way."""
        self._wanted.clear()

    def resume(self) -> None:
        """Look again, at once."""
        self._wanted.set()
        self._hurry.set()

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        delay = AGAIN_FIRST
        while True:
            await self._wanted.wait()
            self._hurry.clear()
            began = asyncio.get_running_loop().time()
            numbers = epochs_to_search(self._wall())
            results = await asyncio.gather(*(self._look(number, began) for number in numbers))
            failures = [result for result in results if isinstance(result, str)]
            if not any(result is True for result in results):
                detail = failures[0] if failures else "nobody has published this name here"
                self._tell(found=False, detail=detail, began=began)
            await asyncio.sleep(MIN_GAP)
            with contextlib.suppress(TimeoutError):
                jitter = random.uniform(0.7, 1.0)  # noqa: S311  # not a secret
                async with asyncio.timeout(delay * jitter):
                    await self._hurry.wait()
            delay = AGAIN_FIRST if self._hurry.is_set() else min(delay * 2, AGAIN_MOST)

    async def _look(self, number: int, began: float) -> bool | str:
        """One mailbox: whether somebody was found, or why no server answered."""
        epoch = EpochKeys.derive(self._keys, number)
        found = False
        try:
            async with (
                asyncio.timeout(LOOKUP_TIMEOUT),
                contextlib.aclosing(self._store.values(epoch)) as values,
            ):
                async for value in values:
                    found = self._take(value, epoch, began) or found
        except (PtError, OSError, TimeoutError) as error:
            return found or str(error) or "no answer in time"
        return found

    def _take(self, value: bytes, epoch: EpochKeys, began: float) -> bool:
        try:
            box = open_mailbox(value, epoch, self._keys, self._wall())
        except PtError:
            return False  # signed by who knows the name, but nothing that we understand
        here = [signed.record for signed in box.signed if not signed.record.gone]
        if here:
            self._tell(found=True, detail=self._store.cost(), began=began)
        for signed in box.signed:
            self._on_record(signed.record, self.medium)
        return bool(here)

    def _tell(self, *, found: bool, detail: str, began: float) -> None:
        said = (found, "" if found else detail)
        if said != self._said:
            self._said = said
            self._on_state(found, detail, asyncio.get_running_loop().time() - began)
