from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pt.quic.limits import Limits
from pt.quic.windows import Windows

LIMITS = Limits(stream_window=1000, max_stream_window=8000, connection_window=16_000)


def test_a_window_moves_when_half_of_it_is_consumed() -> None:
    windows = Windows(LIMITS)
    windows.open(0, 0.0)
    assert windows.received(0, 1000)
    assert windows.held == 1000
    assert windows.consumed(0, 499, 100.0, 0.1) is None
    assert windows.consumed(0, 1, 100.0, 0.1) == 1500
    assert windows.held == 500
    assert windows.freed == 500


def test_more_than_allowed_is_noticed() -> None:
    windows = Windows(LIMITS)
    windows.open(0, 0.0)
    assert windows.received(0, 999)
    assert windows.received(0, 1)
    assert not windows.received(0, 1)


def test_a_stream_that_is_not_consumed_gets_no_more() -> None:
    windows = Windows(LIMITS)
    windows.open(0, 0.0)
    windows.received(0, 1000)
    assert windows.streams[0].limit == 1000


def consume(windows: Windows, stream: int, now: float, rtt: float = 0.1) -> int:
    """Use the window up and consume it all; the new size."""
    window = windows.streams[stream]
    count = window.limit - window.received
    assert windows.received(stream, count)
    windows.consumed(stream, count, now, rtt)
    return window.size


def test_a_window_grows_while_it_is_used_up_fast() -> None:
    windows = Windows(LIMITS)
    windows.open(0, 0.0)
    sizes = [consume(windows, 0, 0.1 * turn) for turn in range(1, 7)]
    assert sizes == [2000, 4000, 8000, 8000, 8000, 8000]


def test_a_window_stays_while_it_is_used_slowly() -> None:
    windows = Windows(LIMITS)
    windows.open(0, 0.0)
    assert [consume(windows, 0, turn * 0.5) for turn in range(1, 5)] == [1000] * 4


def test_growth_is_shared() -> None:
    windows = Windows(LIMITS)
    for stream in (0, 4):
        windows.open(stream, 0.0)
        for turn in range(1, 6):
            consume(windows, stream, 0.1 * turn)
    grown = sum(windows.streams[stream].size - 1000 for stream in (0, 4))
    assert grown <= LIMITS.connection_window // 2
    windows.close(0)
    assert 0 not in windows.streams
    for turn in range(6, 9):
        consume(windows, 4, 0.1 * turn)
    assert windows.streams[4].size == 8000


def test_what_is_discarded_counts_as_consumed() -> None:
    windows = Windows(LIMITS)
    windows.open(0, 0.0)
    windows.received(0, 300)
    windows.discard(0)
    assert (windows.held, windows.freed) == (0, 300)
    windows.received(0, 400)
    assert (windows.held, windows.freed) == (0, 700)
    assert windows.moved(0, 100.0, 0.1) == 1700
    windows.discard(0)
    windows.discard(99)
    assert windows.moved(99, 100.0, 0.1) is None


def test_a_reset_frees_what_never_came() -> None:
    windows = Windows(LIMITS)
    windows.open(0, 0.0)
    windows.received(0, 300)
    windows.reset(0, 900)
    assert windows.freed == 600
    windows.consumed(0, 300, 1.0, 0.1)
    assert windows.freed == 900


def test_a_stream_that_is_over_is_kept_until_it_is_consumed() -> None:
    windows = Windows(LIMITS)
    windows.open(0, 0.0)
    windows.received(0, 300)
    windows.close(0)
    windows.drop_if_consumed(0)
    assert windows.held == 300
    windows.consumed(0, 1000, 1.0, None)  # more than there is: as much as there is
    windows.drop_if_consumed(0)
    assert windows.held == 0
    assert not windows.streams
    assert windows.consumed(0, 5, 1.0, None) is None


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from("rcdxo"), st.integers(0, 3000)), max_size=100
    )
)
def test_sums_are_kept(steps: list[tuple[int, str, int]]) -> None:
    windows = Windows(LIMITS)
    for stream in range(4):
        windows.open(stream, 0.0)
    now = 0.0
    for stream, what, count in steps:
        now += 0.05
        if stream not in windows.streams:
            continue
        window = windows.streams[stream]
        if what == "r":
            windows.received(stream, min(count, window.limit - window.received))
        elif what == "c":
            windows.consumed(stream, count, now, 0.1)
        elif what == "d":
            windows.discard(stream)
        else:
            windows.close(stream)
        assert windows.held == sum(each.held for each in windows.streams.values()) >= 0
        assert windows.held <= 4 * 1000 + LIMITS.connection_window // 2
