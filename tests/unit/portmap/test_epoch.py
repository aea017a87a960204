import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.portmap.epoch import Epoch


@pytest.mark.parametrize(
    ("server", "fits"),
    [(1060, True), (1059, True), (1056, True), (1066, True), (0, False), (999, False),
     (998, False), (1030, False), (1100, False)],
)  # fmt: skip
def test_a_clock_that_jumps_is_a_reboot(server, fits):
    epoch = Epoch()
    assert epoch.seen(1000, 50.0)
    assert epoch.seen(server, 110.0) is fits


def test_one_second_back_is_rounding():
    epoch = Epoch()
    epoch.seen(1000, 50.0)
    assert epoch.seen(999, 50.0)
    assert not epoch.seen(997, 50.0)


def test_after_a_reboot_the_new_clock_counts():
    epoch = Epoch()
    epoch.seen(1000, 0.0)
    assert not epoch.seen(5, 60.0)
    assert epoch.seen(65, 120.0)


@given(st.lists(st.floats(0.1, 5000.0), max_size=30), st.integers(0, 10**6))
def test_a_clock_that_goes_right_never_looks_like_a_reboot(pauses, start):
    epoch, now = Epoch(), 0.0
    for pause in pauses:
        now += pause
        assert epoch.seen(start + int(now), now)
