"""1-RTT packets made and opened outside an engine's native core, which knows fewer frames than we.

The keys are the connection's own, since TLS runs here.  Used for single packets: MAX_STREAM_DATA,
PATH_CHALLENGE, and to look for the answer.  Source: RFC 9001 sections 5.3, 5.4 and 6.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from pt.quic.tls import Suite, derive, packet_keys

__all__ = ["PacketKey", "full_number"]

_SAMPLE: Final = 16
_TAG: Final = 16
_NUMBER: Final = 4  # bytes of a packet number that we write: never ambiguous


class PacketKey:
    """One direction's key, from the traffic secret on; it follows key updates."""

    def __init__(self, suite: Suite, secret: bytes) -> None:
        self.phase = 0
        self._suite = suite
        self._secret = secret
        self._aead: AESGCM | ChaCha20Poly1305
        self._iv = b""
        self._header_key = packet_keys(suite, secret)[2]  # updates leave it
        self._setup()

    def _setup(self) -> None:
        key, self._iv, _ = packet_keys(self._suite, self._secret)
        chacha = self._suite is Suite.CHACHA20_POLY1305_SHA256
        self._aead = ChaCha20Poly1305(key) if chacha else AESGCM(key)

    def update(self) -> None:
        """The next generation's key."""
        self._secret = derive(self._suite, self._secret, b"quic ku", len(self._secret))
        self.phase ^= 1
        self._setup()

    def seal(self, destination: bytes, number: int, frames: bytes) -> bytes:
        """A short header packet; `frames` of at least one byte."""
        header = (
            bytes([0x40 | self.phase << 2 | _NUMBER - 1])
            + destination
            + (number & 0xFFFFFFFF).to_bytes(_NUMBER, "big")
        )
        packet = bytearray(header)
        packet += self._aead.encrypt(self._nonce(number), frames, header)
        mask = self._mask(packet, len(header))
        packet[0] ^= mask[0] & 0x1F
        for at in range(_NUMBER):
            packet[1 + len(destination) + at] ^= mask[1 + at]
        return bytes(packet)

    def number(self, packet: bytes, id_length: int, expected: int) -> int | None:
        """The packet's number, given the next `expected` one; None if it is too short to have one.

        Not authentic, unless the packet is.
        """
        opened = self._header(packet, id_length)
        if opened is None:
            return None
        first, header = opened
        size = (first & 3) + 1
        return full_number(int.from_bytes(header[-size:], "big"), 8 * size, expected)

    def open(self, packet: bytes, id_length: int, expected: int) -> bytes | None:
        """The frames of a packet of this key's phase, or None."""
        opened = self._header(packet, id_length)
        if opened is None:
            return None
        first, header = opened
        if first >> 2 & 1 != self.phase:
            return None
        size = (first & 3) + 1
        number = full_number(int.from_bytes(header[-size:], "big"), 8 * size, expected)
        try:
            return self._aead.decrypt(self._nonce(number), packet[len(header) :], header)
        except InvalidTag:
            return None

    def _header(self, packet: bytes, id_length: int) -> tuple[int, bytes] | None:
        """The first byte and the whole header, unprotected."""
        at = 1 + id_length
        if len(packet) < at + 4 + _SAMPLE or packet[0] & 0x80:
            return None
        mask = self._mask(packet, at + 4)
        first = packet[0] ^ mask[0] & 0x1F
        size = (first & 3) + 1
        number = bytes(packet[at + n] ^ mask[1 + n] for n in range(size))
        return first, bytes([first]) + packet[1:at] + number

    def _mask(self, packet: bytes | bytearray, sample_at: int) -> bytes:
        sample = bytes(packet[sample_at : sample_at + _SAMPLE])
        if self._suite is Suite.CHACHA20_POLY1305_SHA256:
            cipher = Cipher(algorithms.ChaCha20(self._header_key, sample), mode=None)
            return cipher.encryptor().update(bytes(5))
        # One block: ECB is what RFC 9001, section 5.4.3, asks for.
        ecb = modes.ECB()  # noqa: S305
        return Cipher(algorithms.AES(self._header_key), ecb).encryptor().update(sample)[:5]

    def _nonce(self, number: int) -> bytes:
        return (int.from_bytes(self._iv, "big") ^ number).to_bytes(12, "big")


def full_number(truncated: int, bits: int, expected: int) -> int:
    """A packet number from its low bits (RFC 9000, appendix A.3)."""
    window = 1 << bits
    candidate = (expected & ~(window - 1)) | truncated
    if candidate <= expected - window // 2 and candidate < (1 << 62) - window:
        return candidate + window
    if candidate > expected + window // 2 and candidate >= window:
        return candidate - window
    return candidate
