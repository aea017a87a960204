"""Noise transport messages, encrypted and decrypted in place.

A frame is a 2-byte big-endian length and that many bytes of ciphertext with its 16-byte tag.  The
nonce counts frames per direction from 0; there is no rekeying.  2**64 frames are out of reach, so
the reserved last nonce is not checked for.

Source: libp2p specs `noise/README.md` (wire format); Noise revision 34 sections 5.1 and 12.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from pt.errors import CryptoFailure, LocalProtocolError
from pt.noise.handshake import Suite

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

__all__ = ["LENGTH_LEN", "MAX_CIPHERTEXT", "MAX_PLAINTEXT", "TAG_LEN", "Opener", "Sealer"]

LENGTH_LEN: Final = 2
TAG_LEN: Final = 16
MAX_CIPHERTEXT: Final = 65535  # what the length field can say
MAX_PLAINTEXT: Final = MAX_CIPHERTEXT - TAG_LEN

# 4 zero bytes and the counter, in the byte order that each cipher's section of Noise demands.
_NONCE: Final = {Suite.CHACHAPOLY: Struct("<4xQ"), Suite.AESGCM: Struct(">4xQ")}
_pack_length: Final = Struct(">H").pack_into


class Sealer:
    """Encrypts one direction.  `key` is 32 bytes and must never serve a second Sealer."""

    __slots__ = ("_count", "_encrypt_into", "_nonce")

    def __init__(self, suite: Suite, key: bytes) -> None:
        self._encrypt_into = _aead(suite, key).encrypt_into
        self._nonce = _NONCE[suite].pack
        self._count = 0

    def seal_into(self, plain: bytes | bytearray | memoryview, out: memoryview) -> int:
        """Write one whole frame for `plain` (0..65519 bytes) to the start of `out`.

        `out` needs room for `len(plain) + 18` bytes.  `plain` may be the part of `out` that begins
        at offset 2, and is then encrypted in place; other overlaps give garbage.

        Returns: the length of the frame, `len(plain) + 18`.

        Raises:
            LocalProtocolError: `plain` is too long, or `out` too short.

        """
        size = len(plain) + 16
        if size > 65535 or len(out) < size + 2:
            raise LocalProtocolError(
                f"{len(plain)} bytes do not fit one frame: "
                f"the limit is {MAX_PLAINTEXT}, the room {len(out) - 18}"
            )
        self._encrypt_into(self._nonce(self._count), plain, None, out[2 : size + 2])
        self._count += 1
        _pack_length(out, 0, size)
        return size + 2


class Opener:
    """Decrypts one direction; frames must arrive in the order in which they were sealed."""

    __slots__ = ("_count", "_decrypt_into", "_nonce")

    def __init__(self, suite: Suite, key: bytes) -> None:
        self._decrypt_into = _aead(suite, key).decrypt_into
        self._nonce = _NONCE[suite].pack
        self._count = 0

    def open(self, cipher: memoryview) -> memoryview:
        """Decrypt a frame's body (without the 2-byte length) in place.

        Returns: the plaintext, a view of the first `len(cipher) - 16` bytes of `cipher`.

        Raises:
            CryptoFailure: the frame is short, forged, damaged or out of order: close, the content
                of `cipher` is void.

        """
        plain = cipher[: len(cipher) - 16] if len(cipher) > 15 else None
        if plain is None:
            raise CryptoFailure("an encrypted frame is shorter than its tag; closing")
        try:
            self._decrypt_into(self._nonce(self._count), cipher, None, plain)
        except _invalid_tag() as error:
            raise CryptoFailure("an encrypted frame did not authenticate; closing") from error
        self._count += 1
        return plain


def _invalid_tag() -> type[Exception]:
    # Evaluated only when decryption failed: the import costs start-up nothing.
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # start-up cost

    return InvalidTag


def _aead(suite: Suite, key: bytes) -> ChaCha20Poly1305 | AESGCM:
    # Not at the top: `pt bind` listens before it needs a cipher.
    from cryptography.hazmat.primitives.ciphers import aead  # noqa: PLC0415  # start-up cost

    if len(key) != 32:
        raise LocalProtocolError(f"a transport key must be 32 bytes, not {len(key)}")
    return aead.ChaCha20Poly1305(key) if suite is Suite.CHACHAPOLY else aead.AESGCM(key)
