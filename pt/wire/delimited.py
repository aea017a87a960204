"""A sequence of length-delimited messages, as libp2p protocols put them on a stream."""

from __future__ import annotations

from pt.errors import RemoteProtocolError
from pt.wire import uvarint

__all__ = ["Deframer", "DelimitedError"]


class DelimitedError(RemoteProtocolError):
    """A length is malformed, or above what the protocol allows."""


class Deframer:
    """Splits a stream into messages of at most `limit` bytes."""

    __slots__ = ("_in", "_limit")

    def __init__(self, limit: int) -> None:
        self._in = bytearray()
        self._limit = limit

    def receive_data(self, data: bytes | memoryview) -> list[bytes]:
        """Take bytes, split in any way; the messages that are complete now.

        Raises:
            DelimitedError: a message is too long, or its length malformed.

        """
        self._in += data
        found = []
        while self._in:
            try:
                size, start = uvarint.decode(self._in)
            except uvarint.Incomplete:
                break
            except uvarint.UvarintError as error:
                raise DelimitedError(f"a message with a bad length: {error}") from error
            if size > self._limit:
                raise DelimitedError(f"a message of {size} bytes, over {self._limit}")
            if len(self._in) < start + size:
                break
            found.append(bytes(self._in[start : start + size]))
            del self._in[: start + size]
        return found

    def leftover(self) -> bytes:
        """Take what belongs to no message that is complete."""
        rest = bytes(self._in)
        self._in.clear()
        return rest
