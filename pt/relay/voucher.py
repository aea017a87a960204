"""Reservation vouchers: a relay's signed word that it serves a peer for a while.

    Voucher{relay=1: bytes, peer=2: bytes, expiration=3: uint64 Unix s}

Travels in a signed envelope with domain `libp2p-relay-rsvp` and payload type `03 02`.

Source: libp2p specs `relay/circuit-v2.md`; the values are those every implementation uses, which
are not those of the prose of RFC 0003.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pt.errors import RemoteProtocolError
from pt.identity.envelope import open_envelope, seal
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.wire import protobuf

__all__ = ["CLOCK_SKEW", "DOMAIN", "PAYLOAD_TYPE", "Voucher", "VoucherError", "verify"]

DOMAIN: Final = "libp2p-relay-rsvp"
PAYLOAD_TYPE: Final = b"\x03\x02"
CLOCK_SKEW: Final = 30.0
"""Seconds a voucher is still good for after it expired: two machines' clocks differ."""


class VoucherError(RemoteProtocolError):
    """The voucher is malformed, forged, of others, or expired."""


@dataclass(frozen=True, slots=True)
class Voucher:
    """`relay` serves `peer` until `expiration`, Unix time in seconds."""

    relay: PeerId
    peer: PeerId
    expiration: int

    def encode(self) -> bytes:
        """The bare voucher, unsigned."""
        return (
            protobuf.put_bytes(1, self.relay.raw)
            + protobuf.put_bytes(2, self.peer.raw)
            + protobuf.put_uint(3, self.expiration)
        )

    @classmethod
    def decode(cls, raw: bytes) -> Voucher:
        """Read a bare voucher.

        Raises:
            RemoteProtocolError: malformed, or one of the peer ids is missing.

        """
        fields = protobuf.Fields(raw)
        relay, peer = fields.bytes(1), fields.bytes(2)
        if relay is None or peer is None:
            raise VoucherError("a voucher that does not say whose it is")
        return cls(PeerId(relay), PeerId(peer), fields.uint(3) or 0)

    def sealed(self, key: PrivateKey) -> bytes:
        """The voucher in an envelope signed with the relay's own `key`."""
        return seal(key, DOMAIN, PAYLOAD_TYPE, self.encode())

    @classmethod
    def open(cls, envelope: bytes) -> Voucher:
        """Open an envelope and read the voucher in it, signed by the relay that it names.

        For whom it is and until when is the caller's to check, see `verify`.

        Raises:
            RemoteProtocolError: malformed, of another payload type, or signed by someone else.
            CryptoFailure: the signature does not verify.

        """
        opened = open_envelope(envelope, DOMAIN)
        if opened.payload_type != PAYLOAD_TYPE:
            raise VoucherError(f"a voucher of type {opened.payload_type[:16].hex()}")
        voucher = cls.decode(opened.payload)
        if voucher.relay != PeerId.from_public_key(opened.public_key):
            raise VoucherError("a voucher signed by another peer than the relay it names")
        return voucher


def verify(envelope: bytes, *, relay: PeerId, peer: PeerId, now: float) -> Voucher:
    """Open a voucher that `relay` gave to `peer`; it may have expired CLOCK_SKEW ago, no earlier.

    `now` is Unix time in seconds.

    Raises:
        RemoteProtocolError: malformed, not signed by `relay`, for another peer, or expired.
        CryptoFailure: the signature does not verify.

    """
    voucher = Voucher.open(envelope)
    if voucher.relay != relay:
        raise VoucherError(f"a voucher of relay {voucher.relay}, not of {relay}")
    if voucher.peer != peer:
        raise VoucherError(f"a voucher for {voucher.peer}, not for {peer}")
    if voucher.expiration + CLOCK_SKEW < now:
        raise VoucherError("the voucher has expired")
    return voucher
