"""How far calls have come, as few events."""

from __future__ import annotations

from pt.kad.lookup import Cost
from pt.kad.results import Progress
from pt.tunnel import events
from pt.tunnel.media.progress import ENDS, Meter


class Rig:
    def __init__(self) -> None:
        self.now = 100.0
        self.sockets = 3
        self.said: list[events.Progress] = []
        self.meter = Meter("amino", self.heard, lambda: self.sockets, lambda: self.now)

    def heard(self, event: events.Event) -> None:
        assert isinstance(event, events.Progress)
        self.said.append(event)

    def take(self, call: int, asked: int, *, at: float, **facts: object) -> None:
        self.now = 100.0 + at
        cost = Cost(requests=asked, replies=asked - 1, failures=1, sent=100, received=900)
        self.meter.take(Progress.of(call, b"key", cost, 50, **facts))


def test_one_a_second_and_one_at_the_end() -> None:
    rig = Rig()
    for step in range(35):
        rig.take(1, 2 + step, at=step / 10)
    assert [each.seconds for each in rig.said] == [1.0, 2.0, 3.0]
    assert [each.asked for each in rig.said] == [12, 22, 32]
    rig.sockets = 9
    rig.take(1, 40, at=3.5, done=True, cut=True)
    assert rig.said[-1] == events.Progress(
        medium="amino", calls=1, asked=40, answered=39, failed=1, stored=0, bytes=1000,
        sockets=9, seconds=3.5, done=True, cut=True,
    )  # fmt: skip


def test_a_short_call_is_told_once() -> None:
    rig = Rig()
    rig.take(1, 3, at=0)
    rig.take(1, 4, at=0.2, done=True, stored=4)
    assert [(each.asked, each.stored, each.done) for each in rig.said] == [(4, 4, True)]


def test_calls_at_the_same_time_are_told_together() -> None:
    rig = Rig()
    rig.take(1, 3, at=0)
    rig.take(2, 5, at=0.1)
    rig.take(1, 10, at=0.3, done=True)
    assert rig.said == []
    rig.take(2, 6, at=1.2)
    assert [(each.calls, each.asked, each.done) for each in rig.said] == [(2, 16, False)]
    rig.take(2, 8, at=1.4, done=True)
    last = rig.said[-1]
    assert (last.calls, last.asked, last.bytes, last.done) == (2, 18, 2000, True)
    rig.take(3, 2, at=5, done=True)
    assert (rig.said[-1].calls, rig.said[-1].asked, rig.said[-1].seconds) == (1, 2, 0)


def test_ends_without_end_are_few_and_none_is_lost() -> None:
    rig = Rig()
    for step in range(100):
        rig.take(step, 2, at=step / 10, done=True)
    assert ENDS < len(rig.said) <= ENDS + 10
    rig.take(1000, 2, at=20, done=True)
    assert sum(each.calls for each in rig.said) == 101
    assert sum(each.bytes for each in rig.said) == 101_000
