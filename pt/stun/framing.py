"""STUN over TCP: one message after the other, each as long as its header says (RFC 8489 §6.2.2)."""

from __future__ import annotations

from typing import Final

from pt.stun.messages import COOKIE, HEADER, MAX_MESSAGE, StunError

__all__ = ["Deframer"]

_COOKIE_END: Final = 8


class Deframer:
    """Cuts a stream into messages; holds one unfinished message at most."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> list[bytes]:
        """Take bytes; the messages that are whole now.

        Raises:
            StunError: this is no stream of STUN messages; nothing more can be read from it.

        """
        self._buffer += data
        found: list[bytes] = []
        while True:
            if len(self._buffer) >= _COOKIE_END and (
                self._buffer[0] >= 0x40 or self._buffer[4:_COOKIE_END] != COOKIE
            ):
                raise StunError("not a stream of STUN messages")
            if len(self._buffer) < HEADER:
                return found
            length = HEADER + int.from_bytes(self._buffer[2:4])
            if length > MAX_MESSAGE:
                raise StunError(f"a STUN message of {length} bytes")
            if len(self._buffer) < length:
                return found
            found.append(bytes(self._buffer[:length]))
            del self._buffer[:length]
