"""aioquic's streams and recovery, with hooks: who has something to do, was sent from, was lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, cast

from aioquic.quic.congestion.base import (
    QuicCongestionControlFactory,
    register_congestion_control,
)
from aioquic.quic.packet import QuicStreamFrame
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.recovery import QuicPacketPacer, QuicPacketRecovery, QuicPacketSpace
from aioquic.quic.stream import QuicStream, QuicStreamSender

from pt.quic.bbr import BURST_TIME, Bbr

__all__ = ["Pacer", "Recovery", "Sender", "Streams", "busy"]

MAX_BURST: Final = 128 * 1024
"""Bytes that go out at once at most, after a sleep."""


class Sender(QuicStreamSender):
    """Says when an acknowledgement or a loss gives its stream something to do."""

    wake: Callable[[], None]
    sent: Callable[[], None]

    def get_frame(self, max_size: int, max_offset: int | None = None) -> QuicStreamFrame | None:
        """See the library."""
        frame = super().get_frame(max_size, max_offset)
        if frame is not None:
            self.sent()
        return frame

    def on_data_delivery(
        self, delivery: QuicDeliveryState, start: int, stop: int, fin: bool
    ) -> None:
        """See the library."""
        super().on_data_delivery(delivery, start, stop, fin)
        if self.is_finished or delivery is not QuicDeliveryState.ACKED:
            self.wake()

    def on_reset_delivery(self, delivery: QuicDeliveryState) -> None:
        """See the library."""
        super().on_reset_delivery(delivery)
        self.wake()

    def reset(self, error_code: int) -> None:
        """See the library."""
        super().reset(error_code)
        self.wake()


register_congestion_control("bbr", cast(QuicCongestionControlFactory, Bbr))


class Pacer(QuicPacketPacer):
    """Takes the rate from a controller that has one, and knows of timers that are late."""

    def __init__(self, controller: object, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self._controller = controller if isinstance(controller, Bbr) else None

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """See the library."""
        rate = None if self._controller is None else self._controller.pacing_rate
        if rate is None:
            super().update_rate(congestion_window, smoothed_rtt)
        else:  # as if the window went out in one round trip
            super().update_rate(max(1, int(rate * smoothed_rtt)), smoothed_rtt)
        # What a sleep has missed may be made up for: timers are late by a millisecond and more.
        size = self._max_datagram_size
        assert self.packet_time is not None
        self.bucket_max = max(self.bucket_max, min(BURST_TIME, MAX_BURST / size * self.packet_time))


class Recovery(QuicPacketRecovery):
    """Counts losses."""

    lost = 0

    def use_our_pacer(self, max_datagram_size: int) -> None:
        """Put our pacer in place of the library's."""
        self._pacer = Pacer(self._cc, max_datagram_size=max_datagram_size)

    def application_limited(self) -> None:
        """There is nothing more to send."""
        controller: object = self._cc
        if isinstance(controller, Bbr):
            controller.application_limited()

    def _on_packets_lost(
        self,
        *,
        congestion_event: bool = True,
        now: float,
        packets: Iterable[QuicSentPacket],
        persistent_congestion: bool = False,
        space: QuicPacketSpace,
    ) -> None:
        lost = list(packets)
        if congestion_event:
            self.lost += len(lost)
        super()._on_packets_lost(
            congestion_event=congestion_event,
            now=now,
            packets=lost,
            persistent_congestion=persistent_congestion,
            space=space,
        )


class Streams(dict[int, QuicStream]):
    """All streams; iterating over `values` is over those whose window has moved.

    That is what aioquic's loop over them is for, and its only use of `values`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moved: dict[int, QuicStream] = {}
        self.over: list[int] = []

    def values(self) -> Iterator[QuicStream]:  # type: ignore[override]
        """Those in `moved`."""
        return iter(list(self.moved.values()))

    def pop(self, stream_id: int) -> QuicStream:  # type: ignore[override]
        """Remove a stream of which both directions are over."""
        self.moved.pop(stream_id, None)
        self.over.append(stream_id)
        return super().pop(stream_id)


def busy(stream: QuicStream) -> bool:
    """Whether the send loop has something to do for a stream."""
    return (
        not stream.sender.buffer_is_empty
        or stream.sender.reset_pending
        or stream.receiver.stop_pending
        or stream.is_finished
    )
