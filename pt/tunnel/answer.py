"""Candidates that answer: each proves the name in its turn, and a slow one holds up nobody.

Who knows the name can stall the proof. Others must not wait for it; nor should two exposers be
given a session each, of which one is dropped at once. So the proofs come one after the other, and
the next one begins beside one that has taken PATIENCE seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pt.aio.muxed import MuxedStream
from pt.errors import CryptoFailure, RefusedError
from pt.multistream.negotiation import UnsupportedError
from pt.tunnel import authenticate

if TYPE_CHECKING:
    from pt.node.connection import Connection

__all__ = ["PATIENCE", "Answer", "Turns", "prove"]

PATIENCE: Final = 2.0
"""Seconds that a proof has to itself; it is two round trips."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A connection, and the session that was begun on it, if one was."""

    connection: Connection
    stream: MuxedStream | None = None
    secret: bytes = b""

    def close(self, reason: str) -> None:
        """It is not wanted."""
        self.connection.close(reason)


class Turns:
    """`async with turns.one()`: one at a time, unless it takes longer than PATIENCE."""

    def __init__(self) -> None:
        self._holder: object = None
        self._until = 0.0
        self._free = asyncio.Event()

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait for the turn, and have it."""
        loop = asyncio.get_running_loop()
        while self._holder is not None and loop.time() < self._until:
            self._free.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._until):
                    await self._free.wait()
        me = self._holder = object()
        self._until = loop.time() + PATIENCE
        try:
            yield
        finally:
            if self._holder is me:
                self._holder = None
                self._free.set()


async def prove(connection: Connection, membership: bytes) -> Answer:
    """Prove the name to whoever answers, and have it proved: a new session.

    Raises:
        RefusedError: the peer has another name, lets us not in, or is no `pt`.
        PtError: it takes no more attempts for now, or the connection broke.

    """
    try:
        stream, secret = await authenticate.ask_session(connection, membership)
    except UnsupportedError as error:
        raise RefusedError(
            "the peer offers no tunnel of this kind; if it is a Go PeerTunnel, use --open"
        ) from error
    except CryptoFailure as error:
        raise RefusedError(str(error)) from error
    return Answer(connection, stream, secret)
