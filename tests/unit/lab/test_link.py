from __future__ import annotations

import random
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.lab import Host, Lan
from pt.lab.link import Link, LinkError, Pipe, Shape


def pipe(seed: int = 1, **shape: float) -> Pipe:
    return Pipe(Shape(**shape), random.Random(seed))


@pytest.mark.parametrize(
    ("shape", "offers", "expected"),
    [
        pytest.param({}, [(1500, 3.0)], [3.0], id="a-perfect-link-is-immediate"),
        pytest.param({"delay": 0.25}, [(1500, 1.0)], [1.25], id="delay"),
        pytest.param(
            {"rate": 8000, "queue": 10_000},
            [(500, 0.0), (500, 0.0), (500, 4.0)],
            [0.5, 1.0, 4.5],
            id="the-line-sends-one-packet-at-a-time-and-idles",
        ),
        pytest.param(
            {"rate": 8000, "queue": 1000},
            [(500, 0.0), (500, 0.0), (500, 0.0), (500, 0.5), (1, 0.5)],
            [0.5, 1.0, None, 1.5, None],
            id="a-full-queue-drops-until-the-line-drained",
        ),
        pytest.param(
            {"rate": 8000, "delay": 2.0, "queue": 1000},
            [(1000, 0.0), (1000, 1.0)],
            [3.0, 4.0],
            id="what-is-in-flight-is-not-in-the-queue",
        ),
        pytest.param({"loss": 1.0}, [(1500, 0.0)], [None], id="everything-lost"),
    ],
)
def test_arrivals(
    shape: dict[str, float], offers: list[tuple[int, float]], expected: list[float | None]
) -> None:
    line = pipe(**shape)
    assert [line.offer(size, now) for size, now in offers] == expected


def test_loss_has_the_asked_rate_and_repeats_with_the_seed() -> None:
    once = pipe(7, loss=0.05)
    fates = [once.offer(100, 0.0) for _ in range(20_000)]
    again = pipe(7, loss=0.05)
    other = pipe(8, loss=0.05)
    assert [again.offer(100, 0.0) for _ in range(20_000)] == fates
    assert [other.offer(100, 0.0) for _ in range(20_000)] != fates
    assert 0.045 < again.lost / 20_000 < 0.055
    assert again.packets + again.lost == 20_000


def test_a_lost_packet_still_took_its_time_on_the_line() -> None:
    line = pipe(rate=8000, loss=1.0, queue=10_000)
    assert line.offer(1000, 0.0) is None
    line.shape = Shape(rate=8000, queue=10_000)
    assert line.offer(1000, 0.0) == 2.0


def test_cut_loses_and_restoring_goes_on() -> None:
    line = pipe(delay=1.0)
    line.cut = True
    assert line.offer(10, 0.0) is None
    line.cut = False
    assert line.offer(10, 1.0) == 2.0
    assert line.stats() == {"packets": 1, "bytes": 10, "lost": 1, "overflowed": 0}


def test_overflow_is_counted_apart_from_loss() -> None:
    line = pipe(rate=8, queue=1)
    assert line.offer(2, 0.0) is None
    assert line.stats() == {"packets": 0, "bytes": 0, "lost": 0, "overflowed": 1}


@pytest.mark.parametrize(
    "bad",
    [{"rate": -1}, {"delay": -0.1}, {"jitter": -1}, {"loss": 1.5}, {"loss": -0.1}, {"queue": 0}],
    ids=str,
)
def test_impossible_shapes_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not a possible link"):
        Shape(**bad)


@given(
    st.lists(st.tuples(st.integers(20, 9000), st.floats(0, 0.01)), max_size=60),
    st.floats(0, 0.1),
    st.integers(9000, 60_000),
)
def test_order_rate_and_queue_bounds_hold(
    offers: list[tuple[int, float]], jitter: float, queue: int
) -> None:
    rate, delay = 10e6, 0.02
    line = pipe(rate=rate, delay=delay, jitter=jitter, queue=queue)
    now, last, carried = 0.0, 0.0, 0
    for size, gap in offers:
        now += gap
        due = line.offer(size, now)
        if due is None:
            continue
        carried += size
        assert due >= last, "arrivals are in order"
        assert due >= now + size * 8 / rate + delay - 1e-9
        assert due <= now + queue * 8 / rate + delay + jitter + 1e-9, "the queue bounds the wait"
        assert due >= carried * 8 / rate + delay - 1e-9, "never faster than the line"
        last = due


def bound(host: Host, ip: str) -> socket.socket:
    with host.inside():
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((ip, 7))
    return made


@pytest.mark.netns
def test_a_link_carries_delays_and_cuts_packets_of_two_hosts() -> None:
    with Lan(hosts=2, direct=True) as lan, Link(*lan.hosts, Shape(delay=0.05), seed=3) as link:
        with bound(lan.hosts[0], link.a_ip) as a, bound(lan.hosts[1], link.b_ip) as b:
            a.settimeout(10)
            b.settimeout(10)
            began = time.monotonic()
            a.sendto(b"there", (link.b_ip, 7))
            assert b.recvfrom(100) == (b"there", (link.a_ip, 7))
            b.sendto(b"back", (link.a_ip, 7))
            assert a.recvfrom(100) == (b"back", (link.b_ip, 7))
            assert time.monotonic() - began >= 0.1
            link.cut()
            a.sendto(b"swallowed", (link.b_ip, 7))
            while link.stats()["a_to_b"]["lost"] == 0:
                time.sleep(0.001)
            link.restore()
            link.shape(Shape(delay=0.0))
            a.sendto(b"again", (link.b_ip, 7))
            assert b.recvfrom(100)[0] == b"again"
            stats = link.stats()
        assert stats["a_to_b"] == {"packets": 2, "bytes": 66, "lost": 1, "overflowed": 0}
        assert stats["b_to_a"]["packets"] == 1
        link.close()
        with pytest.raises(LinkError, match="not open"):
            link.stats()


@pytest.mark.netns
def test_a_link_into_nowhere_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    with Lan(hosts=2, direct=True) as lan:
        broken = Link(*lan.hosts, Shape())
        broken._argv[-1] = "/nonexistent"
        with pytest.raises(LinkError, match="router"), broken:
            pass
    assert "/nonexistent" in capfd.readouterr().err
