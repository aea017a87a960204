"""Small signed records, as the overlay sees sealed ones: the key is a hash of the signer's."""

from __future__ import annotations

import hashlib

from pt.errors import RemoteProtocolError
from pt.identity.keys import KeyType, PrivateKey, PublicKey
from pt.overlay.storage import Facts

HEAD = 32 + 64 + 8 + 8


def signer(number: int) -> PrivateKey:
    return PrivateKey(number.to_bytes(32, "big"))


def key_of(key: PrivateKey) -> bytes:
    return hashlib.sha256(key.public.data).digest()


def record(key: PrivateKey, seq: int = 1, expires: int = 10_000_000, size: int = 500) -> bytes:
    body = seq.to_bytes(8, "big") + expires.to_bytes(8, "big") + bytes(max(0, size - HEAD))
    return key.public.data + key.sign(body) + body


def validate(key: bytes, value: bytes, now: float) -> Facts:
    if len(value) < HEAD or hashlib.sha256(value[:32]).digest() != key:
        raise RemoteProtocolError("another key's")
    PublicKey(KeyType.ED25519, value[:32]).verify(value[96:], value[32:96])
    return Facts(int.from_bytes(value[96:104], "big"), int.from_bytes(value[104:112], "big"))
