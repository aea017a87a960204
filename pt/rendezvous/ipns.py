"""IPNS records as a sealed mailbox (specs.ipfs.tech/ipns/ipns-record, version 2 only).

    IpnsRecord { bytes pubKey = 7; bytes signatureV2 = 8; bytes data = 9; }

    data        = DAG-CBOR map {TTL: ns, _pt: payload, Value: "/ipfs/bafkqaaa", Sequence,
                  Validity: RFC 3339 UTC, ValidityType: 0}
    signatureV2 = Ed25519 over "ipns-signature:" · data
    name        = identity multihash of the key (38 bytes)
    routing key = "/ipns/" · name; our overlay stores under its SHA-256

Every server of the public DHT keeps such a record for whoever signs it, checks signature, size and
end of validity, and lets a higher sequence replace a lower one. The `Value` says "nothing here";
ours is under `_pt`. The key is in the record although the name holds it, so that one who only has
the record and a hash can check it. None of this needs a secret, and none of it says who wrote the
record: that is sealed inside the payload.

Records are taken in the one encoding that `create` makes (further `_` keys are for later versions).
Times are Unix seconds; the validity is kept in nanoseconds, since it decides between records.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pt.errors import CryptoFailure, LocalProtocolError, RemoteProtocolError
from pt.identity.keys import KeyType, PrivateKey, PublicKey
from pt.identity.peer_id import PeerId
from pt.rendezvous import cbor
from pt.wire import protobuf

__all__ = [
    "MAX_PAYLOAD",
    "MAX_RECORD",
    "MAX_SEQ",
    "ExpiredError",
    "IpnsRecord",
    "create",
    "name_of",
    "overlay_key",
    "routing_key",
    "select",
    "validate",
    "validate_stored",
]

MAX_RECORD: Final = 10 * 1024
MAX_PAYLOAD: Final = MAX_RECORD - 512
"""Bytes; what surrounds a payload takes fewer than 300."""
MAX_SEQ: Final = cbor.MAX_INT
MAX_EXPIRES: Final = 253_402_300_799
"""The last second of the year 9999: RFC 3339 has no later one."""

_VALUE: Final = b"/ipfs/bafkqaaa"
_PAYLOAD: Final = "_pt"
_PREFIX: Final = b"/ipns/"
_SIGNED: Final = b"ipns-signature:"
_KEYS: Final = frozenset({"TTL", "Value", "Sequence", "Validity", "ValidityType", _PAYLOAD})
_VALIDITY: Final = rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z"
_MAX_FIELDS: Final = 8


class ExpiredError(RemoteProtocolError):
    """The record's validity has ended."""


@dataclass(frozen=True, slots=True)
class IpnsRecord:
    """A record whose signature was checked."""

    name: bytes
    """The key's identity multihash: whose mailbox this is."""
    payload: bytes
    seq: int
    validity: int
    """Unix time in nanoseconds."""
    ttl: int
    """Nanoseconds; a hint for caches."""
    raw: bytes

    @property
    def expires(self) -> int:
        """Unix time, seconds."""
        return self.validity // 1_000_000_000

    @property
    def routing_key(self) -> bytes:
        """The key on the public DHT."""
        return routing_key(self.name)

    @property
    def overlay_key(self) -> bytes:
        """The key on our overlay, 32 bytes."""
        return overlay_key(self.name)


def name_of(key: PublicKey) -> bytes:
    """The identity multihash of an Ed25519 key, 38 bytes."""
    return PeerId.from_public_key(key).raw


def routing_key(name: bytes) -> bytes:
    """The key of a mailbox on the public DHT."""
    return _PREFIX + name


def overlay_key(name: bytes) -> bytes:
    """The key of a mailbox on our overlay: 32 bytes."""
    return hashlib.sha256(routing_key(name)).digest()


def create(key: PrivateKey, payload: bytes, *, seq: int, expires: int, ttl: int) -> bytes:
    """Make a record: `expires` is Unix time in seconds, `ttl` seconds.

    Raises:
        LocalProtocolError: the payload is too long, or a number is out of range.

    """
    if len(payload) > MAX_PAYLOAD:
        raise LocalProtocolError(f"a payload of {len(payload)} bytes, more than {MAX_PAYLOAD}")
    if not 0 <= seq <= MAX_SEQ or not 0 <= expires <= MAX_EXPIRES or not 0 <= ttl <= 1 << 32:
        raise LocalProtocolError("an IPNS record with a number out of range")
    validity = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    data = cbor.encode_map(
        {
            "TTL": ttl * 1_000_000_000,
            _PAYLOAD: payload,
            "Value": _VALUE,
            "Sequence": seq,
            "Validity": validity.encode(),
            "ValidityType": 0,
        }
    )
    return _encode(key.public.to_protobuf(), key.sign(_SIGNED + data), data)


def validate(raw: bytes, name: bytes | None, now: float) -> IpnsRecord:
    """Check a record of the mailbox `name`; None takes any, and the result says whose it is.

    Raises:
        CryptoFailure: another mailbox's, or the signature is wrong.
        ExpiredError: it was valid.
        RemoteProtocolError: oversize, malformed, or not in the one encoding.

    """
    if len(raw) > MAX_RECORD:
        raise RemoteProtocolError(f"an IPNS record of more than {MAX_RECORD} bytes")
    message = protobuf.Fields(raw, _MAX_FIELDS)
    raw_key, signature, data = message.bytes(7), message.bytes(8), message.bytes(9)
    if raw_key is None or signature is None or data is None:
        raise RemoteProtocolError("an IPNS record without key, signature or data")
    if _encode(raw_key, signature, data) != raw:
        raise RemoteProtocolError("an IPNS record that is not in the form we write")
    key = PublicKey.from_protobuf(raw_key)
    if key.type is not KeyType.ED25519 or key.to_protobuf() != raw_key:
        raise RemoteProtocolError("an IPNS record of a key that is not a plain Ed25519 one")
    found = name_of(key)
    if name is not None and found != name:
        raise CryptoFailure("an IPNS record of another mailbox")
    key.verify(_SIGNED + data, signature)
    record = _parse(found, cbor.decode_map(data), raw)
    if record.validity < now * 1e9:
        raise ExpiredError("the IPNS record has expired")
    return record


def validate_stored(key: bytes, raw: bytes, now: float) -> IpnsRecord:
    """Check a record that is to be stored on our overlay under `key`, its mailbox's overlay key.

    Raises:
        CryptoFailure: another mailbox's, or the signature is wrong.
        ExpiredError: it was valid.
        RemoteProtocolError: oversize, malformed, or not in the one encoding.

    """
    record = validate(raw, None, now)
    if record.overlay_key != key:
        raise CryptoFailure("an IPNS record under the key of another mailbox")
    return record


def select(records: Iterable[IpnsRecord]) -> IpnsRecord | None:
    """The record that DHT servers keep: highest sequence, latest validity, greatest bytes."""
    return max(records, key=lambda record: (record.seq, record.validity, record.raw), default=None)


def _encode(key: bytes, signature: bytes, data: bytes) -> bytes:
    return (
        protobuf.put_bytes(7, key) + protobuf.put_bytes(8, signature) + protobuf.put_bytes(9, data)
    )


def _parse(name: bytes, data: dict[str, cbor.Value], raw: bytes) -> IpnsRecord:
    if any(key not in _KEYS and not key.startswith("_") for key in data):
        raise RemoteProtocolError("an IPNS record with a field that is not known here")
    payload, ttl, seq = data.get(_PAYLOAD), data.get("TTL"), data.get("Sequence")
    kind, value, validity = data.get("ValidityType"), data.get("Value"), data.get("Validity")
    if (
        not isinstance(payload, bytes)
        or not isinstance(validity, bytes)
        or not isinstance(ttl, int)
        or not isinstance(seq, int)
        or any(isinstance(number, bool) for number in (ttl, seq, kind))
        or value != _VALUE
        or kind != 0
    ):
        raise RemoteProtocolError("an IPNS record that is not a mailbox of ours")
    return IpnsRecord(name, payload, seq, _nanoseconds(validity), ttl, raw)


def _nanoseconds(text: bytes) -> int:
    match = re.fullmatch(_VALIDITY, text)
    try:
        if match is None:
            raise ValueError
        moment = datetime.fromisoformat(match[1].decode()).replace(tzinfo=UTC)
    except ValueError:
        raise RemoteProtocolError("an IPNS record with a validity that is no date") from None
    return int(moment.timestamp()) * 1_000_000_000 + int((match[2] or b"0").ljust(9, b"0"))
