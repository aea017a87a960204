"""Identify and identify/push over a byte stream whose protocol is already negotiated."""

from __future__ import annotations

from typing import Final

from pt.aio.stream import ByteStream
from pt.identify.messages import Identify, IdentifyReader

__all__ = ["answer", "ask", "push"]

_READ: Final = 4096


async def ask(stream: ByteStream) -> Identify:
    """Read what the peer says to its end, and end our direction; also the receiver of a push.

    Nothing is verified: see `Identify.verified`.  The caller bounds the time.

    Raises:
        LimitError, RemoteProtocolError: as `IdentifyReader`.

    """
    reader = IdentifyReader()
    while data := await stream.read(_READ):
        reader.receive_data(data)
    await stream.close_write()
    return reader.finish()


async def answer(stream: ByteStream, identify: Identify) -> None:
    """Say `identify` and end our direction."""
    await stream.write(identify.encode())
    await stream.close_write()


async def push(stream: ByteStream, identify: Identify) -> None:
    """Tell the peer of a change; say everything, since Go replaces what it knew."""
    await answer(stream, identify)
