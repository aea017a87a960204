"""Multihashes: both functions, exact lengths, refusals."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.wire.multihash import MAX_IDENTITY, HashCode, Multihash, MultihashError


def test_sha256_layout():
    digest = hashlib.sha256(b"multihash").digest()
    assert Multihash.sha256(b"multihash").encode() == b"\x12\x20" + digest


def test_identity_layout():
    assert Multihash.identity(b"abc").encode() == b"\x00\x03abc"


@given(st.binary(max_size=MAX_IDENTITY))
def test_round_trip(data):
    for made in (Multihash.identity(data), Multihash.sha256(data)):
        assert Multihash.decode(made.encode()) == made


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x12",
        b"\x12\x20" + bytes(31),
        b"\x12\x20" + bytes(33),
        b"\x12\x1f" + bytes(31),  # a truncated SHA-256
        b"\x13\x40" + bytes(64),  # SHA-512
        b"\x00\x2b" + bytes(43),
        b"\x80\x00\x00",
        b"\xff" * 12,
    ],
)
def test_refused(raw):
    with pytest.raises(MultihashError):
        Multihash.decode(raw)


def test_values_are_checked_when_made():
    with pytest.raises(MultihashError):
        Multihash(HashCode.SHA2_256, b"short")
    with pytest.raises(MultihashError):
        Multihash.identity(bytes(MAX_IDENTITY + 1))


@given(st.binary(max_size=60))
def test_any_bytes_give_a_value_or_the_error(raw):
    try:
        made = Multihash.decode(raw)
    except MultihashError:
        return
    assert made.encode() == raw
