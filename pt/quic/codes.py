"""Error codes of CONNECTION_CLOSE, RESET_STREAM and STOP_SENDING.

Sources: RFC 9000 section 20.1, RFC 9001 section 4.8 (0x100 and a TLS alert), libp2p's registry of
error codes.  Older libp2p peers send 0 for everything.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

__all__ = ["CRYPTO_ERROR", "MAX_CODE", "ConnectionCode", "StreamCode", "TransportCode", "describe"]

CRYPTO_ERROR: Final = 0x100
"""The first of 256 codes; the low byte is the TLS alert."""

MAX_CODE: Final = 2**62 - 1


class TransportCode(IntEnum):
    """Codes of QUIC itself."""

    NO_ERROR = 0x0
    INTERNAL_ERROR = 0x1
    CONNECTION_REFUSED = 0x2
    FLOW_CONTROL_ERROR = 0x3
    STREAM_LIMIT_ERROR = 0x4
    STREAM_STATE_ERROR = 0x5
    FINAL_SIZE_ERROR = 0x6
    FRAME_ENCODING_ERROR = 0x7
    TRANSPORT_PARAMETER_ERROR = 0x8
    CONNECTION_ID_LIMIT_ERROR = 0x9
    PROTOCOL_VIOLATION = 0xA
    INVALID_TOKEN = 0xB
    APPLICATION_ERROR = 0xC
    CRYPTO_BUFFER_EXCEEDED = 0xD
    KEY_UPDATE_ERROR = 0xE
    AEAD_LIMIT_REACHED = 0xF
    NO_VIABLE_PATH = 0x10
    VERSION_NEGOTIATION_ERROR = 0x11


class ConnectionCode(IntEnum):
    """Why libp2p closes a connection."""

    PROTOCOL_NEGOTIATION_FAILED = 0x1000
    RESOURCE_LIMIT_EXCEEDED = 0x1001
    RATE_LIMITED = 0x1002
    PROTOCOL_VIOLATION = 0x1003
    SUPPLANTED = 0x1004
    GARBAGE_COLLECTED = 0x1005
    SHUTDOWN = 0x1006
    GATED = 0x1007
    CODE_OUT_OF_RANGE = 0x1008


class StreamCode(IntEnum):
    """Why libp2p resets a stream: the same names, one further on."""

    PROTOCOL_NEGOTIATION_FAILED = 0x1001
    RESOURCE_LIMIT_EXCEEDED = 0x1002
    RATE_LIMITED = 0x1003
    PROTOCOL_VIOLATION = 0x1004
    SUPPLANTED = 0x1005
    GARBAGE_COLLECTED = 0x1006
    SHUTDOWN = 0x1007
    GATED = 0x1008
    CODE_OUT_OF_RANGE = 0x1009


_ALERTS: Final = {
    40: "no common parameters",
    42: "bad certificate",
    43: "unsupported certificate",
    45: "certificate expired",
    47: "illegal parameter",
    48: "unknown authority",
    49: "access denied",
    50: "cannot decode",
    51: "cannot decrypt",
    70: "protocol version",
    80: "internal error",
    109: "missing extension",
    116: "certificate required",
    120: "no application protocol",
}


def describe(code: int, *, application: bool) -> str:
    """The code's name for people, `shutdown (0x1006)`."""
    if not application and code >> 8 == CRYPTO_ERROR >> 8:
        return f"TLS: {_ALERTS.get(code & 0xFF, f'alert {code & 0xFF}')} ({code:#x})"
    try:
        name = (ConnectionCode(code) if application else TransportCode(code)).name
    except ValueError:
        return f"code {code:#x}"
    return f"{name.lower().replace('_', ' ')} ({code:#x})"
