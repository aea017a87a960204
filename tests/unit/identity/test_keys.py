"""Keys: the specification's vectors of all four types, signatures, refusals."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import CryptoFailure, LocalProtocolError, RemoteProtocolError, UsageError
from pt.identity.keys import MAX_KEY_SIZE, KeyFormatError, KeyType, PrivateKey, PublicKey
from pt.wire.protobuf import Fields, put_bytes, put_uint
from tests.vectors import load

KEYS = {key["type"]: key for key in load("libp2p/identities.json")["keys"]}
ED = KEYS["ED25519"]
OURS = PrivateKey.from_protobuf(bytes.fromhex(ED["private"]))


@pytest.mark.parametrize("name", KEYS)
def test_golden_public_keys_are_canonical(name):
    raw = bytes.fromhex(KEYS[name]["public"])
    key = PublicKey.from_protobuf(raw)
    assert key.type is KeyType[name]
    assert key.to_protobuf() == raw


def test_golden_private_key_and_signature():
    assert OURS.to_protobuf().hex() == ED["private"]
    assert OURS.public.to_protobuf().hex() == ED["public"]
    message = bytes.fromhex(ED["message"])
    assert OURS.sign(message).hex() == ED["signature"]
    OURS.public.verify(message, bytes.fromhex(ED["signature"]))


def test_the_older_private_form_with_the_public_half_twice():
    data = Fields(OURS.to_protobuf()).bytes(2)
    older = put_uint(1, KeyType.ED25519) + put_bytes(2, data + data[32:])
    assert PrivateKey.from_protobuf(older).to_protobuf() == OURS.to_protobuf()


def spki(key):
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def signer(name):
    """(public key, signing function): of the vectors where they hold the private half."""
    if name == "ED25519":
        return OURS.public, OURS.sign
    if name == "RSA":
        made = rsa.generate_private_key(65537, 2048)
        public = PublicKey.from_protobuf(put_uint(1, KeyType.RSA) + put_bytes(2, spki(made)))
        return public, lambda data: made.sign(data, padding.PKCS1v15(), SHA256())
    secret = Fields(bytes.fromhex(KEYS[name]["private"])).bytes(2)
    if name == "SECP256K1":
        key = ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256K1())
    else:
        key = load_der_private_key(secret, None)
    public = PublicKey.from_protobuf(bytes.fromhex(KEYS[name]["public"]))
    return public, lambda data: key.sign(data, ec.ECDSA(SHA256()))


@pytest.mark.parametrize("name", KEYS)
def test_all_types_verify_and_refuse(name):
    public, sign = signer(name)
    signature = sign(b"data")
    public.verify(b"data", signature)
    flipped = bytes((*signature[:-1], signature[-1] ^ 1))
    for data, wrong in [
        (b"date", signature),
        (b"data", flipped),
        (b"data", signature[:-1]),
        (b"data", b""),
        (b"data", signature + b"\0"),
        (b"data", bytes(5000)),
    ]:
        with pytest.raises(CryptoFailure, match="does not verify"):
            public.verify(data, wrong)


def test_a_secp256k1_point_is_compressed():
    raw = bytes.fromhex(KEYS["SECP256K1"]["public"])
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), Fields(raw).bytes(2))
    numbers = point.public_numbers()
    long = b"\x04" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    spelled = put_uint(1, KeyType.SECP256K1) + put_bytes(2, long)
    assert PublicKey.from_protobuf(spelled).to_protobuf() == raw


@pytest.mark.parametrize(
    "spelled",
    [
        lambda data: put_bytes(2, data) + put_uint(1, 1),  # fields in the wrong order
        lambda data: put_uint(1, 1) + put_bytes(2, data) + put_uint(9, 3),  # one more
        lambda data: b"\x08\x81\x00" + put_bytes(2, data),  # type not minimal
        lambda data: put_uint(1, 0) + put_uint(1, 1) + put_bytes(2, data),
    ],
)
def test_other_spellings_of_a_key_become_canonical(spelled):
    canonical = OURS.public.to_protobuf()
    key = PublicKey.from_protobuf(spelled(OURS.public.data))
    assert (key, key.to_protobuf()) == (OURS.public, canonical)


P256 = ec.generate_private_key(ec.SECP256R1())


def test_key_parameters_out_of_bounds():
    weak = spki(rsa.generate_private_key(65537, 1024))
    odd = spki(ec.generate_private_key(ec.SECP256K1()))
    for key_type, data in [
        (KeyType.ED25519, bytes(31)),
        (KeyType.ED25519, bytes(33)),
        (KeyType.RSA, weak),
        (KeyType.RSA, spki(P256)),
        (KeyType.RSA, b""),
        (KeyType.ECDSA, odd),
        (KeyType.ECDSA, bytes(91)),
        (KeyType.ECDSA, Fields(bytes.fromhex(KEYS["RSA"]["public"])).bytes(2)),
        (KeyType.SECP256K1, bytes(33)),
        (KeyType.SECP256K1, b""),
    ]:
        with pytest.raises(KeyFormatError):
            PublicKey.from_protobuf(put_uint(1, key_type) + put_bytes(2, data))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        put_uint(1, 1),
        put_bytes(2, bytes(32)),
        put_uint(1, 4) + put_bytes(2, bytes(32)),
        put_uint(1, 1) + put_bytes(2, bytes(MAX_KEY_SIZE)),
    ],
)
def test_malformed_public_keys(raw):
    with pytest.raises(KeyFormatError):
        PublicKey.from_protobuf(raw)


@pytest.mark.parametrize("name", KEYS)
@given(data=st.data())
def test_one_changed_byte_gives_a_key_or_the_remote_error(name, data):
    raw = bytearray.fromhex(KEYS[name]["public"])
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        key = PublicKey.from_protobuf(bytes(raw))
        key.verify(b"data", bytes(64))
    except RemoteProtocolError:
        return
    pytest.fail("a signature of zeros verified")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\xff", "cannot be read"),
        (bytes.fromhex(KEYS["ECDSA"]["private"]), "pt key new"),
        (put_uint(1, 1) + put_bytes(2, bytes(63)), "63 bytes"),
        (put_uint(1, 1) + put_bytes(2, bytes(64)), "does not belong"),
        (put_uint(1, 1) + put_bytes(2, bytes.fromhex(ED["private"])[4:] + bytes(32)), "does not"),
    ],
)
def test_unusable_private_keys_say_why(raw, reason):
    with pytest.raises(UsageError, match=reason):
        PrivateKey.from_protobuf(raw)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=64))
def test_generated_keys(seed, message):
    key = PrivateKey.generate(seed)
    oracle = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    assert key.public.data == oracle.public_key().public_bytes_raw()
    assert PrivateKey.from_protobuf(key.to_protobuf()).public == key.public
    key.public.verify(message, key.sign(message))


def test_the_seed_must_have_32_bytes():
    with pytest.raises(LocalProtocolError):
        PrivateKey.generate(bytes(31))


def test_a_private_key_never_shows_its_secret():
    secret = bytes.fromhex(ED["private"])[4:36]
    assert secret.hex() not in repr(OURS)
    assert repr(secret) not in repr(OURS)
    assert ED["public"][8:] in repr(OURS)


def imported_by(code):
    """The modules that a fresh interpreter holds after `code`."""
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    return set(subprocess.check_output([sys.executable, "-c", script], text=True).split())


def test_imports_are_paid_for_when_used():
    assert "cryptography" not in imported_by("import pt.identity")
    used = imported_by(
        "from pt.identity.keys import PrivateKey\n"
        "key = PrivateKey.generate(bytes(32))\n"
        "key.public.verify(b'', key.sign(b''))"
    )
    assert "cryptography.hazmat.primitives.asymmetric.ed25519" in used
    assert not {name for name in used if name.endswith((".rsa", ".ec"))}
