from __future__ import annotations

import itertools

from pt.quic.fins import PATIENCE, TRIES, Fins

FRAME = b"\x0f\x04\x40\x64\x00"  # STREAM 4, offset 100, no bytes, FIN


def test_a_fin_goes_at_once_and_again() -> None:
    fins = Fins()
    fins.add(4, 100)
    assert fins.held() == [4]
    assert not fins.due
    fins.tell(4, 10.0, 0.1)
    assert fins.due
    assert fins.frames(1000) == FRAME
    assert not fins.due
    fins.tell(4, 10.0, 0.1)
    assert not fins.due
    assert fins.next_timeout() == 10.1
    fins.expire(10.0)
    assert not fins.due
    fins.expire(10.1)
    assert fins.frames(1000) == FRAME


def test_patience_ends() -> None:
    fins = Fins()
    fins.add(4, 100)
    fins.tell(4, 0.0, 1.0)
    for now in range(1, PATIENCE):
        assert fins.patient(4)
        fins.expire(now)
    assert not fins.patient(4)
    fins.given(4)
    assert fins.held() == []


def test_repetitions_become_rare_and_end() -> None:
    fins = Fins()
    fins.add(4, 100)
    fins.tell(4, 0.0, 1.0)
    fins.given(4)
    times = []
    while (at := fins.next_timeout()) is not None:
        times.append(at)
        fins.expire(at)
    assert len(times) == TRIES
    assert [b - a for a, b in itertools.pairwise(times)] == [2.0 * 2**n for n in range(TRIES - 1)]


def test_a_stream_that_is_over_is_forgotten() -> None:
    fins = Fins()
    fins.add(4, 100)
    fins.tell(4, 0.0, 1.0)
    fins.close(4)
    assert fins.held() == []
    assert not fins.due
    assert fins.next_timeout() is None
    fins.close(4)


def test_what_does_not_fit_comes_later() -> None:
    fins = Fins()
    for stream in (4, 8):
        fins.add(stream, 100)
        fins.tell(stream, 0.0, 1.0)
    assert fins.frames(len(FRAME)) == FRAME
    assert fins.frames(len(FRAME) - 1) == b""
    assert fins.frames(1000) == b"\x0f\x08\x40\x64\x00"
