"""The keyspace of kad-dht: keys and peers are points in 256 bits, near each other by XOR.

A point is the SHA-256 of a key's or a peer id's bytes, taken as a number, most significant bit
first. Source: libp2p specs `kad-dht/README.md`, "Distance".
"""

from __future__ import annotations

import hashlib
from typing import Final

__all__ = ["BITS", "K", "common_prefix", "point"]

BITS: Final = 256
K: Final = 20
"""Servers that keep a record, and peers in a bucket."""


def point(raw: bytes) -> int:
    """Where a key or a peer id (its bytes) is; the distance of two points is `a ^ b`."""
    return int.from_bytes(hashlib.sha256(raw).digest(), "big")


def common_prefix(one: int, other: int) -> int:
    """How many leading bits two points share, 0 to BITS: the bucket of one at the other."""
    return BITS - (one ^ other).bit_length()
