from __future__ import annotations

from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.stream import QuicStream

from pt.quic.aioquic_streams import Sender, Streams, busy

ACKED, LOST = QuicDeliveryState.ACKED, QuicDeliveryState.LOST


def stream() -> tuple[QuicStream, list[str]]:
    made = QuicStream(stream_id=4, max_stream_data_local=100)
    woken: list[str] = []
    sender = Sender(stream_id=4, writable=True)
    sender.wake = lambda: woken.append("woken")
    sender.sent = lambda: None
    made.sender = sender
    return made, woken


def test_a_sender_wakes_its_stream_when_there_is_something_to_do() -> None:
    made, woken = stream()
    made.sender.write(b"hello")
    frame = made.sender.get_frame(100, 100)
    assert frame is not None
    made.sender.on_data_delivery(ACKED, 0, 5, False)
    assert woken == []
    made.sender.write(b"more", end_stream=True)
    made.sender.get_frame(100, 100)
    made.sender.on_data_delivery(LOST, 5, 9, True)
    assert woken == ["woken"]
    made.sender.get_frame(100, 100)
    made.sender.on_data_delivery(ACKED, 5, 9, True)
    assert woken == ["woken"] * 2
    assert made.sender.is_finished


def test_a_sender_says_when_it_was_sent_from() -> None:
    made, _ = stream()
    sent: list[int] = []
    sender = made.sender
    assert isinstance(sender, Sender)
    sender.sent = lambda: sent.append(4)
    assert sender.get_frame(100, 100) is None
    sender.write(b"hello")
    assert sender.get_frame(100, 0) is None  # the peer's window is shut
    assert sent == []
    assert sender.get_frame(3, 100) is not None
    assert sender.get_frame(3, 100) is not None
    assert sent == [4, 4]


def test_a_reset_wakes_too() -> None:
    made, woken = stream()
    made.sender.reset(7)
    made.sender.get_reset_frame()
    made.sender.on_reset_delivery(LOST)
    made.sender.on_reset_delivery(ACKED)
    assert woken == ["woken"] * 3


def test_what_is_busy() -> None:
    made, _ = stream()
    assert not busy(made)
    made.sender.write(b"x")
    assert busy(made)
    made.sender.get_frame(100, 100)
    assert made.sender.get_frame(100, 100) is None
    assert not busy(made)
    made.receiver.stop(1)
    assert busy(made)
    made.receiver.get_stop_frame()
    made.sender.reset(1)
    assert busy(made)
    made.sender.get_reset_frame()
    assert not busy(made)


def test_streams_are_iterated_only_when_their_window_moved() -> None:
    streams = Streams()
    made, _ = stream()
    streams[4] = made
    assert list(streams.values()) == []
    streams.moved[4] = made
    assert list(streams.values()) == [made]
    assert streams.pop(4) is made
    assert list(streams.values()) == []
    assert streams.over == [4]
