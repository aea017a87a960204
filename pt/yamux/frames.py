"""The yamux frame header and every limit of this package.

Layout, 12 bytes, big endian (libp2p specs `yamux/README.md`, "Framing"):

    version u8 = 0 | type u8 | flags u16 | stream id u32 | length u32

`length` is the payload length of a DATA frame, a credit delta of a WINDOW_UPDATE (also when it
carries SYN, ACK, FIN or RST; with RST it is an error code), an opaque value of a PING and a
reason of a GO_AWAY.  Only DATA has a payload.
"""

from __future__ import annotations

import struct
from typing import Final

from pt.errors import RemoteProtocolError

__all__ = [
    "ACK",
    "DATA",
    "FIN",
    "GO_AWAY",
    "GO_AWAY_INTERNAL",
    "GO_AWAY_NORMAL",
    "GO_AWAY_PROTOCOL",
    "HEADER",
    "HEADER_LEN",
    "INITIAL_WINDOW",
    "MAX_PAYLOAD",
    "MAX_WINDOW",
    "PING",
    "RST",
    "SYN",
    "WINDOW_UPDATE",
    "YamuxError",
]

HEADER: Final = struct.Struct(">BBHII")
HEADER_LEN: Final = HEADER.size

DATA: Final = 0
WINDOW_UPDATE: Final = 1
PING: Final = 2
GO_AWAY: Final = 3

SYN: Final = 1
ACK: Final = 2
FIN: Final = 4
RST: Final = 8

GO_AWAY_NORMAL: Final = 0
GO_AWAY_PROTOCOL: Final = 1
GO_AWAY_INTERNAL: Final = 2

INITIAL_WINDOW: Final = 256 * 1024
"""Both sides' window of a new stream, bytes; fixed by the specification."""

MAX_WINDOW: Final = 16 * 1024 * 1024
"""What auto-tuning may grow a receive window to; go-libp2p's figure."""

MAX_PAYLOAD: Final = 65519 - HEADER_LEN
"""Payload that makes one frame fill one Noise message exactly (65,507 bytes)."""


class YamuxError(RemoteProtocolError):
    """The peer broke a yamux rule; `code` is the GO_AWAY reason to send."""

    def __init__(self, message: str, code: int = GO_AWAY_PROTOCOL) -> None:
        super().__init__(message, code)
