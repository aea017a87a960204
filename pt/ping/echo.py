"""Ping: the initiator sends 32 bytes, the responder returns them, any number of times a stream.

Source: libp2p specs `ping/ping.md`.
"""

from __future__ import annotations

from typing import Final

__all__ = ["PAYLOAD_LEN", "PROTOCOL", "Echo"]

PROTOCOL: Final = "/ipfs/ping/1.0.0"
PAYLOAD_LEN: Final = 32


class Echo:
    """The responder: whole pings come back, a part of one waits for its rest."""

    __slots__ = ("_in",)

    def __init__(self) -> None:
        self._in = bytearray()

    def receive_data(self, data: bytes | memoryview) -> None:
        """Take bytes from the peer, split in any way."""
        self._in += data

    def data_to_send(self) -> bytes:
        """The whole pings received since the last call; a multiple of 32 bytes."""
        whole = len(self._in) - len(self._in) % PAYLOAD_LEN
        out = bytes(self._in[:whole])
        del self._in[:whole]
        return out
