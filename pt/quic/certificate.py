"""The certificate that ties a TLS 1.3 handshake to a libp2p identity.

A self-signed X.509 certificate on a throw-away key, with one extension, 1.3.6.1.4.1.53594.1.1:

    SignedKey ::= SEQUENCE { publicKey OCTET STRING, signature OCTET STRING }

`publicKey` is the identity key's protobuf; `signature` is that key's, over "libp2p-tls-handshake:"
and the DER of the certificate key's SubjectPublicKeyInfo.  Source: libp2p specs `tls/tls.md`.
"""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    derive_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID, ObjectIdentifier

from pt.errors import CryptoFailure, LocalProtocolError, RemoteProtocolError
from pt.identity.keys import PrivateKey, PublicKey
from pt.identity.peer_id import PeerId, PeerMismatchError

__all__ = [
    "ENTROPY_SIZE",
    "MAX_CERTIFICATE",
    "Certificate",
    "CertificateError",
    "identity_key",
    "load",
    "verify",
]

EXTENSION: Final = ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
SIGNATURE_PREFIX: Final = b"libp2p-tls-handshake:"

MAX_CERTIFICATE: Final = 16 * 1024
"""DER bytes; two RSA-8192 keys and their signatures take less than 6 KiB."""

ENTROPY_SIZE: Final = 48 + 8
"""Random bytes that a certificate is made of: its key's scalar, and its serial number."""

BAD_CERTIFICATE: Final = 42
UNSUPPORTED_CERTIFICATE: Final = 43
CERTIFICATE_EXPIRED: Final = 45
CERTIFICATE_REQUIRED: Final = 116

_CRYPTO_ERROR: Final = 0x100
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_HOUR: Final = 3600
_CENTURY: Final = 36525 * 24 * 3600
_HASHES: Final = frozenset({"sha256", "sha384", "sha512"})
_CURVES: Final = frozenset({"secp256r1", "secp384r1", "secp521r1"})
_RSA_BITS: Final = range(2048, 8192 + 1)
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


class CertificateError(CryptoFailure):
    """The peer's certificate does not show who it is.

    `code` is the QUIC error to close with: 0x100 and the TLS alert (RFC 9001, section 4.8).
    """

    def __init__(self, message: str, alert: int = BAD_CERTIFICATE) -> None:
        super().__init__(message, _CRYPTO_ERROR | alert)


@asn1.sequence
class _SignedKey:
    public_key: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """Our certificate and the key it is about; one serves all connections of a process."""

    x509: x509.Certificate
    private_key: EllipticCurvePrivateKey

    @classmethod
    def create(cls, identity: PrivateKey, *, now: float, entropy: bytes) -> Certificate:
        """A certificate for `identity`, valid from an hour before `now` for a hundred years.

        `now` is in seconds since 1970, `entropy` ENTROPY_SIZE bytes from a cryptographic source.

        Raises:
            LocalProtocolError: `entropy` has another size.

        """
        if len(entropy) != ENTROPY_SIZE:
            raise LocalProtocolError(f"a certificate takes {ENTROPY_SIZE} random bytes")
        # 48 bytes for a 32-byte scalar: the remainder is even to 1 in 2**128.
        scalar = int.from_bytes(entropy[:48], "big") % (_P256_ORDER - 1) + 1
        # Positive: the top bit would make it a negative INTEGER, zero is not allowed.
        serial = (int.from_bytes(entropy[48:], "big") >> 1) or 1
        key = derive_private_key(scalar, SECP256R1())
        public = key.public_key()
        signature = identity.sign(SIGNATURE_PREFIX + _key_info(public))
        signed_key = _SignedKey(public_key=identity.public.to_protobuf(), signature=signature)
        name = x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, str(serial))])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public)
            .serial_number(serial)
            .not_valid_before(dt.datetime.fromtimestamp(int(now) - _HOUR, dt.UTC))
            .not_valid_after(dt.datetime.fromtimestamp(int(now) + _CENTURY, dt.UTC))
            .add_extension(
                x509.UnrecognizedExtension(EXTENSION, asn1.encode_der(signed_key)), critical=False
            )
            .sign(key, SHA256())
        )
        return cls(certificate, key)

    @property
    def der(self) -> bytes:
        """What goes over the wire."""
        return self.x509.public_bytes(Encoding.DER)


def load(der: bytes) -> x509.Certificate:
    """Parse one certificate, without a word on stderr about what some peers' look like.

    Raises:
        CertificateError: not X.509, or too large.

    """
    if len(der) > MAX_CERTIFICATE:
        raise CertificateError(f"the peer's certificate has {len(der)} bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # serials that are negative
        try:
            return x509.load_der_x509_certificate(der)
        except _UNREADABLE as error:
            raise CertificateError("the peer's certificate cannot be read") from error


def verify(chain: Sequence[bytes], *, now: float, expected: PeerId | None = None) -> PeerId:
    """Who the peer is that sent `chain` (DER, leaf first) and proved to have the leaf's key.

    The proof itself, CertificateVerify, is TLS's business.  `now` is in seconds since 1970.

    Raises:
        CertificateError: a check of the specification fails.
        PeerMismatchError: all is well, but it is not `expected`.

    """
    peer_id = PeerId.from_public_key(identity_key(chain, now=now))
    if expected is not None and peer_id != expected:
        raise PeerMismatchError(expected, peer_id, _CRYPTO_ERROR | BAD_CERTIFICATE)
    return peer_id


def identity_key(chain: Sequence[bytes], *, now: float) -> PublicKey:
    """The identity key of the peer that sent `chain`; as `verify`, which makes the peer id of it.

    Raises:
        CertificateError: a check of the specification fails.

    """
    if not chain:
        raise CertificateError("the peer sent no certificate", CERTIFICATE_REQUIRED)
    if len(chain) > 1:
        raise CertificateError(f"the peer sent {len(chain)} certificates, one is allowed")
    certificate = load(chain[0])
    try:
        key = certificate.public_key()
        not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        extensions = certificate.extensions
    except _UNREADABLE as error:
        raise CertificateError("the peer's certificate cannot be read") from error
    if not not_before.timestamp() <= now <= not_after.timestamp():
        raise CertificateError(
            f"the peer's certificate is valid from {not_before:%Y-%m-%d %H:%M} to "
            f"{not_after:%Y-%m-%d %H:%M} UTC, and it is "
            f"{dt.datetime.fromtimestamp(now, dt.UTC):%Y-%m-%d %H:%M} here: "
            "check the clocks of both machines",
            CERTIFICATE_EXPIRED,
        )
    _check_self_signature(certificate, key)
    signed_key = _signed_key(extensions)
    try:
        identity = PublicKey.from_protobuf(signed_key.public_key)
        identity.verify(SIGNATURE_PREFIX + _key_info(key), signed_key.signature)
    except RemoteProtocolError as error:
        raise CertificateError(
            "the peer's certificate is not signed by the identity that it names"
        ) from error
    return identity


def _signed_key(extensions: x509.Extensions) -> _SignedKey:
    found: _SignedKey | None = None
    for extension in extensions:
        if not isinstance(extension.value, x509.UnrecognizedExtension):
            continue
        if extension.oid == EXTENSION:
            try:
                found = asn1.decode_der(_SignedKey, extension.value.value)
            except ValueError as error:
                raise CertificateError(
                    "the libp2p extension of the peer's certificate cannot be read"
                ) from error
        elif extension.critical:
            raise CertificateError(
                f"the peer's certificate has an unknown critical extension "
                f"{extension.oid.dotted_string}",
                UNSUPPORTED_CERTIFICATE,
            )
    if found is None:
        raise CertificateError("the peer's certificate has no libp2p extension: not a libp2p peer")
    return found


def _check_self_signature(certificate: x509.Certificate, key: object) -> None:
    """Raise CertificateError unless the certificate's own key signed it.

    Issuer and subject are not compared: nothing depends on names here, and peers leave them empty.
    """
    try:
        algorithm = certificate.signature_hash_algorithm
        parameters = certificate.signature_algorithm_parameters
        signature, data = certificate.signature, certificate.tbs_certificate_bytes
        if isinstance(key, Ed25519PublicKey) and algorithm is None:
            key.verify(signature, data)
            return
        if algorithm is None or algorithm.name not in _HASHES:
            raise UnsupportedAlgorithm("hash")
        if isinstance(key, EllipticCurvePublicKey) and isinstance(parameters, ECDSA):
            if key.curve.name not in _CURVES:
                raise UnsupportedAlgorithm("curve")
            key.verify(signature, data, parameters)
        elif isinstance(key, RSAPublicKey) and isinstance(parameters, PKCS1v15 | PSS):
            if key.key_size not in _RSA_BITS:
                raise UnsupportedAlgorithm("key size")
            key.verify(signature, data, parameters, algorithm)
        else:
            raise UnsupportedAlgorithm("key")
    except InvalidSignature as error:
        raise CertificateError("the peer's certificate is not signed by its own key") from error
    except _UNREADABLE as error:
        raise CertificateError(
            "the peer's certificate is signed in a way that is not supported",
            UNSUPPORTED_CERTIFICATE,
        ) from error


def _key_info(key: object) -> bytes:
    assert isinstance(key, EllipticCurvePublicKey | RSAPublicKey | Ed25519PublicKey)
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
