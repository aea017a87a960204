from __future__ import annotations

import heapq
from dataclasses import dataclass

import pytest

from pt.quic.bbr import MIN_PACKETS, Bbr
from pt.quic.engine_aioquic import AioquicEngine
from tests.contract.quic_world import Network, Port, World, joined

SIZE = 1200
RATE = 5e6  # bytes a second
DELAY = 0.05  # round trip


@dataclass
class Sent:
    packet_number: int
    sent_time: float
    sent_bytes: int = SIZE


class Path:
    """A bottleneck with an endless queue, and a sender that always has something."""

    def __init__(self, *, loss_every: int = 0) -> None:
        self.bbr = Bbr(max_datagram_size=SIZE)
        self.now = 0.0
        self.free_at = 0.0
        self.number = 0
        self.loss_every = loss_every
        self.flights: list[tuple[float, int, Sent]] = []
        self.next_send = 0.0
        self.acked = 0

    def run(self, seconds: float, *, idle: bool = False) -> float:
        """Bytes a second that arrived."""
        end, before = self.now + seconds, self.acked
        bbr = self.bbr
        while self.now < end:
            may = not idle and bbr.bytes_in_flight + SIZE <= bbr.congestion_window
            if may and self.next_send <= self.now:
                self.send()
                continue
            times = [end]
            if may:
                times.append(self.next_send)
            if self.flights:
                times.append(self.flights[0][0])
            self.now = min(times)
            while self.flights and self.flights[0][0] <= self.now:
                self.arrive(heapq.heappop(self.flights)[2])
        return (self.acked - before) * SIZE / seconds

    def send(self) -> None:
        packet = Sent(self.number, self.now)
        self.number += 1
        self.bbr.on_packet_sent(packet=packet)
        self.free_at = max(self.free_at, self.now) + SIZE / RATE
        heapq.heappush(self.flights, (self.free_at + DELAY, packet.packet_number, packet))
        rate = self.bbr.pacing_rate
        self.next_send = self.now + (SIZE / rate if rate else 0.0)

    def arrive(self, packet: Sent) -> None:
        if self.loss_every and packet.packet_number % self.loss_every == 0:
            self.bbr.on_packets_lost(now=self.now, packets=[packet])
            return
        self.acked += 1
        self.bbr.on_packet_acked(now=self.now, packet=packet)
        self.bbr.on_rtt_measurement(now=self.now, rtt=self.now - packet.sent_time)


def test_it_finds_the_rate_and_keeps_twice_the_product() -> None:
    path = Path()
    path.run(2)
    assert path.bbr.phase.value == "probe_bw"
    assert path.bbr.bandwidth == pytest.approx(RATE, rel=0.1)
    assert path.bbr.congestion_window == pytest.approx(2 * RATE * DELAY, rel=0.2)
    assert path.run(5) > 0.9 * RATE
    assert path.bbr.bytes_in_flight < 1.6 * RATE * DELAY, "the queue is short"


def test_loss_does_not_slow_it_down() -> None:
    path = Path(loss_every=50)
    path.run(2)
    assert path.run(5) > 0.85 * RATE


def test_it_looks_for_a_shorter_delay_every_ten_seconds() -> None:
    path = Path()
    path.run(3)
    seen = set()
    for _ in range(240):
        path.run(0.05)
        seen.add(path.bbr.phase.value)
        if path.bbr.phase.value == "probe_rtt":
            assert path.bbr.congestion_window <= MIN_PACKETS * SIZE
    assert seen == {"probe_bw", "probe_rtt"}
    assert path.run(3) > 0.85 * RATE


def test_a_pause_does_not_make_it_forget() -> None:
    path = Path()
    path.run(3)
    path.bbr.application_limited()
    path.run(1, idle=True)
    assert path.bbr.bandwidth == pytest.approx(RATE, rel=0.1)
    assert path.run(2) > 0.85 * RATE


def test_after_persistent_congestion_it_begins_small() -> None:
    path = Path()
    path.run(2)
    path.bbr.on_persistent_congestion()
    assert path.bbr.congestion_window == MIN_PACKETS * SIZE
    path.run(1)
    assert path.run(2) > 0.85 * RATE


def test_packets_that_expire_leave_nothing_behind() -> None:
    bbr = Bbr(max_datagram_size=SIZE)
    packets = [Sent(number, 0.0) for number in range(5)]
    for packet in packets:
        bbr.on_packet_sent(packet=packet)
    assert bbr.bytes_in_flight == 5 * SIZE
    bbr.on_packets_expired(packets=packets)
    assert bbr.bytes_in_flight == 0
    assert not bbr._sent
    assert bbr.pacing_rate is None
    assert bbr.get_log_data()["congestion_state"] == "startup"


def rate_of(world: World, congestion: str, size: int) -> float:
    """Bytes a second of a transfer of `size` bytes."""
    server = Port(world, "server", AioquicEngine, ("11.0.0.1", 1), congestion=congestion)
    client = Port(world, "client", AioquicEngine, ("11.0.0.2", 1), congestion=congestion)
    ours, theirs = joined(world, client, server)
    theirs.keep = False
    stream = ours.open()
    stream.send(bytes(size), fin=True)
    world.poke(client)
    took = world.run(60, lambda: stream.id in theirs.streams and theirs.streams[stream.id].fin)
    return size / took


@pytest.mark.parametrize(("congestion", "least", "most"), [("bbr", 2e6, 1e9), ("cubic", 0, 1e6)])
def test_on_a_lossy_path(congestion: str, least: float, most: float) -> None:
    """1 % loss, 50 ms: what makes the difference."""
    world = World(Network(delay=0.025, loss=0.01, rate=10e6))
    assert least < rate_of(world, congestion, 3_000_000) < most


@pytest.mark.parametrize(("congestion", "least"), [("bbr", 12e6), ("cubic", 25e6)])
def test_timers_that_are_late_do_not_slow_it_down(congestion: str, least: float) -> None:
    """On a cable a round trip is shorter than what a timer is late by."""
    assert rate_of(World(Network(delay=0.0001), grain=0.001), congestion, 6_000_000) > least
