"""What both halves of the suite share: the byte pattern and a few socket verbs.

The pattern is a fixed pseudo-random block repeated; its length is prime, so a lost, doubled or
moved piece shows at once when the received bytes are compared with the pattern at their offset.
"""

from __future__ import annotations

import random
import socket
import struct
from typing import Final

__all__ = [
    "CHUNK",
    "IO_TIMEOUT",
    "ExactnessError",
    "Verifier",
    "pattern",
    "read_line",
    "reset",
    "send_pattern",
]

CHUNK: Final = 256 * 1024
IO_TIMEOUT: Final = 30.0
"""Seconds one socket call may take before the case counts as hung."""
MAX_LINE: Final = 256
_PERIOD: Final = 1_048_583  # a prime just over 1 MiB
_BLOCK: Final = random.Random(20_26).randbytes(_PERIOD)  # noqa: S311  # a test pattern, no secret
_TWICE: Final = memoryview(_BLOCK + _BLOCK)


class ExactnessError(Exception):
    """The forwarder changed something: the message says what, and where."""


def pattern(offset: int, length: int) -> memoryview:
    """Return at most `length` bytes of the pattern from `offset` (at most one period)."""
    start = offset % _PERIOD
    return _TWICE[start : start + min(length, _PERIOD)]


class Verifier:
    """Compares what arrives with the pattern; raises at the first wrong byte."""

    def __init__(self) -> None:
        self.count = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Check the next piece (at most one period long).

        Raises:
            ExactnessError: it is not what was sent.

        """
        expected = pattern(self.count, len(data))
        if expected != data:
            wrong = next(i for i, (a, b) in enumerate(zip(expected, data, strict=True)) if a != b)
            raise ExactnessError(f"byte {self.count + wrong} is not the one that was sent")
        self.count += len(data)


def send_pattern(sock: socket.socket, length: int, start: int = 0) -> None:
    """Send `length` bytes of the pattern."""
    end = start + length
    while start < end:
        piece = pattern(start, min(CHUNK, end - start))
        sock.sendall(piece)
        start += len(piece)


def read_line(sock: socket.socket) -> str:
    """Read up to a newline, byte by byte so that nothing after it is taken; "" at an early end."""
    line = bytearray()
    while len(line) < MAX_LINE:
        byte = sock.recv(1)
        if byte == b"\n":
            return line.decode("ascii", "replace")
        if not byte:
            break
        line += byte
    return ""


def reset(sock: socket.socket) -> None:
    """Close with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
