"""The keyspace: SHA-256, XOR, common prefixes."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from pt.kad.keyspace import BITS, common_prefix, point

POINTS = st.integers(0, 2**BITS - 1)


def test_a_point_is_the_hash_of_the_bytes() -> None:
    assert point(b"abc") == int(hashlib.sha256(b"abc").hexdigest(), 16)


def test_common_prefix() -> None:
    top = 1 << (BITS - 1)
    assert common_prefix(0, top) == 0
    assert common_prefix(top, top) == BITS
    assert common_prefix(0, 1) == BITS - 1
    assert common_prefix(top, top | 1 << (BITS - 9)) == 8


@given(POINTS, POINTS)
def test_it_is_that_of_the_binary_texts(one: int, other: int) -> None:
    a, b = f"{one:0256b}", f"{other:0256b}"
    same = next((at for at in range(BITS) if a[at] != b[at]), BITS)
    assert common_prefix(one, other) == common_prefix(other, one) == same
