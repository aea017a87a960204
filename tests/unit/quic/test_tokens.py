from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pt.quic.tokens import LIFETIME, RetryTokens

TOKENS = RetryTokens(b"k" * 16)
HERE = ("11.0.0.2", 4001)
TOKEN = TOKENS.create(HERE, b"original", b"retry-id", 100.0, b"n" * 12)


def test_a_token_comes_back() -> None:
    assert TOKENS.check(TOKEN, HERE, b"retry-id", 100.5) == b"original"


def test_a_token_is_for_one_address_and_id_and_a_short_time() -> None:
    assert TOKENS.check(TOKEN, ("11.0.0.3", 4001), b"retry-id", 101) is None
    assert TOKENS.check(TOKEN, ("11.0.0.2", 4002), b"retry-id", 101) is None
    assert TOKENS.check(TOKEN, HERE, b"other-id", 101) is None
    assert TOKENS.check(TOKEN, HERE, b"retry-id", 100 + LIFETIME) == b"original"
    assert TOKENS.check(TOKEN, HERE, b"retry-id", 100.1 + LIFETIME) is None
    assert TOKENS.check(TOKEN, HERE, b"retry-id", 99) is None
    assert RetryTokens(b"j" * 16).check(TOKEN, HERE, b"retry-id", 101) is None


@given(st.integers(0, len(TOKEN) - 1), st.integers(1, 255))
def test_a_changed_token_is_none(at: int, change: int) -> None:
    forged = bytearray(TOKEN)
    forged[at] ^= change
    assert TOKENS.check(bytes(forged), HERE, b"retry-id", 101) is None


@given(st.binary(max_size=100))
def test_junk_is_none(junk: bytes) -> None:
    assert TOKENS.check(junk, HERE, b"retry-id", 101) is None
