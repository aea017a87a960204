from __future__ import annotations

import pytest

from pt.quic.pmtu import RAISE_AFTER, RETURN_AFTER, SIZES, TRIES, PathMtu, Survey


def search(ceiling: int, path: int) -> tuple[PathMtu, int]:
    """Probe until done; returns how many probes it took."""
    pmtu = PathMtu(ceiling)
    probes = 0
    while (size := pmtu.probe(0.0)) is not None:
        probes += 1
        assert pmtu.probe(0.0) is None, "one at a time"
        if size <= path:
            pmtu.acked(size, 0.0)
        else:
            pmtu.lost(size, 0.0)
    return pmtu, probes


def test_an_ethernet_takes_one_probe() -> None:
    pmtu, probes = search(1472, 1472)
    assert (pmtu.size, probes) == (1472, 1)
    assert pmtu.probe(1e6) is None


def test_each_size_is_tried_twice() -> None:
    pmtu, probes = search(1472, 1400)
    assert pmtu.size == 1392
    assert probes == 3 * TRIES + 1


def test_nothing_larger_passes() -> None:
    pmtu, probes = search(1472, 1200)
    assert (pmtu.size, probes) == (1200, TRIES * len(SIZES))
    assert pmtu.probe(RAISE_AFTER - 1) is None
    assert pmtu.probe(RAISE_AFTER) == 1472


def test_the_ceiling_is_not_passed() -> None:
    assert search(1452, 9000)[0].size == 1452
    assert search(1200, 9000) == (search(1200, 9000)[0], 0) or search(1200, 9000)[1] == 0


def test_one_lost_probe_does_not_decide() -> None:
    pmtu = PathMtu(1472)
    pmtu.probe(0)
    pmtu.lost(1472, 0)
    assert pmtu.probe(0) == 1472


def test_a_black_hole_means_the_base_and_another_try_later() -> None:
    pmtu, _ = search(1472, 1472)
    assert pmtu.black_hole(100.0)
    assert pmtu.size == 1200
    assert not pmtu.black_hole(100.0)
    assert pmtu.probe(100.0) is None
    assert pmtu.probe(100.0 + RETURN_AFTER) == 1472


def test_a_new_path_is_searched_at_once() -> None:
    pmtu, _ = search(1472, 1472)
    pmtu.path_changed()
    assert pmtu.size == 1200
    assert pmtu.probe(5.0) == 1472


# --- all sizes at once -----------------------------------------------------------------------


def survey(ceiling: int, path: int, *, doubt: bool = False) -> tuple[Survey, int]:
    """Run one to its end; the size found, and how many probes it took."""
    asked = Survey(ceiling, doubt=doubt)
    numbers = iter(range(1000))
    now, count = 0.0, 0
    while asked.result is None:
        probes = asked.probes(now, 0.1, lambda size: next(numbers).to_bytes(size, "big"))
        count += len(probes)
        for size, challenge in probes:
            if size <= path:
                asked.look(b"\x02\x00" + b"\x1b" + challenge, now, 0.01)
        now = asked.next_timeout() or now
    assert asked.next_timeout() is None
    assert asked.probes(now, 0.1, bytes) == []
    return asked, count


def test_a_survey_of_an_ethernet() -> None:
    asked, count = survey(1472, 1500)
    assert (asked.result, count) == (1472, len(SIZES))


def test_a_survey_does_not_wait_long_for_more_answers() -> None:
    asked, count = survey(1472, 1400)
    assert (asked.result, count) == (1392, len(SIZES))


def test_late_answers_within_the_grace_count() -> None:
    asked = Survey(1472)
    numbers = iter(range(100))
    probes = dict(asked.probes(0.0, 0.5, lambda size: next(numbers).to_bytes(size, "big")))
    asked.look(b"\x1b" + probes[1280], 0.1, 0.02)
    assert asked.next_timeout() == pytest.approx(0.12)
    asked.look(b"\x1b" + probes[1452], 0.11, 0.02)
    assert asked.result is None
    assert asked.probes(0.13, 0.5, bytes) == []
    assert asked.result == 1452


def test_a_survey_of_a_path_that_takes_nothing_large() -> None:
    asked, count = survey(1472, 1200)
    assert (asked.result, count) == (1200, 2 * len(SIZES))


def test_a_survey_below_its_ceiling() -> None:
    assert survey(1452, 9000)[0].result == 1452
    assert survey(1200, 9000)[0].result == 1200


def test_in_doubt_small_ones_are_asked_too() -> None:
    assert survey(1472, 1200, doubt=True)[0].result == 1200
    asked, count = survey(1472, 1400, doubt=True)
    assert (asked.result, count) == (1392, len(SIZES) + 1 + 3)
    assert survey(1472, 1500, doubt=True)[0].result == 1472
    assert survey(1472, 0, doubt=True)[0].result == 0
