"""Base58 against the `base58` package, and its refusals."""

from __future__ import annotations

import base58 as oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import UsageError
from pt.wire import base58


@given(st.binary(max_size=80))
def test_agrees_with_the_oracle(data):
    text = base58.encode(data)
    assert text == oracle.b58encode(data).decode()
    assert base58.decode(text) == data


@given(st.integers(0, 8), st.binary(max_size=8))
def test_leading_zeros_survive(zeros, tail):
    data = bytes(zeros) + tail
    assert base58.decode(base58.encode(data)) == data


@given(st.text(alphabet=base58.ALPHABET, max_size=60))
def test_every_text_of_the_alphabet_is_canonical(text):
    assert base58.encode(base58.decode(text)) == text


@pytest.mark.parametrize("text", ["0", "O", "I", "l", "12D3 KooW", "é", "1\n"])
def test_foreign_characters(text):
    with pytest.raises(base58.Base58Error, match="is not a base58 character"):
        base58.decode(text)


def test_too_long_is_refused_before_any_work():
    assert len(base58.decode("1" * base58.MAX_TEXT)) == base58.MAX_TEXT
    with pytest.raises(UsageError, match="at most"):
        base58.decode("1" * (base58.MAX_TEXT + 1))
