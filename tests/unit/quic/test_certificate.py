from __future__ import annotations

import warnings

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.utils import CryptographyDeprecationWarning
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import LocalProtocolError
from pt.identity.keys import KeyType, PrivateKey, PublicKey
from pt.identity.peer_id import PeerId, PeerMismatchError
from pt.quic.certificate import MAX_CERTIFICATE, Certificate, CertificateError, load, verify
from tests.unit.quic.forge import NOW, certificate, forge, key_info, signed_key
from tests.vectors import load as vectors

ALICE, BOB = PrivateKey.generate(b"a" * 32), PrivateKey.generate(b"b" * 32)
ALICE_ID, BOB_ID = PeerId.from_public_key(ALICE.public), PeerId.from_public_key(BOB.public)
CERTIFICATES = vectors("libp2p/certificates.json")
GOOD = [row for row in CERTIFICATES if row["peer_id"]]
(BAD,) = [row for row in CERTIFICATES if not row["peer_id"]]
RSA_KEY = rsa.generate_private_key(65537, 2048)
YEAR = 365.25 * 86400


def refused(der: bytes, words: str, code: int = 0x12A, now: float = NOW) -> None:
    with pytest.raises(CertificateError, match=words) as caught:
        verify([der], now=now)
    assert caught.value.code == code


# --- the specification's vectors -------------------------------------------------------------


@pytest.mark.parametrize("row", GOOD, ids=lambda row: row["key"])
def test_vector(row: dict) -> None:
    peer = PeerId.parse(row["peer_id"])
    assert verify([bytes.fromhex(row["der"])], now=NOW) == peer
    assert verify([bytes.fromhex(row["der"])], now=NOW, expected=peer) == peer


def test_vector_with_a_wrong_signature_is_refused() -> None:
    refused(bytes.fromhex(BAD["der"]), "not signed by the identity")


@pytest.mark.parametrize("year", [1974, 4097])
def test_vectors_are_refused_outside_their_years(year: int) -> None:
    der = bytes.fromhex(GOOD[0]["der"])
    refused(der, "1975-01-01 13:00 to 4096-01-01 13:00", 0x12D, (year - 1970) * YEAR)


@pytest.mark.parametrize("year", [1975.1, 4095.9])
def test_vectors_are_valid_in_their_years(year: float) -> None:
    verify([bytes.fromhex(GOOD[0]["der"])], now=(year - 1970) * YEAR)


# --- ours ------------------------------------------------------------------------------------


def test_our_own_is_accepted() -> None:
    made = certificate(ALICE)
    assert verify([made.der], now=NOW, expected=ALICE_ID) == ALICE_ID


def test_our_own_looks_like_gos() -> None:
    made = certificate(ALICE).x509
    assert isinstance(made.public_key(), ec.EllipticCurvePublicKey)
    assert made.public_key().curve.name == "secp256r1"  # type: ignore[union-attr]
    assert made.signature_algorithm_oid.dotted_string == "1.2.840.10045.4.3.2"
    assert made.not_valid_before_utc.timestamp() == NOW - 3600
    assert made.not_valid_after_utc.timestamp() - NOW == pytest.approx(100 * YEAR, rel=1e-4)
    assert [(e.oid.dotted_string, e.critical) for e in made.extensions] == [
        ("1.3.6.1.4.1.53594.1.1", False)
    ]


@pytest.mark.parametrize("last", [b"\x00", b"\xff"])
def test_serial_numbers_are_positive(last: bytes) -> None:
    made = certificate(ALICE, entropy=b"k" * 48 + last * 8)
    assert 0 < made.x509.serial_number < 2**63
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x509.load_der_x509_certificate(made.der)


def test_entropy_makes_the_key() -> None:
    one, same = certificate(ALICE), certificate(ALICE)
    other = certificate(ALICE, entropy=b"f" * 56)
    assert key_info(one.private_key) == key_info(same.private_key) != key_info(other.private_key)
    with pytest.raises(LocalProtocolError, match="56 random bytes"):
        Certificate.create(ALICE, now=NOW, entropy=b"short")


# --- what is refused -------------------------------------------------------------------------


def test_another_peer_than_the_expected_one() -> None:
    with pytest.raises(PeerMismatchError, match="address belongs to") as caught:
        verify([certificate(BOB).der], now=NOW, expected=ALICE_ID)
    assert (caught.value.expected, caught.value.actual) == (ALICE_ID, BOB_ID)
    assert caught.value.code == 0x12A


def test_no_certificate() -> None:
    with pytest.raises(CertificateError, match="no certificate") as caught:
        verify([], now=NOW)
    assert caught.value.code == 0x174


def test_more_than_one_certificate() -> None:
    with pytest.raises(CertificateError, match="2 certificates"):
        verify([certificate(ALICE).der, certificate(BOB).der], now=NOW)


def test_expired() -> None:
    refused(forge(ALICE, since=-7200, until=-1), "check the clocks", 0x12D)


def test_not_yet_valid() -> None:
    refused(forge(ALICE, since=1, until=7200), "check the clocks", 0x12D)


def test_valid_to_the_second() -> None:
    verify([forge(ALICE, since=0, until=1)], now=NOW)
    verify([forge(ALICE, since=-1, until=0)], now=NOW)


def test_signed_by_another_key() -> None:
    refused(forge(ALICE, signer=ec.derive_private_key(99, ec.SECP256R1())), "own key")


def test_content_changed_after_signing() -> None:
    der = bytearray(forge(ALICE, subject="1234567", issuer="1234567"))
    at = der.index(b"1234567")
    der[at] = ord("9")
    refused(bytes(der), "own key")


def test_without_the_extension() -> None:
    refused(forge(ALICE, extension=None), "no libp2p extension")


@pytest.mark.parametrize("critical", [False, True])
def test_the_extension_may_be_critical_or_not(critical: bool) -> None:
    assert verify([forge(ALICE, critical=critical)], now=NOW) == ALICE_ID


def test_an_unknown_critical_extension() -> None:
    refused(forge(ALICE, more=(("1.3.6.1.4.1.53594.99", True),)), "53594.99", 0x12B)


def test_an_unknown_extension_that_is_not_critical() -> None:
    verify([forge(ALICE, more=(("1.3.6.1.4.1.53594.99", False),))], now=NOW)


def test_a_known_critical_extension() -> None:
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    verify([forge(ALICE, known=((constraints, True),))], now=NOW)


@pytest.mark.parametrize(
    "extension",
    [
        b"",
        b"\x30\x00",
        b"\x30\x80\x04\x00\x04\x00\x00\x00",  # indefinite length: BER
        b"\x30\x81\x04\x04\x00\x04\x00",  # length not minimal
        b"\x30\x02\x04\x00",
        signed_key(b"k", b"s") + b"\x00",
    ],
)
def test_an_extension_that_is_not_der(extension: bytes) -> None:
    refused(forge(ALICE, extension=extension), "extension of the peer's certificate")


@pytest.mark.parametrize("public", [b"", b"\x08\x01", b"\x08\x09\x12\x00", b"\x12" * 3000])
def test_an_identity_key_that_is_none(public: bytes) -> None:
    refused(forge(ALICE, extension=signed_key(public, b"s" * 64)), "not signed by the identity")


def test_an_identity_signature_over_another_key() -> None:
    """A certificate's extension, lifted into one on the thief's own key."""
    lifted = certificate(ALICE).x509.extensions[0].value
    assert isinstance(lifted, x509.UnrecognizedExtension)
    refused(forge(BOB, extension=lifted.value), "not signed by the identity")


def test_an_identity_signature_without_the_prefix() -> None:
    key = ec.derive_private_key(77, ec.SECP256R1())
    bare = signed_key(ALICE.public.to_protobuf(), ALICE.sign(key_info(key)))
    refused(forge(ALICE, key=key, extension=bare), "not signed by the identity")


def test_garbage() -> None:
    refused(b"", "cannot be read")
    refused(b"\x30\x03\x02\x01\x01", "cannot be read")
    refused(certificate(ALICE).der + b"\x00", "cannot be read")
    refused(bytes(MAX_CERTIFICATE + 1), f"{MAX_CERTIFICATE + 1} bytes")


@given(at=st.integers(0, 433), bit=st.integers(0, 7))
def test_one_flipped_bit_is_refused(at: int, bit: int) -> None:
    der = bytearray.fromhex(GOOD[0]["der"])
    der[at] ^= 1 << bit
    with pytest.raises(CertificateError):
        verify([bytes(der)], now=NOW)


# --- kinds of keys ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "options"),
    [
        (ec.derive_private_key(7, ec.SECP384R1()), {"algorithm": hashes.SHA384()}),
        (ec.derive_private_key(7, ec.SECP521R1()), {"algorithm": hashes.SHA512()}),
        (ed25519.Ed25519PrivateKey.from_private_bytes(b"c" * 32), {"algorithm": None}),
        (RSA_KEY, {"padding": PKCS1v15()}),
        (RSA_KEY, {"padding": PSS(MGF1(hashes.SHA256()), 32)}),
    ],
    ids=["p384", "p521", "ed25519", "rsa", "rsa-pss"],
)
def test_certificate_keys(key: object, options: dict) -> None:
    assert verify([forge(ALICE, key=key, **options)], now=NOW) == ALICE_ID
    other = RSA_KEY if isinstance(key, rsa.RSAPrivateKey) else None
    if other is None:
        der = bytearray(forge(ALICE, key=key, **options))
        der[-1] ^= 1
        refused(bytes(der), "own key")


@pytest.mark.parametrize(
    ("key", "options"),
    [
        (ec.derive_private_key(7, ec.SECP256K1()), {}),
        (ed448.Ed448PrivateKey.generate(), {"algorithm": None}),
        (rsa.generate_private_key(65537, 1024), {}),
    ],
    ids=["secp256k1", "ed448", "rsa-1024"],
)
def test_certificate_keys_that_are_not_supported(key: object, options: dict) -> None:
    refused(forge(ALICE, key=key, **options), "not supported", 0x12B)


def identity(kind: str) -> tuple[PublicKey, object]:
    if kind == "rsa":
        public = PublicKey(KeyType.RSA, key_info(RSA_KEY))
        return public, lambda data: RSA_KEY.sign(data, PKCS1v15(), hashes.SHA256())
    curve = ec.SECP256K1() if kind == "secp256k1" else ec.SECP256R1()
    key = ec.derive_private_key(5, curve)
    if kind == "ecdsa":
        public = PublicKey(KeyType.ECDSA, key_info(key))
    else:
        point = key.public_key().public_numbers()
        compressed = bytes([2 + (point.y & 1)]) + point.x.to_bytes(32, "big")
        public = PublicKey(KeyType.SECP256K1, compressed)
    return public, lambda data: key.sign(data, ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "secp256k1"])
def test_identity_keys_of_other_kinds(kind: str) -> None:
    public, sign = identity(kind)
    key = ec.derive_private_key(77, ec.SECP256R1())
    signature = sign(b"libp2p-tls-handshake:" + key_info(key))  # type: ignore[operator]
    right = forge(ALICE, key=key, extension=signed_key(public.to_protobuf(), signature))
    assert verify([right], now=NOW) == PeerId.from_public_key(public)
    wrong = sign(b"libp2p-tls-handshake:")  # type: ignore[operator]
    refused(
        forge(ALICE, key=key, extension=signed_key(public.to_protobuf(), wrong)),
        "not signed by the identity",
    )


def test_names_do_not_matter() -> None:
    verify([forge(ALICE, subject=None, issuer=None)], now=NOW)
    verify([forge(ALICE, subject="1", issuer="2")], now=NOW)


def test_a_negative_serial_number_is_taken_in_silence() -> None:
    """Some older peers make them; the library warns, and users cannot do anything about it."""
    der = bytearray(certificate(ALICE).der)
    at = der.index(b"\x02\x08") + 2
    der[at] |= 0x80
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(bytes(der))
    with pytest.warns(CryptographyDeprecationWarning):
        x509.load_der_x509_certificate(bytes(der))
