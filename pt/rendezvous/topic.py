"""The topic of an open tunnel: where the Go program, and whoever guesses the id, looks for it.

    topic = "/peertunnel/1.0.0/" · id                   the bytes of the id as they were typed
    key   = multihash(sha2-256, topic)                  of provider records, 34 bytes
    cid   = CIDv1(raw, key)                             for people: `ipfs routing findprovs CID`

As routing discovery of go-libp2p makes it. Nothing is secret about it, and nothing is proved by it.
"""

from __future__ import annotations

from typing import Final

from pt.wire import multibase, uvarint
from pt.wire.multihash import Multihash

__all__ = ["cid", "provider_key", "topic"]

_PREFIX: Final = "/peertunnel/1.0.0/"
_CID_VERSION: Final = 1
_RAW: Final = 0x55  # multicodec


def topic(name: str) -> bytes:
    """The topic of an id; what of it was no UTF-8 on the command line stays as it was."""
    return (_PREFIX + name).encode("utf-8", "surrogateescape")


def provider_key(name: str) -> bytes:
    """The key of the id's provider records."""
    return Multihash.sha256(topic(name)).encode()


def cid(name: str) -> str:
    """The CID that the key belongs to."""
    raw = uvarint.encode(_CID_VERSION) + uvarint.encode(_RAW) + provider_key(name)
    return multibase.encode("b", raw)
