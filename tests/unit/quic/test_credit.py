from __future__ import annotations

import itertools

from pt.quic.credit import MAX_BACKOFF, Credit
from pt.quic.packets import put_varint, read_varint


def told(credit: Credit, room: int = 1000) -> dict[int, int]:
    """{stream: limit} of the frames that are due."""
    frames, found, at = credit.frames(room), {}, 0
    while at < len(frames):
        assert frames[at] == 0x11
        stream, at = read_varint(frames, at + 1)
        found[stream], at = read_varint(frames, at)
    return found


def test_a_limit_is_told_once() -> None:
    credit = Credit(1000)
    credit.tell(4, 1500, 700, 0.0, 0.1)
    assert told(credit) == {4: 1500}
    assert told(credit) == {}
    assert credit.next_timeout() is None


def test_only_the_newest_is_told() -> None:
    credit = Credit(1000)
    credit.tell(4, 1500, 700, 0.0, 0.1)
    credit.tell(4, 2000, 800, 0.0, 0.1)
    assert told(credit) == {4: 2000}


def test_what_does_not_fit_comes_later() -> None:
    credit = Credit(1000)
    for stream in range(0, 400, 4):
        credit.tell(stream, 1_000_000, 0, 0.0, 0.1)
    found: dict[int, int] = {}
    turns = 0
    while more := told(credit, 200):
        found |= more
        turns += 1
    assert len(found) == 100
    assert turns > 2
    assert len(put_varint(396) + put_varint(1_000_000)) + 1 == 7


def test_a_peer_that_has_used_up_the_old_limit_may_be_waiting() -> None:
    credit = Credit(1000)
    credit.tell(4, 1500, 1000, 5.0, 0.1)
    told(credit)
    assert credit.next_timeout() == 5.1
    credit.expire(5.05)
    assert told(credit) == {}
    credit.expire(5.1)
    assert told(credit) == {4: 1500}
    assert credit.next_timeout() == 5.1 + 0.2
    credit.received(4, 1001, 5.2, 0.1)
    assert credit.next_timeout() is None
    credit.expire(9.0)
    assert told(credit) == {}


def test_it_may_reach_the_old_limit_later() -> None:
    credit = Credit(1000)
    credit.tell(4, 1500, 900, 0.0, 0.1)
    told(credit)
    credit.received(4, 1000, 1.0, 0.1)
    assert credit.next_timeout() == 1.1


def test_limits_in_between_count_too() -> None:
    credit = Credit(1000)
    for limit in (1500, 2000, 2500):
        credit.tell(4, limit, 900, 0.0, 0.1)
    told(credit)
    credit.received(4, 1400, 1.0, 0.1)
    assert credit.next_timeout() is None
    credit.received(4, 2000, 1.0, 0.1)
    assert credit.next_timeout() == 1.1
    credit.expire(1.1)
    assert told(credit) == {4: 2500}
    credit.received(4, 2500, 1.2, 0.1)
    assert credit.next_timeout() is None, "it knows all there is"


def test_repetitions_become_rare() -> None:
    credit = Credit(1000)
    credit.tell(4, 1500, 1000, 0.0, 0.1)
    told(credit)
    now, times = 0.0, []
    for _ in range(10):
        now = credit.next_timeout() or 0.0
        times.append(now)
        credit.expire(now)
        assert told(credit) == {4: 1500}
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert max(gaps) <= MAX_BACKOFF + 0.001
    assert gaps[-1] > 4


def test_a_peer_that_says_it_waits_is_told_at_once() -> None:
    credit = Credit(1000)
    credit.blocked(4, 1000)
    assert told(credit) == {}
    credit.tell(4, 1500, 400, 0.0, 0.1)
    told(credit)
    credit.blocked(4, 1500)
    assert told(credit) == {}
    credit.blocked(4, 1000)
    assert told(credit) == {4: 1500}


def test_a_stream_that_is_over_is_forgotten() -> None:
    credit = Credit(1000)
    credit.tell(4, 1500, 1000, 0.0, 0.1)
    credit.close(4)
    credit.close(8)
    credit.received(4, 1000, 0.0, 0.1)
    assert told(credit) == {}
    assert credit.next_timeout() is None
