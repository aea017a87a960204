from __future__ import annotations

import pytest

from pt.tunnel.loss import LossJudge

MBIT = 125_000


def judged(
    seconds: int, rate: float, loss: float, *, backlog: int = 1 << 20, rtt: float | None = 0.05
) -> bool:
    """Whether a path of `rate` bytes/s that loses so many packets is left within the time."""
    judge = LossJudge()
    sent = lost = 0.0
    for second in range(seconds + 1):
        if judge.feed(float(second), int(sent), int(lost), backlog, rtt):
            return True
        sent += rate
        lost += rate / 1400 * loss
    return False


@pytest.mark.parametrize(
    ("rate", "loss", "expected"),
    [
        (3 * MBIT, 0.01, True),
        (12 * MBIT, 0.001, True),
        (12 * MBIT, 0.0, False),
        (60 * MBIT, 0.0001, False),
        (200 * MBIT, 0.001, False),  # faster than the other would be
        (0.05 * MBIT, 0.05, True),
    ],
)
def test_a_slow_path_with_loss_is_left(rate: float, loss: float, expected: bool) -> None:
    assert judged(10, rate, loss) is expected


def test_not_at_once() -> None:
    assert not judged(2, 3 * MBIT, 0.01)
    assert judged(3, 3 * MBIT, 0.01)


def test_what_is_not_held_up_stays() -> None:
    assert not judged(20, 3 * MBIT, 0.01, backlog=0)
    assert not judged(20, 3 * MBIT, 0.01, rtt=0.002)
    assert not judged(20, 3 * MBIT, 0.01, rtt=None)


def test_a_pause_begins_anew() -> None:
    judge = LossJudge()
    told = [
        judge.feed(float(second), second * 10**6, second * 50, 0 if second == 3 else 10**6, 0.05)
        for second in range(7)
    ]
    assert told == [False] * 6 + [True]
