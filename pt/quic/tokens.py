"""Tokens of Retry packets: a client that brings one back is where it says.

AES-128-GCM over the time, the client's address and both connection ids; stateless, so that a flood
of Initials costs no memory.  Source: RFC 9000 section 8.1.
"""

from __future__ import annotations

import struct
from typing import Final

from pt.quic.events import Address
from pt.quic.packets import MAX_CID

__all__ = ["KEY_SIZE", "LIFETIME", "RetryTokens"]

KEY_SIZE: Final = 16
LIFETIME: Final = 20.0
"""Seconds; a client answers a Retry at once."""

_NONCE: Final = 12
_TIME: Final = struct.Struct(">d")


class RetryTokens:
    """Makes and checks tokens with one key, which may live as long as the process."""

    def __init__(self, key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # start-up

        self._aead = AESGCM(key)

    def create(
        self, address: Address, original: bytes, source: bytes, now: float, nonce: bytes
    ) -> bytes:
        """A token for the client at `address` that sent its Initial to `original`.

        `source` is the connection id that our Retry has it use; `nonce` 12 random bytes.
        """
        plain = _TIME.pack(now) + bytes([len(original)]) + original
        return nonce + self._aead.encrypt(nonce, plain, _context(address, source))

    def check(self, token: bytes, address: Address, destination: bytes, now: float) -> bytes | None:
        """The `original` of our own fresh token for this address and connection id, else None."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # start-up cost

        if len(token) < _NONCE:
            return None
        try:
            plain = self._aead.decrypt(
                token[:_NONCE], token[_NONCE:], _context(address, destination)
            )
        except InvalidTag:
            return None
        (issued,) = _TIME.unpack_from(plain)
        original = plain[_TIME.size + 1 :]
        if not 0 <= now - issued <= LIFETIME or len(original) > MAX_CID:
            return None
        return original


def _context(address: Address, cid: bytes) -> bytes:
    return f"{address[0]} {address[1]} ".encode() + cid
