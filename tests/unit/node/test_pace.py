from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pt.node.pace import BURST, FRAME, RESERVE, SPREAD, Pace

KIB = 1024


def moved(pace: Pace, seconds: float, frame: int = FRAME) -> int:
    """Bytes that bulk gets through within `seconds` on a virtual clock."""
    now, total = 0.0, 0
    while now <= seconds:
        if pace.allows(now):
            pace.spend(frame, now)
            total += frame
            continue
        pause = pace.ready_in(now)
        if pause is None:
            break
        now += max(pause, 1e-4)
    return total


def test_a_short_message_passes_at_once():
    pace = Pace(128 * KIB, 0.0)
    for _ in range(BURST // FRAME):
        assert pace.allows(0.0)
        pace.spend(FRAME, 0.0)
    assert not pace.allows(0.0)


def test_bulk_is_spread_over_seconds():
    pace = Pace(128 * KIB, 0.0)
    assert 7 * KIB < pace.rate < 8 * KIB
    assert moved(Pace(128 * KIB, 0.0), SPREAD / 2) < 80 * KIB
    assert moved(Pace(128 * KIB, 0.0), 3600.0) >= (128 - 16) * KIB - FRAME


def test_a_reserve_is_left_for_what_cannot_wait():
    pace = Pace(128 * KIB, 0.0)
    moved(pace, 3600.0)
    assert RESERVE - FRAME <= pace.left <= RESERVE
    assert pace.ready_in(1e9) is None
    pace.spend(100, 4000.0)  # an acknowledgement goes all the same
    assert pace.left < RESERVE


def test_what_is_received_counts_as_some_relays_do():
    pace = Pace(128 * KIB, 0.0)
    pace.received(112 * KIB - 1)
    assert pace.allows(0.0)
    pace.received(1)
    assert not pace.allows(0.0)
    assert pace.ready_in(0.0) is None


def test_rest_refills_the_burst_and_no_more():
    pace = Pace(128 * KIB, 0.0)
    pace.spend(BURST, 0.0)
    assert not pace.allows(0.0)
    pause = pace.ready_in(0.0)
    assert pause is not None
    assert pace.allows(pause + 1e-3)
    pace.spend(0, 1000.0)
    pace.spend(BURST, 1000.0)
    assert not pace.allows(1000.0)


@settings(deadline=None)  # one-byte frames are many
@given(st.integers(0, 1 << 20), st.integers(1, 4 * KIB), st.floats(0.1, 100.0))
def test_the_limit_is_never_passed_by_what_asks(data, frame, seconds):
    pace = Pace(data, 0.0)
    total = moved(pace, seconds, frame)
    assert total <= max(0, data - min(RESERVE, data // 4)) + frame
