from __future__ import annotations

from pt.tunnel.gate import Attempts


def tried(attempts: Attempts, source: str, now: float) -> bool:
    """One attempt that fails, if it may begin."""
    if not attempts.begin(source, now):
        return False
    attempts.end(source)
    attempts.failed(source, now)
    return True


def test_the_door_closes_for_a_while() -> None:
    attempts = Attempts(limit=3, window=60.0)
    assert [tried(attempts, "a", now) for now in (0, 10, 20, 30)] == [True, True, True, False]
    assert tried(attempts, "b", 30)
    assert not attempts.begin("a", 59.9)
    assert attempts.begin("a", 60.0)


def test_attempts_under_way_count() -> None:
    attempts = Attempts(limit=3)
    assert [attempts.begin("a", 0) for _ in range(4)] == [True, True, True, False]
    attempts.end("a")
    assert attempts.begin("a", 0)


def test_those_that_succeed_do_not_count() -> None:
    attempts = Attempts(limit=1)
    for now in range(100):
        assert attempts.begin("a", now)
        attempts.end("a")
    assert not attempts._running


def test_memory_is_bounded() -> None:
    attempts = Attempts(limit=2)
    for number in range(3000):
        tried(attempts, str(number), 0)
    assert len(attempts._failures) == attempts.MAX_SOURCES
    for now in range(1000):
        attempts.failed("x", now / 1000)
    assert len(attempts._failures["x"]) <= 3
