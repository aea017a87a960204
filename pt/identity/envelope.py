"""Signed envelopes (libp2p RFC 0002): a typed payload, signed for one domain of use.

    Envelope{public_key=1: PublicKey, payload_type=2: bytes, payload=3: bytes, signature=5: bytes}

The signature covers domain, payload type and payload, each preceded by its length as a uvarint, so
that a payload signed for one purpose cannot be passed off for another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pt.errors import RemoteProtocolError
from pt.identity.keys import PrivateKey, PublicKey
from pt.wire import protobuf, uvarint

__all__ = ["MAX_ENVELOPE", "Envelope", "EnvelopeError", "open_envelope", "seal"]

MAX_ENVELOPE: Final = 64 * 1024  # bytes; the largest identify exchange we accept is smaller


class EnvelopeError(RemoteProtocolError):
    """The bytes are not a complete envelope."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A verified envelope: `public_key` did sign `payload` as `payload_type`."""

    public_key: PublicKey
    payload_type: bytes
    payload: bytes


def seal(key: PrivateKey, domain: str, payload_type: bytes, payload: bytes) -> bytes:
    """Sign `payload` and wrap it."""
    signature = key.sign(_signed_bytes(domain, payload_type, payload))
    return (
        protobuf.put_bytes(1, key.public.to_protobuf())
        + protobuf.put_bytes(2, payload_type)
        + protobuf.put_bytes(3, payload)
        + protobuf.put_bytes(5, signature)
    )


def open_envelope(data: bytes, domain: str) -> Envelope:
    """Unwrap `data` and verify it for `domain`; who the signer may be is the caller's to check.

    Raises:
        EnvelopeError: malformed, incomplete or longer than `MAX_ENVELOPE`.
        RemoteProtocolError: the key in it is malformed or unsupported.
        CryptoFailure: the signature does not verify.

    """
    if len(data) > MAX_ENVELOPE:
        raise EnvelopeError(f"a signed envelope of {len(data)} bytes, more than {MAX_ENVELOPE}")
    message = protobuf.Fields(data)
    raw_key, signature = message.bytes(1), message.bytes(5)
    if raw_key is None or signature is None:
        raise EnvelopeError("a signed envelope without key or signature")
    payload_type, payload = message.bytes(2) or b"", message.bytes(3) or b""
    key = PublicKey.from_protobuf(raw_key)
    key.verify(_signed_bytes(domain, payload_type, payload), signature)
    return Envelope(key, payload_type, payload)


def _signed_bytes(domain: str, payload_type: bytes, payload: bytes) -> bytes:
    parts = (domain.encode(), payload_type, payload)
    return b"".join(uvarint.prefix(part) for part in parts)
