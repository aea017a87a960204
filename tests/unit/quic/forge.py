"""Certificates with one thing wrong with them."""

from __future__ import annotations

import datetime as dt
from typing import Any

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier

from pt.identity.keys import PrivateKey
from pt.quic.certificate import Certificate

__all__ = ["NOW", "certificate", "forge", "key_info", "signed_key"]

NOW = 1_800_000_000.0  # 2027


def certificate(identity: PrivateKey, now: float = NOW, entropy: bytes = b"e" * 56) -> Certificate:
    return Certificate.create(identity, now=now, entropy=entropy)


@asn1.sequence
class _SignedKey:
    public_key: bytes
    signature: bytes


def key_info(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def signed_key(public: bytes, signature: bytes) -> bytes:
    return asn1.encode_der(_SignedKey(public_key=public, signature=signature))


def forge(
    identity: PrivateKey,
    *,
    key: Any = None,
    signer: Any = None,
    algorithm: Any = hashes.SHA256(),  # noqa: B008
    padding: Any = None,
    extension: bytes | str | None = "right",
    critical: bool = False,
    more: tuple[tuple[str, bool], ...] = (),
    known: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    since: float = -3600,
    until: float = 3600,
    subject: str | None = "1",
    issuer: str | None = "1",
) -> bytes:
    """The DER of a certificate that is right but for what is given."""
    key = key or ec.derive_private_key(77, ec.SECP256R1())

    def name(text: str | None) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, text)] if text else [])

    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(dt.datetime.fromtimestamp(NOW + since, dt.UTC))
        .not_valid_after(dt.datetime.fromtimestamp(NOW + until, dt.UTC))
    )
    if extension == "right":
        signature = identity.sign(b"libp2p-tls-handshake:" + key_info(key))
        extension = signed_key(identity.public.to_protobuf(), signature)
    if isinstance(extension, bytes):
        oid = ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, extension), critical)
    for dotted, is_critical in more:
        value = x509.UnrecognizedExtension(ObjectIdentifier(dotted), b"\x05\x00")
        builder = builder.add_extension(value, is_critical)
    for kind, is_critical in known:
        builder = builder.add_extension(kind, is_critical)
    made = builder.sign(signer or key, algorithm, rsa_padding=padding)
    return made.public_bytes(Encoding.DER)
