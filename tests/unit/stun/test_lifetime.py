"""Which silences are tried; the measurement itself is in tests/sim/test_stun.py."""

from __future__ import annotations

from pt.stun.lifetime import CLIFFS, MAX_CLIFFS, Lifetime


def test_silences_are_in_order_and_bounded():
    assert list(CLIFFS) == sorted(set(CLIFFS))
    assert len(CLIFFS) <= MAX_CLIFFS


def test_they_tell_apart_what_nats_do():
    """RFC 4787's 2 and 5 minutes, Linux's 30 and 120 s, 60 s of carriers: one just below each."""
    for usual in (30, 60, 120, 300):
        assert any(usual - 3 <= each < usual for each in CLIFFS)


def test_nothing_is_known_at_first():
    assert Lifetime() == Lifetime(0.0, None, None, None)
