from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pt.quic.engine import Stats
from pt.quic.packets import put_varint
from pt.quic.qlog import METRICS_EVERY, PacketLog, frames


def v(*values: int) -> bytes:
    return b"".join(map(put_varint, values))


def test_frames_of_integers() -> None:
    payload = b"\x01" + b"\x04" + v(4, 7, 100) + b"\x11" + v(8, 300_000) + b"\x1e"
    assert frames(payload) == [
        {"frame_type": "ping"},
        {"frame_type": "reset_stream", "stream_id": 4, "error_code": 7, "final_size": 100},
        {"frame_type": "max_stream_data", "stream_id": 8, "maximum": 300_000},
        {"frame_type": "handshake_done"},
    ]


def test_acknowledgements() -> None:
    payload = b"\x02" + v(100, 50, 2, 9) + v(3, 4) + v(0, 0)
    # 87 to 90 and 81 are missing: gaps count from one less (RFC 9000, section 19.3.1).
    assert frames(payload) == [
        {"frame_type": "ack", "ack_delay": 0.4, "acked_ranges": [[80, 80], [82, 86], [91, 100]]}
    ]
    assert frames(b"\x03" + v(5, 0, 0, 5) + v(1, 2, 3) + b"\x01")[1] == {"frame_type": "ping"}


def test_streams_with_and_without_offset_and_length() -> None:
    payload = b"\x0f" + v(4, 1000, 3) + b"abc" + b"\x08" + v(8) + b"the rest"
    assert frames(payload) == [
        {"frame_type": "stream", "stream_id": 4, "offset": 1000, "length": 3, "fin": True},
        {"frame_type": "stream", "stream_id": 8, "offset": 0, "length": 8, "fin": False},
    ]


def test_others() -> None:
    cid = b"\x08ABCDEFGH" + bytes(16)
    payload = b"\x00\x00\x06" + v(0, 2) + b"hi" + b"\x18" + v(2, 1) + cid + b"\x1a" + b"challeng"
    payload += b"\x07" + v(3) + b"tok" + b"\x1d" + v(0x1006, 3) + b"bye" + b"\x1c" + v(10, 6, 0)
    assert [frame["frame_type"] for frame in frames(payload)] == [
        "padding",
        "crypto",
        "new_connection_id",
        "path_challenge",
        "new_token",
        "connection_close",
        "connection_close",
    ]
    assert frames(payload)[5]["error_space"] == "application"
    assert frames(payload)[5]["reason"] == "bye"


def test_what_is_cut_off_or_unknown_ends_the_list() -> None:
    assert frames(b"\x01\x11\x04") == [{"frame_type": "ping"}, {"frame_type": "unknown"}]
    assert frames(b"\x3f")[-1] == {"frame_type": "unknown"}


@given(st.binary(max_size=100))
def test_anything_can_be_shown(payload: bytes) -> None:
    frames(payload)


def stats(window: int, rtt: float | None = None) -> Stats:
    return Stats(rtt, window, 0, 1200, 0, 0, 0)


def test_metrics_come_when_they_change_and_not_too_often() -> None:
    seen: list[tuple[float, str, dict]] = []
    log = PacketLog(lambda now, name, data: seen.append((now, name, data)))
    log.metrics(1.0, stats(100))
    log.metrics(1.0 + METRICS_EVERY / 2, stats(200))
    log.metrics(1.0 + METRICS_EVERY, stats(100))
    log.metrics(1.0 + 2 * METRICS_EVERY, stats(200, 0.05))
    assert [(now, data) for now, _, data in seen] == [
        (1.0, {"cwnd": 100, "bytes_in_flight": 0}),
        (1.0 + 2 * METRICS_EVERY, {"cwnd": 200, "bytes_in_flight": 0, "smoothed_rtt": 50.0}),
    ]


def test_packets_that_cannot_be_opened_are_shown_all_the_same() -> None:
    seen: list[dict] = []
    log = PacketLog(lambda now, name, data: seen.append(data))
    short = b"\x40ABCDEFGH" + bytes(30)
    log.datagram(1.0, "packet_sent", short, lambda packet: None)
    log.datagram(1.0, "packet_sent", short, lambda packet: (7, b"\x01"))
    log.datagram(1.0, "packet_sent", b"junk", lambda packet: None)
    assert seen[0]["header"] == {"packet_type": "1RTT"}
    assert seen[1]["header"] == {"packet_type": "1RTT", "packet_number": 7}
    assert seen[1]["frames"] == [{"frame_type": "ping"}]
    log.datagram(1.0, "packet_received", short, lambda packet: None)
    assert seen[2]["trigger"] == "payload_decrypt_error"
    assert len(seen) == 3
