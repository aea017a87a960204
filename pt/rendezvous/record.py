"""Sealed records: where an exposer is, for those who know its name (docs/design.md).

    blob      = version (1 byte, 1) · nonce (12 bytes) · ciphertext
    cipher    = ChaCha20-Poly1305(record_key, nonce, aad, inner), RFC 8439
    aad       = "pt/2 record" · version
    inner     = length (2 bytes, big-endian) · envelope · zeros up to a size of PADDED_SIZES
    envelope  = libp2p signed envelope (RFC 0002 of libp2p) by the exposer's identity key,
                domain "pt/2 record " + hex(record_tag), payload type "/pt/record/1", payload:

        message Record {
          uint64 seq = 1;               // grows with every record of this identity
          uint64 expires = 2;           // Unix time, seconds
          repeated bytes addresses = 3; // multiaddrs without /p2p, best first
          repeated uint32 services = 4; // ports that can be asked for
          bool gone = 5;                // the exposer said goodbye
          repeated Fact facts = 6;      // what helps to connect, such as the kind of NAT
        }
        message Fact {
          string key = 1;
          bytes value = 2;              // what it means is the key's business
        }

Fields and facts that a reader does not know are skipped. Without the name a blob is noise of one of
five sizes. With it, the signature says which identity
speaks, so members of one name cannot speak for each other; the name's tag in the signed domain
keeps a record from being moved to another name. What is old or replayed is thrown out by
`pt.rendezvous.exposers`.

A LAN carries blobs. On the DHTs, `pt.rendezvous.mailbox` seals the envelopes (`sign`, `verify`) of
several exposers together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from pt.errors import CryptoFailure, LocalProtocolError, RemoteProtocolError
from pt.identity import envelope
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.rendezvous.name import NameKeys
from pt.wire import protobuf
from pt.wire.multiaddr import Multiaddr

__all__ = [
    "MAX_ADDRESSES",
    "MAX_BLOB",
    "MAX_FACTS",
    "MAX_FACTS_BYTES",
    "MAX_LIFETIME",
    "MAX_SERVICES",
    "MAX_SIGNED",
    "NONCE_BYTES",
    "Record",
    "open_record",
    "seal",
    "sign",
    "verify",
]

VERSION: Final = 1
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
PADDED_SIZES: Final = (256, 384, 512, 640, 768)
"""Sizes a blob may have: so its length says little about how many addresses are in it."""
MAX_BLOB: Final = PADDED_SIZES[-1]
"""In base64url it leaves a multicast DNS packet room for everything else."""
MAX_ADDRESSES: Final = 16
MAX_SERVICES: Final = 32
MAX_FACTS: Final = 8
MAX_FACTS_BYTES: Final = 160
"""Bytes of all facts' keys and values together."""
MAX_FACT_KEY: Final = 16
MAX_LIFETIME: Final = 7 * 24 * 3600
"""Seconds a record may claim to live; an exposer renews far more often."""
CLOCK_SKEW: Final = 300
"""Seconds two machines' clocks may differ."""
MAX_FIELDS: Final = 128
MAX_SEQ: Final = (1 << 63) - 1

_OVERHEAD: Final = 1 + NONCE_BYTES + TAG_BYTES
MAX_SIGNED: Final = MAX_BLOB - _OVERHEAD - 2
"""Bytes of a signed record."""
_AAD: Final = b"pt/2 record" + bytes((VERSION,))
_PAYLOAD_TYPE: Final = b"/pt/record/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What an exposer says about itself."""

    peer_id: PeerId
    addresses: tuple[Multiaddr, ...]
    """Without /p2p, best first."""
    seq: int
    expires: int
    """Unix time, seconds."""
    services: tuple[int, ...] = ()
    gone: bool = False
    """The exposer stopped cleanly: do not dial it until a newer record says otherwise."""
    facts: tuple[tuple[str, bytes], ...] = ()
    """(key, value), each key once; readers look for those they know."""


def seal(record: Record, keys: NameKeys, identity: PrivateKey, nonce: bytes) -> bytes:
    """Sign, pad and encrypt a record: at most MAX_BLOB bytes.

    Addresses that do not fit are left out, the last first. `nonce` is 12 fresh random bytes.

    Raises:
        LocalProtocolError: the record is not the identity's own, or breaks a bound.

    """
    if len(nonce) != NONCE_BYTES:
        raise LocalProtocolError("a record with a bad nonce")
    inner = sign(record, keys, identity)
    size = next(size for size in PADDED_SIZES if size >= len(inner) + 2 + _OVERHEAD)
    plain = (len(inner).to_bytes(2, "big") + inner).ljust(size - _OVERHEAD, b"\0")
    return bytes((VERSION,)) + nonce + ChaCha20Poly1305(keys.record_key).encrypt(nonce, plain, _AAD)


def sign(record: Record, keys: NameKeys, identity: PrivateKey) -> bytes:
    """The record's envelope, not sealed: at most MAX_SIGNED bytes.

    Addresses that do not fit are left out, the last first.

    Raises:
        LocalProtocolError: the record is not the identity's own, or breaks a bound.

    """
    if record.peer_id != PeerId.from_public_key(identity.public):
        raise LocalProtocolError("a record can only be signed by the identity it speaks of")
    if not 0 <= record.seq <= MAX_SEQ or record.expires < 0:
        raise LocalProtocolError("a record with a bad sequence or expiry")
    if len(record.services) > MAX_SERVICES:
        raise LocalProtocolError(f"a record lists at most {MAX_SERVICES} services")
    if not _bounded(record.facts):
        raise LocalProtocolError("a record with too many, too long or repeated facts")
    addresses = [address.encode() for address in _bare(record.addresses)[:MAX_ADDRESSES]]
    while True:
        signed = envelope.seal(identity, _domain(keys), _PAYLOAD_TYPE, _payload(record, addresses))
        if len(signed) <= MAX_SIGNED:
            return signed
        if not addresses:
            raise LocalProtocolError("a record that does not fit even without addresses")
        addresses.pop()


def open_record(blob: bytes, keys: NameKeys, now: float | None) -> Record:
    """Decrypt and verify a record.

    `now` is Unix time in seconds. None skips the expiry: for media where an answer is itself a sign
    of life (a LAN), so that a machine without a clock can still be found there.

    Raises:
        CryptoFailure: not sealed for this name, or the signature is wrong.
        RemoteProtocolError: oversize, cut short, malformed, expired, or valid absurdly long.

    """
    if len(blob) not in PADDED_SIZES or blob[0] != VERSION:
        raise RemoteProtocolError("not a sealed record of a version we know")
    try:
        plain = ChaCha20Poly1305(keys.record_key).decrypt(
            blob[1 : 1 + NONCE_BYTES], blob[1 + NONCE_BYTES :], _AAD
        )
    except InvalidTag as error:
        raise CryptoFailure("a record that is not sealed for this name") from error
    end = 2 + int.from_bytes(plain[:2], "big")
    if end > len(plain) or plain.count(0, end) != len(plain) - end:
        raise RemoteProtocolError("a record with bad padding")
    return verify(plain[2:end], keys, now)


def verify(signed_record: bytes, keys: NameKeys, now: float | None) -> Record:
    """Check an envelope and read the record in it; `now` as for `open_record`.

    Raises:
        CryptoFailure: the signature is wrong, or made for another name.
        RemoteProtocolError: malformed, expired, or valid absurdly long.

    """
    if len(signed_record) > MAX_SIGNED:
        raise RemoteProtocolError(f"a signed record of more than {MAX_SIGNED} bytes")
    signed = envelope.open_envelope(signed_record, _domain(keys))
    if signed.payload_type != _PAYLOAD_TYPE:
        raise RemoteProtocolError("a record of unknown type")
    record = _parse(signed.payload, PeerId.from_public_key(signed.public_key))
    if now is not None:
        if record.expires + CLOCK_SKEW < now:
            raise RemoteProtocolError("the record has expired")
        if record.expires > now + MAX_LIFETIME + CLOCK_SKEW:
            raise RemoteProtocolError("the record claims to live too long")
    return record


def _domain(keys: NameKeys) -> str:
    return "pt/2 record " + keys.record_tag.hex()


def _payload(record: Record, addresses: list[bytes]) -> bytes:
    parts = [protobuf.put_uint(1, record.seq), protobuf.put_uint(2, record.expires)]
    parts += [protobuf.put_bytes(3, address) for address in addresses]
    parts += [protobuf.put_uint(4, port) for port in record.services]
    if record.gone:
        parts.append(protobuf.put_uint(5, 1))
    for key, value in record.facts:
        fact = protobuf.put_text(1, key) + protobuf.put_bytes(2, value)
        parts.append(protobuf.put_bytes(6, fact))
    return b"".join(parts)


def _bare(addresses: Iterable[Multiaddr]) -> list[Multiaddr]:
    """Without /p2p: the peer is the record's; an address that is nothing else is dropped."""
    return [bare for address in addresses if (bare := address.without_peer()) is not None]


def _bounded(facts: tuple[tuple[str, bytes], ...]) -> bool:
    return (
        len(facts) <= MAX_FACTS
        and len({key for key, _ in facts}) == len(facts)
        and all(0 < len(key.encode()) <= MAX_FACT_KEY for key, _ in facts)
        and sum(len(key.encode()) + len(value) for key, value in facts) <= MAX_FACTS_BYTES
    )


def _fact(raw: bytes) -> tuple[str, bytes]:
    message = protobuf.Fields(raw, MAX_FIELDS)
    return message.text(1) or "", message.bytes(2) or b""


def _parse(payload: bytes, peer_id: PeerId) -> Record:
    message = protobuf.Fields(payload, MAX_FIELDS)
    addresses, services = message.all_bytes(3), message.all_uints(4)
    seq = message.uint(1) or 0
    if len(addresses) > MAX_ADDRESSES or len(services) > MAX_SERVICES or seq > MAX_SEQ:
        raise RemoteProtocolError("a record with too much in it")
    if not all(0 < port < 65536 for port in services):
        raise RemoteProtocolError("a record with a service that is no port")
    facts = tuple(_fact(raw) for raw in message.all_bytes(6)[: MAX_FACTS + 1])
    if not _bounded(facts):
        raise RemoteProtocolError("a record with too many, too long or repeated facts")
    return Record(
        peer_id=peer_id,
        addresses=tuple(_bare(Multiaddr.decode(address) for address in addresses)),
        seq=seq,
        expires=message.uint(2) or 0,
        services=tuple(services),
        gone=bool(message.uint(5)),
        facts=facts,
    )
