"""What a DHT has to offer to be a medium: it keeps one value of each name and day."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from pt.rendezvous.epoch import EpochKeys
from pt.rendezvous.mailbox import Sealed

__all__ = ["Store"]


class Store(Protocol):
    """The overlay or the public DHT, as publisher and searcher see it."""

    medium: str
    """Its name for people: overlay, amino."""

    async def put(self, sealed: Sealed) -> str:
        """Store a value; how it went, for people to read.

        Raises:
            PtError, OSError, TimeoutError: no server took it.

        """
        ...

    def values(self, epoch: EpochKeys, *, thorough: bool = False) -> AsyncGenerator[bytes, None]:
        """Every distinct value that servers hold, valid in form and signature, as they come.

        Unless `thorough`, it may end when enough servers have answered: those next to the key may
        be a crowd that is quick to return an old value. To be closed (`contextlib.aclosing`), which
        ends the look-up.

        Raises:
            PtError, OSError, TimeoutError: no server answered.

        """
        ...

    def cost(self) -> str:
        """What it has taken so far: for people to read, or nothing."""
        ...

    async def close(self) -> None:
        """Stop; what is under way ends with an error."""
        ...
