"""Signed peer records (libp2p RFC 0003): the addresses a peer vouches for.

    PeerRecord{peer_id=1: bytes, seq=2: uint64, addresses=3*: {multiaddr=1: bytes}}

Travels in a signed envelope with domain `libp2p-peer-record` and payload type `03 01`: the values
every implementation uses, which are not those of the RFC's prose. A newer record has a greater seq;
implementations use the nanoseconds of its creation since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pt.errors import RemoteProtocolError
from pt.identity.envelope import open_envelope, seal
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.wire import protobuf
from pt.wire.multiaddr import Multiaddr, MultiaddrError

__all__ = ["DOMAIN", "MAX_ADDRESSES", "PAYLOAD_TYPE", "PeerRecord", "PeerRecordError"]

DOMAIN: Final = "libp2p-peer-record"
PAYLOAD_TYPE: Final = b"\x03\x01"
MAX_ADDRESSES: Final = 128  # further ones are ignored; busy public peers announce some thirty


class PeerRecordError(RemoteProtocolError):
    """The record is malformed, or not signed by the peer it is about."""


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """What a peer says about itself; `seq` orders its records (64 bits)."""

    peer_id: PeerId
    seq: int
    addresses: tuple[Multiaddr, ...]

    def encode(self) -> bytes:
        """The bare record, unsigned."""
        parts = [protobuf.put_bytes(1, self.peer_id.raw), protobuf.put_uint(2, self.seq)]
        parts.extend(
            protobuf.put_bytes(3, protobuf.put_bytes(1, address.encode()))
            for address in self.addresses
        )
        return b"".join(parts)

    @classmethod
    def decode(cls, raw: bytes) -> PeerRecord:
        """Read a bare record; addresses that cannot be understood are left out.

        Raises:
            RemoteProtocolError: malformed, or without a peer id.

        """
        message = protobuf.Fields(raw)
        peer_id = message.bytes(1)
        if peer_id is None:
            raise PeerRecordError("a peer record without a peer id")
        found = []
        for info in message.all_bytes(3)[:MAX_ADDRESSES]:
            try:
                found.append(Multiaddr.decode(protobuf.Fields(info).bytes(1) or b""))
            except (MultiaddrError, protobuf.ProtobufError):
                continue  # one unknown transport must not cost the peer its other addresses
        return cls(PeerId(peer_id), message.uint(2) or 0, tuple(found))

    def sealed(self, key: PrivateKey) -> bytes:
        """The record in an envelope signed with the peer's own `key`."""
        return seal(key, DOMAIN, PAYLOAD_TYPE, self.encode())

    @classmethod
    def from_envelope(cls, data: bytes) -> PeerRecord:
        """Open an envelope and read the record in it, signed by the peer it is about.

        That this is the peer at the other end of the connection is the caller's to check.

        Raises:
            RemoteProtocolError: malformed, of another payload type, or of another peer.
            CryptoFailure: the signature does not verify.

        """
        envelope = open_envelope(data, DOMAIN)
        if envelope.payload_type != PAYLOAD_TYPE:
            raise PeerRecordError(f"an envelope of type {envelope.payload_type[:16].hex()}")
        record = cls.decode(envelope.payload)
        if record.peer_id != PeerId.from_public_key(envelope.public_key):
            raise PeerRecordError("a peer record signed by another peer than it is about")
        return record
