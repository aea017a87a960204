"""Looking for the exposers of a name in its mailboxes, on one store, for as long as it is wanted.

A look-up that finds nobody is repeated, ever later; so is one whose finds do not answer, since they
may have published anew. `pause` ends all that while there is a session.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

from pt.errors import PtError, message_of
from pt.rendezvous.epoch import EpochKeys, epochs_to_search
from pt.rendezvous.mailbox import open_mailbox
from pt.rendezvous.name import NameKeys
from pt.rendezvous.record import Record
from pt.tunnel.media.rounds import Rounds
from pt.tunnel.media.store import Store

__all__ = ["NOBODY", "STOPPED", "MailboxSearch", "OnState"]

OnState = Callable[[bool, str, float], None]
"""(found somebody, detail, seconds since the look-up began)."""

AGAIN_FIRST: Final = 1.0
AGAIN_MOST: Final = 45.0
LOOKUP_TIMEOUT: Final = 60.0
NOBODY: Final = "nobody has published this name here"
STOPPED: Final = "whoever published this name here has stopped"


class MailboxSearch(Rounds):
    """`on_record(record, medium)` is told every verified record, in no order, goodbyes too.

    It says whether that leads to somebody: a value may be an old one, or the end of one.
    """

    first, most = AGAIN_FIRST, AGAIN_MOST

    def __init__(
        self,
        store: Store,
        keys: NameKeys,
        on_record: Callable[[Record, str], bool],
        on_state: OnState,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.medium = store.medium
        self._store = store
        self._keys = keys
        self._on_record = on_record
        self._on_state = on_state
        self._wall = wall
        self._said: tuple[bool, str] | None = None
        self._stopped = False
        self._began = 0.0

    async def _round(self) -> bool:
        self._began = asyncio.get_running_loop().time()
        numbers = epochs_to_search(self._wall())
        before, self._stopped = self._said, False
        results = await asyncio.gather(*(self._look(number) for number in numbers))
        failures = [result for result in results if isinstance(result, str)]
        if any(result is True for result in results):
            return before is None or not before[0]  # whoever was found may not answer
        self._tell(False, failures[0] if failures else STOPPED if self._stopped else NOBODY)
        return False

    async def _look(self, number: int) -> bool | str:
        """One mailbox: whether somebody was found, or why no server answered."""
        epoch = EpochKeys.derive(self._keys, number)
        again = self.rounds > 0  # what was found before did not do
        found = False
        try:
            async with (
                asyncio.timeout(LOOKUP_TIMEOUT),
                contextlib.aclosing(self._store.values(epoch, thorough=again)) as values,
            ):
                async for value in values:
                    found = self._take(value, epoch) or found
        except (PtError, OSError, TimeoutError) as error:
            return found or message_of(error)
        return found

    def _take(self, value: bytes, epoch: EpochKeys) -> bool:
        try:
            box = open_mailbox(value, epoch, self._keys, self._wall())
        except PtError:
            return False  # signed by who knows the name, but nothing that we understand
        self._stopped = self._stopped or any(signed.record.gone for signed in box.signed)
        leads = [self._on_record(signed.record, self.medium) for signed in box.signed]
        if any(leads):
            self._tell(True, self._store.cost())
        return any(leads)

    def _tell(self, found: bool, detail: str) -> None:
        said = (found, "" if found else detail)
        if said != self._said:
            self._said = said
            self._on_state(found, detail, asyncio.get_running_loop().time() - self._began)
