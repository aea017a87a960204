from __future__ import annotations

from pt.quic.pmtu import RAISE_AFTER, SIZES, TRIES, PathMtu


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
    assert pmtu.probe(100.0 + RAISE_AFTER) == 1472


def test_a_new_path_is_searched_at_once() -> None:
    pmtu, _ = search(1472, 1472)
    pmtu.path_changed()
    assert pmtu.size == 1200
    assert pmtu.probe(5.0) == 1472
