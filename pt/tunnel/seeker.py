"""The search for the exposer on all media at once, as far as a binder's options allow."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from operator import gt
from typing import Final

from pt.errors import IdentityChangedError, NotFoundError
from pt.identity.peer_id import PeerId
from pt.node.state import StateDir
from pt.rendezvous.name import NameKeys
from pt.tunnel import events
from pt.tunnel.answer import Answer
from pt.tunnel.config import BindConfig
from pt.tunnel.hunt import OPEN_AT_ONCE, OPEN_HEAD_START, Result, hunt
from pt.tunnel.lookup import LAN, Candidate, Lookup
from pt.tunnel.media.stores import media_of, open_dht_of, open_stores
from pt.tunnel.network import Network
from pt.tunnel.pinning import Pinning

__all__ = ["Seeker"]

STRANGERS_WAIT: Final = 15.0
"""Seconds that DHTs have to find the exposer that we know, when only others were found."""
PATIENCE: Final = 30.0
"""Seconds for which the exposer that we know may be out of reach while others offer the name."""
LAN_WAIT: Final = 2.0
"""The same of the local network: its machines take turns with their answers."""


class Seeker:
    """Says whom to dial, tells the owner what each medium found, and remembers who answered."""

    def __init__(
        self,
        config: BindConfig,
        state: StateDir,
        emit: Callable[[events.Event], None],
        pinning: Pinning,
        network: Network,
    ) -> None:
        self.last: Candidate | None = None
        """Who had our session last: a candidate still, whatever becomes of its record."""
        self.only: PeerId | None = None
        """Dial nobody else."""
        self._config = config
        self._state = state
        self._emit = emit
        self._pinning = pinning
        self._network = network
        self._quiet = False
        self._strangers: list[PeerId] = []
        self._strange_since: float | None = None
        self._details: dict[str, str] = {}
        self._lookup = Lookup(
            config.peers, self._found, self._searched, pins=self._pinning.allowed()
        )

    @property
    def news(self) -> asyncio.Event:
        """Set when `choose` may have another answer."""
        return self._lookup.news

    async def start(self, keys: NameKeys | None) -> None:
        """Search; `keys` are those of the name, if there is one.

        Raises:
            NetworkError: the only medium cannot be used.

        """
        config = self._config
        media = [*(["peer"] if config.peers else []), *media_of(config)]
        self._emit(events.LookingUp(media=tuple(media)))
        if keys is None:
            return
        if config.lan:  # before modules are loaded for the others
            problem = await self._lookup.start_lan(keys)
            if problem is not None:
                if media == [LAN]:
                    raise problem
                self._searched(LAN, False, str(problem), 0.0)
        stores = await open_stores(config, self._state, self._network)
        self._lookup.search(keys, stores)
        dht = await open_dht_of(config, self._state, self._network)
        if dht is not None:
            self._lookup.search_open(dht)

    async def close(self) -> None:
        """Stop."""
        await self._lookup.close()

    def reached(self, candidate: Candidate) -> None:
        """There is a session: ask the DHTs no more, and tell no more finds."""
        self.last = candidate
        self._quiet = True
        self._strange_since = None
        self._lookup.pause()

    def resume(self) -> None:
        """It is not to be reached where it was: ask again."""
        self._lookup.resume()

    def answered(self, candidate: Candidate, seconds: float) -> None:
        """A candidate was reached."""
        if candidate.peer_id is not None:
            self._lookup.answered(candidate.peer_id, seconds)

    def failed(self, candidate: Candidate) -> None:
        """A candidate was not reached, or did not let us in."""
        if candidate.peer_id is not None:
            self._lookup.failed(candidate.peer_id)

    def choose(self) -> list[Candidate]:
        """Whom to dial, the best first."""
        everybody = self._lookup.candidates()
        if self.last is not None and self.last not in everybody:
            everybody.insert(0, self.last)
        allowed = self._pinning.allowed()
        self._strangers = []
        if self.only is not None:
            return [one for one in everybody if one.peer_id in (None, self.only)]
        if not allowed:
            return everybody
        ids = [one.peer_id for one in everybody if one.peer_id is not None]
        self._strangers = [peer for peer in ids if peer not in allowed]
        return [one for one in everybody if one.peer_id is None or one.peer_id in allowed]

    def hunt(
        self, dial: Callable[[Candidate], Awaitable[Answer]]
    ) -> AsyncGenerator[tuple[Candidate, Result], None]:
        """Dial them; see `pt.tunnel.hunt`."""
        if not self._config.open:
            return hunt(self.choose, dial, self.news)
        return hunt(self.choose, dial, self.news, head_start=OPEN_HEAD_START, at_once=OPEN_AT_ONCE)

    async def wait(self) -> None:
        """Wait for somebody to dial, or until all media know nobody but strangers."""
        while not self.choose() and not self._strangers:
            await self._news()
        if self.choose():
            return
        self._lookup.hurry()
        before = self._lookup.rounds
        loop = asyncio.get_running_loop()
        lan_at = loop.time() + LAN_WAIT
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STRANGERS_WAIT):
                while not self.choose() and not all(map(gt, self._lookup.rounds, before)):
                    await self._news()
            async with asyncio.timeout_at(lan_at):
                while self._config.lan and not self.choose():
                    await self._news()

    async def _news(self) -> None:
        await self.news.wait()
        self.news.clear()

    def stranger(self) -> IdentityChangedError:
        """Only others than the one we want offer the name."""
        return self._pinning.changed(self._strangers[0] if self._strangers else None)

    def judge(self, failure: BaseException | None) -> BaseException:
        """What it means that nobody let us in; None: nobody was dialed.

        The one that we want may be there by its record alone, which outlives it by hours.
        """
        if failure is None:
            return self.stranger()
        now = asyncio.get_running_loop().time()
        if not self._strangers:
            self._strange_since = None
        elif self._strange_since is None:
            self._strange_since = now
        elif now - self._strange_since >= PATIENCE:
            return self.stranger()
        return failure

    @property
    def aside(self) -> str:
        """Who else offers the name meanwhile, for people to read after a reason; or nothing."""
        if not self._strangers:
            return ""
        return f"; {self._strangers[0]} offers this name, too, and is not who is accepted"

    def not_found(self) -> NotFoundError:
        """Nobody was found: what each medium said."""
        said = "; ".join(f"{medium}: {detail}" for medium, detail in self._details.items())
        return NotFoundError(
            f"nobody offers {self._config.name!r} here within {self._config.timeout:g} s"
            f"{f' ({said})' if said else ''}: is pt tcp running with the same --id? "
            "If no medium leads to it, add --peer ADDRESS"
        )

    def _found(self, candidate: Candidate, seconds: float) -> None:
        if candidate.peer_id is not None and not self._quiet:
            self._emit(
                events.Found(
                    peer_id=candidate.peer_id,
                    medium=candidate.medium,
                    addresses=candidate.addresses,
                    seconds=round(seconds, 3),
                )
            )

    def _searched(self, medium: str, ok: bool, detail: str, seconds: float) -> None:
        self._details[medium] = detail
        if not self._quiet:
            self._emit(
                events.Searched(medium=medium, ok=ok, detail=detail, seconds=round(seconds, 3))
            )
