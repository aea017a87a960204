"""multistream-select 1.0, without I/O; the asyncio shell is `pt.multistream.aio`."""

from __future__ import annotations

from pt.multistream.negotiation import (
    HEADER,
    MAX_PROPOSALS,
    MAX_TOKEN,
    NOT_AVAILABLE,
    Initiator,
    Responder,
    UnsupportedError,
    accept_reply,
    encode_token,
    lazy_open,
)

__all__ = [
    "HEADER",
    "MAX_PROPOSALS",
    "MAX_TOKEN",
    "NOT_AVAILABLE",
    "Initiator",
    "Responder",
    "UnsupportedError",
    "accept_reply",
    "encode_token",
    "lazy_open",
]
