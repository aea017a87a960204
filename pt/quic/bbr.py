"""BBR congestion control: send at the rate at which the path delivers, whatever is lost.

Loss-based controllers take every lost packet for congestion: at 1 % loss and 50 ms they stay at a
few Mbit/s.  This one estimates the bottleneck's bandwidth (the largest delivery rate of ten round
trips) and the path's delay (the smallest round trip of ten seconds), and keeps about twice their
product in flight.  Source: draft-cardwell-iccrg-bbr-congestion-control-00 (version 1, as in Linux).

It has the interface that aioquic expects of a controller; a packet is whatever has `sent_time`,
`sent_bytes` and `packet_number`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum
from math import inf, isfinite
from typing import Final, NamedTuple, Protocol

__all__ = ["BURST_TIME", "Bbr", "Packet"]

HIGH_GAIN: Final = 2.885
"""2 / ln 2: doubles the rate each round trip."""
CYCLE: Final = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
"""Pacing gains of a steady flow, one a round trip: probe, drain, cruise."""
WINDOW_GAIN: Final = 2.0
BANDWIDTH_ROUNDS: Final = 10
DELAY_LIFETIME: Final = 10.0
PROBE_DELAY_TIME: Final = 0.2
BURST_TIME: Final = 0.002
"""Seconds' worth of bytes that may leave at once, and be acknowledged at once."""
MIN_PACKETS: Final = 4
INITIAL_PACKETS: Final = 10
_FULL_GROWTH: Final = 1.25
_FULL_ROUNDS: Final = 3


class Packet(Protocol):
    """What is needed of a sent packet."""

    packet_number: int
    sent_bytes: int
    sent_time: float | None


class _Sent(NamedTuple):
    """What was delivered when a packet was sent."""

    delivered: int
    delivered_at: float
    first_sent: float
    app_limited: bool


class _Phase(Enum):
    STARTUP = "startup"
    DRAIN = "drain"
    STEADY = "probe_bw"
    PROBE_DELAY = "probe_rtt"


class Bbr:
    """One path's controller."""

    ssthresh = None

    def __init__(self, *, max_datagram_size: int) -> None:
        self._max_datagram_size = max_datagram_size
        self.bytes_in_flight = 0
        self.congestion_window = INITIAL_PACKETS * max_datagram_size
        self.phase = _Phase.STARTUP
        self._pacing_gain = self._window_gain = HIGH_GAIN
        self._sent: dict[int, _Sent] = {}
        self._delivered = 0
        self._delivered_at = 0.0
        self._first_sent = 0.0
        self._app_limited_until = 0
        self._round = 0
        self._round_ends = 0
        self._rates: deque[tuple[int, float]] = deque()  # (round, bytes a second), falling
        self._delay = inf
        self._delay_at = 0.0
        self._full_rate = 0.0
        self._full_count = 0
        self._cycle = 2
        self._cycle_at = 0.0
        self._probe_until: float | None = None
        self._window_before = 0

    # --- figures -------------------------------------------------------------------------------

    @property
    def bandwidth(self) -> float:
        """Bytes a second that the path delivers, as far as known."""
        return self._rates[0][1] if self._rates else 0.0

    @property
    def pacing_rate(self) -> float | None:
        """Bytes a second to send at; None: not known yet."""
        rate = self.bandwidth
        return rate * self._pacing_gain if rate else None

    def _product(self) -> float:
        """What the path holds, bytes."""
        return self.bandwidth * self._delay if self._rates and isfinite(self._delay) else 0.0

    def get_log_data(self) -> dict[str, object]:
        """For qlog."""
        return {
            "cwnd": self.congestion_window,
            "bytes_in_flight": self.bytes_in_flight,
            "congestion_state": self.phase.value,
            "pacing_rate": round(8 * (self.pacing_rate or 0.0)),
        }

    # --- what happens --------------------------------------------------------------------------

    def application_limited(self) -> None:
        """There is nothing more to send: rates from now on say little about the path."""
        self._app_limited_until = self._delivered + self.bytes_in_flight

    def on_packet_sent(self, *, packet: Packet) -> None:
        """A packet goes out."""
        now = packet.sent_time or 0.0
        if not self.bytes_in_flight:
            self._first_sent = self._delivered_at = now
        self._sent[packet.packet_number] = _Sent(
            self._delivered,
            self._delivered_at,
            self._first_sent,
            self._delivered < self._app_limited_until,
        )
        self.bytes_in_flight += packet.sent_bytes

    def on_packet_acked(self, *, now: float, packet: Packet) -> None:
        """A packet arrived."""
        self.bytes_in_flight -= packet.sent_bytes
        self._delivered += packet.sent_bytes
        self._delivered_at = now
        sent = self._sent.pop(packet.packet_number, None)
        if sent is None or packet.sent_time is None:
            return
        self._first_sent = packet.sent_time
        new_round = sent.delivered >= self._round_ends
        if new_round:
            self._round_ends = self._delivered
            self._round += 1
        interval = max(packet.sent_time - sent.first_sent, now - sent.delivered_at)
        if interval > 0:
            rate = (self._delivered - sent.delivered) / interval
            if not sent.app_limited or rate >= self.bandwidth:
                self._note_rate(rate)
        if new_round and not sent.app_limited:
            self._look_whether_full()
        self._advance(now)
        self._set_window(packet.sent_bytes)

    def on_packets_expired(self, *, packets: Iterable[Packet]) -> None:
        """Packets are not waited for any more."""
        for packet in packets:
            self.bytes_in_flight -= packet.sent_bytes
            self._sent.pop(packet.packet_number, None)

    def on_packets_lost(self, *, now: float, packets: Iterable[Packet]) -> None:
        """Packets are lost: their bytes are sent again, at the same rate."""
        self.on_packets_expired(packets=packets)

    def on_persistent_congestion(self) -> None:
        """Nothing arrived for long: begin small, and learn again."""
        self.congestion_window = MIN_PACKETS * self._max_datagram_size

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        """A round trip was measured."""
        expired = now - self._delay_at > DELAY_LIFETIME
        if rtt <= self._delay or expired:
            self._delay = rtt
            self._delay_at = now
        if expired and self.phase is not _Phase.PROBE_DELAY:
            self.phase = _Phase.PROBE_DELAY
            self._pacing_gain = self._window_gain = 1.0
            self._window_before = self.congestion_window
            self._probe_until = None

    # --- the model -----------------------------------------------------------------------------

    def _note_rate(self, rate: float) -> None:
        rates = self._rates
        while rates and rates[-1][1] <= rate:
            rates.pop()
        rates.append((self._round, rate))
        while rates[0][0] < self._round - BANDWIDTH_ROUNDS:
            rates.popleft()

    def _look_whether_full(self) -> None:
        """The pipe is full when the rate has not grown by a quarter in three rounds."""
        if self.bandwidth >= self._full_rate * _FULL_GROWTH:
            self._full_rate, self._full_count = self.bandwidth, 0
        else:
            self._full_count += 1

    @property
    def _is_full(self) -> bool:
        return self._full_count >= _FULL_ROUNDS

    def _advance(self, now: float) -> None:
        if self.phase is _Phase.STARTUP and self._is_full:
            self.phase = _Phase.DRAIN
            self._pacing_gain, self._window_gain = 1 / HIGH_GAIN, HIGH_GAIN
        if self.phase is _Phase.DRAIN and self.bytes_in_flight <= self._product():
            self._be_steady(now)
        if self.phase is _Phase.STEADY:
            self._turn_cycle(now)
        if self.phase is _Phase.PROBE_DELAY:
            self._probe_delay(now)

    def _be_steady(self, now: float) -> None:
        self.phase = _Phase.STEADY
        self._window_gain = WINDOW_GAIN
        self._cycle, self._cycle_at = 2, now
        self._pacing_gain = CYCLE[self._cycle]

    def _turn_cycle(self, now: float) -> None:
        over = now - self._cycle_at > self._delay
        if self._pacing_gain > 1:
            # Until it has had its effect.
            over = over and self.bytes_in_flight >= self._pacing_gain * self._product()
            over = over or now - self._cycle_at > 2 * self._delay
        elif self._pacing_gain < 1:
            over = over or self.bytes_in_flight <= self._product()
        if over:
            self._cycle = (self._cycle + 1) % len(CYCLE)
            self._cycle_at = now
            self._pacing_gain = CYCLE[self._cycle]

    def _probe_delay(self, now: float) -> None:
        few = MIN_PACKETS * self._max_datagram_size
        if self._probe_until is None:
            if self.bytes_in_flight <= few:
                self._probe_until = now + max(PROBE_DELAY_TIME, self._delay)
        elif now > self._probe_until:
            self._delay_at = now
            self.congestion_window = max(self.congestion_window, self._window_before)
            if self._is_full:
                self._be_steady(now)
            else:
                self.phase = _Phase.STARTUP
                self._pacing_gain = self._window_gain = HIGH_GAIN

    def _set_window(self, acked: int) -> None:
        few = MIN_PACKETS * self._max_datagram_size
        # Three bursts: one being built, one on its way, one being acknowledged.
        burst = max(self._max_datagram_size, int(self.bandwidth * BURST_TIME))
        target = int(self._window_gain * self._product()) + 3 * burst
        if self._is_full:
            self.congestion_window = min(self.congestion_window + acked, target)
        elif (
            self.congestion_window < target
            or self._delivered < INITIAL_PACKETS * self._max_datagram_size
        ):
            self.congestion_window += acked
        self.congestion_window = max(self.congestion_window, few)
        if self.phase is _Phase.PROBE_DELAY:
            self.congestion_window = min(self.congestion_window, few)
