"""Keys of the types we never make: canonical data, signatures of each accepted curve."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pt.errors import CryptoFailure
from pt.identity import foreign_keys
from pt.identity.keys import KeyFormatError, KeyType


@pytest.mark.parametrize("curve", [ec.SECP224R1, ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_nist_curves(curve):
    key = ec.generate_private_key(curve())
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert foreign_keys.canonical(KeyType.ECDSA, der) == der
    signature = key.sign(b"data", ec.ECDSA(SHA256()))
    foreign_keys.verify(KeyType.ECDSA, der, b"data", signature)
    with pytest.raises(CryptoFailure):
        foreign_keys.verify(KeyType.ECDSA, der, b"other", signature)


def test_a_brainpool_curve_is_refused():
    key = ec.generate_private_key(ec.BrainpoolP256R1()).public_key()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(KeyFormatError, match="NIST"):
        foreign_keys.canonical(KeyType.ECDSA, der)


def test_a_damaged_key_does_not_verify():
    with pytest.raises(KeyFormatError, match="SECP256K1"):
        foreign_keys.verify(KeyType.SECP256K1, bytes(33), b"", b"")
