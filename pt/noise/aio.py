"""The Noise handshake over a byte stream."""

from __future__ import annotations

from typing import Final

from pt.aio.stream import ByteStream
from pt.errors import ClosedError
from pt.noise.upgrade import SecureHandshake, SecureResult

__all__ = ["secure"]

_READ: Final = 4096  # a handshake fits; more would only be pushed back


async def secure(stream: ByteStream, handshake: SecureHandshake) -> SecureResult:
    """Run `handshake` to its end; encrypted bytes that came along are pushed back to `stream`.

    The caller bounds the time and closes the stream on any error.

    Raises:
        ClosedError: the peer closed the connection before the end.
        CryptoFailure, RemoteProtocolError: as `SecureHandshake.receive_data`.

    """
    while True:
        if out := handshake.data_to_send():
            await stream.write(out)
        if handshake.result is not None:
            break
        data = await stream.read(_READ)
        if not data:
            raise ClosedError("the peer closed the connection during the Noise handshake")
        handshake.receive_data(data)
    if rest := handshake.leftover():
        stream.unread(rest)
    return handshake.result
