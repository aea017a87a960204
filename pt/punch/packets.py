"""Probe packets: 62 bytes each, authenticated, told apart from all else on a shared socket.

    0   13
    1   version 1 << 4 | type
    2   tag of the attempt, 8 bytes
    10  counter of the sender, 4 bytes, from 1, never used twice
    14  sender's clock in µs, 4 bytes          } an answer carries
    18  path: what only the sender can read, 4 } those of the question
    22  counter of the question (answers), 4 bytes
    26  IP version of the observed address or 0, a zero, its port, its 16 bytes: xor the tag
    46  the first 16 bytes of HMAC-SHA256 with the sender's key over all before

The first byte: RFC 7983 and RFC 9443 give 0 to 3 to STUN, 20 to 63 to DTLS, 64 to 79 to TURN
channels, 64 to 127 and 192 to 255 to QUIC, 128 to 191 to RTP; 4 to 15 are nobody's.

Both keys and the tag come from a secret of the session and both sides' nonces, so that nothing of
an earlier attempt counts, and each direction has its own: a packet that comes back to its sender,
through a hairpin or from a liar, is nobody's.  An answer is as long as its question.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address
from typing import Final

from pt.punch.candidates import Address

__all__ = [
    "FIRST_BYTE",
    "NONCE_LEN",
    "SIZE",
    "TAG_LEN",
    "Packet",
    "PacketType",
    "ReplayWindow",
    "Sealer",
    "is_probe",
    "tag_of",
]

FIRST_BYTE: Final = 13
SIZE: Final = 62
TAG_LEN: Final = 8
NONCE_LEN: Final = 16
_VERSION: Final = 1
_MAC_LEN: Final = 16
_HEAD: Final = struct.Struct(">BB8sIII")
_TAIL: Final = struct.Struct(">IBBH16s")


class PacketType(IntEnum):
    """What a packet says."""

    PING = 0
    PONG = 1
    NOMINATE = 2
    """The controlling side: this is the path."""
    ACCEPT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """The fields of a packet; `observed` is where the sender of an answer saw the question."""

    type: PacketType
    counter: int
    clock: int = 0
    path: int = 0
    echo: int = 0
    observed: Address | None = None


class Sealer:
    """Writes our packets of one attempt, and reads the peer's."""

    __slots__ = ("_mine", "_theirs", "tag")

    def __init__(self, secret: bytes, nonces: tuple[bytes, bytes], *, controlling: bool) -> None:
        # `nonces`: the controlling side's, the other's
        base = hmac.digest(secret, b"peertunnel punch 1\0" + b"".join(nonces), hashlib.sha256)
        keys = [hmac.digest(base, word, hashlib.sha256) for word in (b"controlling", b"controlled")]
        self.tag = hmac.digest(base, b"tag", hashlib.sha256)[:TAG_LEN]
        self._mine, self._theirs = keys if controlling else reversed(keys)

    def seal(self, packet: Packet) -> bytes:
        """The bytes of a packet."""
        first = _VERSION << 4 | packet.type
        family, port, host = 0, 0, bytes(16)
        if packet.observed is not None:
            address = ip_address(packet.observed[0])
            family, port = address.version, packet.observed[1]
            host = address.packed.ljust(16, b"\0")
        body = _HEAD.pack(
            FIRST_BYTE, first, self.tag, packet.counter, packet.clock, packet.path
        ) + _TAIL.pack(
            packet.echo, family, 0, port ^ int.from_bytes(self.tag[:2]), self._mask(host)
        )
        return body + hmac.digest(self._mine, body, hashlib.sha256)[:_MAC_LEN]

    def open(self, data: bytes) -> Packet | None:
        """The peer's packet; None: not of this attempt, or not the peer's."""
        if len(data) != SIZE:
            return None
        body, mac = data[:-_MAC_LEN], data[-_MAC_LEN:]
        magic, first, tag, counter, clock, path = _HEAD.unpack_from(body)
        if magic != FIRST_BYTE or tag != self.tag or first >> 4 != _VERSION or first & 15 > 3:
            return None
        good = hmac.digest(self._theirs, body, hashlib.sha256)[:_MAC_LEN]
        if not hmac.compare_digest(good, mac):
            return None
        echo, family, _, port, host = _TAIL.unpack_from(body, _HEAD.size)
        observed = None
        if family in (4, 6):
            raw = self._mask(host)[: 4 if family == 4 else 16]
            observed = (str(ip_address(raw)), port ^ int.from_bytes(self.tag[:2]))
        return Packet(
            type=PacketType(first & 15),
            counter=counter,
            clock=clock,
            path=path,
            echo=echo,
            observed=observed,
        )

    def _mask(self, host: bytes) -> bytes:
        mask = int.from_bytes(self.tag * 2)
        return (int.from_bytes(host) ^ mask).to_bytes(16)


class ReplayWindow:
    """Whether a counter is new; one that is more than `SPAN` behind the highest counts as old."""

    SPAN: Final = 8192
    __slots__ = ("_highest", "_seen")

    def __init__(self) -> None:
        self._highest = 0
        self._seen = 0  # bit n: highest - n

    def accept(self, counter: int) -> bool:
        """Take note of `counter`; False: it was here before, or is too old to tell."""
        if counter > self._highest:
            ahead = counter - self._highest
            self._seen = (
                (self._seen << ahead | 1) & ((1 << self.SPAN) - 1) if (ahead < self.SPAN) else 1
            )
            self._highest = counter
            return True
        behind = self._highest - counter
        if counter < 1 or behind >= self.SPAN or self._seen >> behind & 1:
            return False
        self._seen |= 1 << behind
        return True


def is_probe(data: bytes) -> bool:
    """Whether a datagram on a shared socket is a probe; says nothing of whose."""
    return len(data) == SIZE and data[0] == FIRST_BYTE


def tag_of(data: bytes) -> bytes:
    """The attempt that a probe belongs to."""
    return data[2 : 2 + TAG_LEN]
