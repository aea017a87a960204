"""Ping over a byte stream."""

from __future__ import annotations

import asyncio
from typing import Final

from pt.aio.stream import ByteStream
from pt.errors import LocalProtocolError, RemoteProtocolError
from pt.ping.echo import PAYLOAD_LEN, Echo

__all__ = ["IDLE", "ping", "respond"]

IDLE: Final = 60.0
"""Seconds after which a stream without pings is given up; rust-libp2p pings every 15 s."""
_READ: Final = 1024  # bounds what one turn of the echo holds in memory


async def ping(stream: ByteStream, payload: bytes) -> None:
    """Send the 32 random bytes `payload` and wait for their return; the caller takes the time.

    May be called again on the same stream.  Peers end a stream that is silent for about 10 s.

    Raises:
        LocalProtocolError: `payload` has another length.
        RemoteProtocolError: something else came back.
        ClosedError: the peer closed the stream.

    """
    if len(payload) != PAYLOAD_LEN:
        raise LocalProtocolError(f"a ping has {PAYLOAD_LEN} bytes, not {len(payload)}")
    await stream.write(payload)
    if await stream.read_exactly(PAYLOAD_LEN) != payload:
        raise RemoteProtocolError("the peer answered a ping with other bytes")


async def respond(stream: ByteStream) -> None:
    """Answer pings until the peer ends its direction, then end ours.

    Raises:
        TimeoutError: no ping within `IDLE`, or the answer is not taken.

    """
    echo = Echo()
    while True:
        async with asyncio.timeout(IDLE):
            data = await stream.read(_READ)
            if not data:
                break
            echo.receive_data(data)
            if out := echo.data_to_send():
                await stream.write(out)
    await stream.close_write()
