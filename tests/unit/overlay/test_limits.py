"""Rates, tokens, and values in parts."""

from __future__ import annotations

import itertools

import pytest

from pt.overlay.limits import (
    MAX_PARTS,
    MAX_SOURCES,
    PARTS_EACH,
    PARTS_LIFE,
    TOKEN_LIFE,
    Parts,
    Rates,
    Tokens,
)
from pt.overlay.messages import MAX_VALUE, PART

HERE, THERE = ("10.0.0.1", 5), ("10.0.0.1", 6)
KEY = b"k" * 32


def tokens() -> Tokens:
    numbers = itertools.count()
    return Tokens(lambda length: next(numbers).to_bytes(length, "big"))


def test_a_source_has_a_burst_and_a_rate():
    rates = Rates(2, 4)
    assert [rates.take("a", 0.0) for _ in range(5)] == [True] * 4 + [False]
    assert rates.take("b", 0.0)
    assert [rates.take("a", 1.0) for _ in range(3)] == [True, True, False]
    for number in range(2 * MAX_SOURCES):
        rates.take(str(number), 1.0)
    assert len(rates) == MAX_SOURCES


def test_a_token_is_good_for_its_address_and_for_a_while():
    makes = tokens()
    token = makes.make(HERE, 0.0)
    assert makes.valid(token, HERE, 1.0)
    assert not makes.valid(token, THERE, 1.0)
    assert not makes.valid(b"", HERE, 1.0)
    assert makes.valid(token, HERE, TOKEN_LIFE + 1)
    assert not makes.valid(token, HERE, 2 * TOKEN_LIFE + 2)
    late = tokens()
    token = late.make(HERE, 0.0)
    assert not late.valid(token, HERE, 3 * TOKEN_LIFE)


def take(parts: Parts, value: bytes, now: float = 0.0, addr=HERE) -> bytes | None:
    got = None
    for at in range(0, len(value), PART):
        got = parts.take(addr, KEY, len(value), at, value[at : at + PART], source="a", now=now)
    return got


def test_parts_become_the_value():
    parts = Parts()
    for size in (1, PART, PART + 1, MAX_VALUE):
        value = bytes(i % 251 for i in range(size))
        assert take(parts, value) == value
    assert len(parts) == 0


def test_a_part_sent_again_does_no_harm():
    parts, value = Parts(), bytes(range(256)) * 8
    for at in (0, 0, PART):
        got = parts.take(HERE, KEY, 2048, at, value[at : at + PART], source="a", now=0.0)
    assert got == value
    parts.take(HERE, KEY, 3000, 0, value[:PART], source="a", now=0.0)
    parts.take(HERE, KEY, 3000, PART, value[PART:], source="a", now=0.0)
    assert parts.take(HERE, KEY, 3000, PART, value[PART:], source="a", now=0.0) is None
    assert (
        len(parts.take(HERE, KEY, 3000, 2 * PART, bytes(3000 - 2 * PART), source="a", now=0.0))
        == 3000
    )


@pytest.mark.parametrize(
    ("size", "offset", "part"),
    [(0, 0, b""), (5, 0, b""), (MAX_VALUE + 1, 0, b"x"), (4, 2, b"abc"), (3000, 5, b"x")],
)
def test_parts_that_do_not_fit_are_refused(size, offset, part):
    with pytest.raises(ValueError):
        Parts().take(HERE, KEY, size, offset, part, source="a", now=0.0)


def test_parts_are_bounded_in_number_and_time():
    parts = Parts()
    parts.take(HERE, KEY, 2000, 0, bytes(PART), source="a", now=0.0)
    with pytest.raises(ValueError):
        parts.take(THERE, KEY, 2000, PART, bytes(2000 - PART), source="a", now=1.0)
    with pytest.raises(ValueError):
        parts.take(HERE, KEY, 2000, PART, bytes(2000 - PART), source="a", now=PARTS_LIFE + 1)
    for number in range(2 * MAX_PARTS):
        begin(parts, str(number), number)
    assert len(parts) == MAX_PARTS
    begin(parts, "late", 1, now=PARTS_LIFE + 2)
    assert len(parts) == 1


def begin(parts: Parts, source: str, number: int, now: float = 1.0) -> None:
    """The first part of a value."""
    where = (f"10.{number >> 8}.{number & 255}.1", 5)
    assert parts.take(where, KEY, 2000, 0, bytes(PART), source=source, now=now) is None


def test_one_source_does_not_displace_the_parts_of_others():
    parts = Parts()
    begin(parts, "victim", 0)
    for number in range(1, 2 * MAX_PARTS):
        begin(parts, "flood", number)
    assert len(parts) == PARTS_EACH + 1
    rest = bytes(2000 - PART)
    assert parts.take(("10.0.0.1", 5), KEY, 2000, PART, rest, source="victim", now=2.0)
