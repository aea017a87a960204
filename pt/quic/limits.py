"""Every bound of one QUIC connection, and what it offers the peer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["BASE_DATAGRAM", "MAX_DATAGRAM_IPV4", "MAX_DATAGRAM_IPV6", "Limits"]

BASE_DATAGRAM: Final = 1200
"""UDP payload that every path carries (RFC 9000, section 14)."""

MAX_DATAGRAM_IPV4: Final = 1500 - 20 - 8
MAX_DATAGRAM_IPV6: Final = 1500 - 40 - 8
"""Payload of Ethernet's 1500 bytes; more is not tried, and not received."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bytes, seconds and counts; the same for whichever engine runs the connection."""

    streams: int = 512
    """Streams that the peer may have open at a time."""
    stream_window: int = 256 * 1024
    """What the peer may send on a stream before the application has read any of it."""
    max_stream_window: int = 16 * 1024 * 1024
    """What that window may grow to for an application that keeps up."""
    connection_window: int = 32 * 1024 * 1024
    """Received bytes of all streams together that the application has not consumed.  Windows of
    single streams grow within half of it, so that the other half is there for new streams."""
    send_buffer: int = 512 * 1024
    """Bytes of a stream that are accepted for sending and not sent yet."""
    send_total: int = 8 * 1024 * 1024
    """The same for all streams together."""
    handshake_timeout: float = 10.0
    idle_timeout: float = 30.0
    """Silence after which the connection is lost; the smaller of both sides' counts."""
    keep_alive: float = 4.0
    """Silence after which we send a PING: rust-libp2p gives up after 10 s, NATs after 30."""
    handshake_bytes: int = 64 * 1024
    """Handshake data that a peer may send; certificates take a few KiB."""
    key_update_packets: int = 1_000_000
    """Sent packets after which new keys are taken: AES-GCM's are good for 2**23 (RFC 9001)."""
    max_datagram: int = MAX_DATAGRAM_IPV4
    """What path MTU discovery goes up to; BASE_DATAGRAM turns it off."""
