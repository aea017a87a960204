"""qlog events of packets for an engine whose core tells nothing about them.

Packets are opened once more with our copies of the keys, so it is for traces only.  The names are
those of qlog 0.3's QUIC events, as qvis reads them.  Frames: RFC 9000 section 19.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pt.quic.engine import Stats, Trace
from pt.quic.packets import Kind, first_packets, parse_header, read_varint

__all__ = ["PacketLog", "frames"]

METRICS_EVERY: Final = 0.02
"""Seconds between metrics: cwnd and round trip change with every packet."""

_TYPES: Final = {
    Kind.INITIAL: "initial",
    Kind.ZERO_RTT: "0RTT",
    Kind.HANDSHAKE: "handshake",
    Kind.RETRY: "retry",
    Kind.SHORT: "1RTT",
    Kind.VERSION_NEGOTIATION: "version_negotiation",
}

# Frames that are integers only: name, and the names of these.
_PLAIN: Final[dict[int, tuple[str, tuple[str, ...]]]] = {
    0x01: ("ping", ()),
    0x04: ("reset_stream", ("stream_id", "error_code", "final_size")),
    0x05: ("stop_sending", ("stream_id", "error_code")),
    0x10: ("max_data", ("maximum",)),
    0x11: ("max_stream_data", ("stream_id", "maximum")),
    0x12: ("max_streams", ("maximum",)),
    0x13: ("max_streams", ("maximum",)),
    0x14: ("data_blocked", ("limit",)),
    0x15: ("stream_data_blocked", ("stream_id", "limit")),
    0x16: ("streams_blocked", ("limit",)),
    0x17: ("streams_blocked", ("limit",)),
    0x19: ("retire_connection_id", ("sequence_number",)),
    0x1E: ("handshake_done", ()),
}


def frames(payload: bytes) -> list[dict[str, object]]:
    """The frames of a packet as qlog has them; what cannot be read ends the list."""
    found: list[dict[str, object]] = []
    at = 0
    try:
        while at < len(payload):
            frame, at = _frame(payload, at)
            found.append(frame)
    except IndexError:
        found.append({"frame_type": "unknown"})
    return found


def _frame(payload: bytes, at: int) -> tuple[dict[str, object], int]:
    kind, at = read_varint(payload, at)
    if kind == 0:
        end = at
        while end < len(payload) and not payload[end]:
            end += 1
        return {"frame_type": "padding"}, end
    if kind in _PLAIN:
        name, fields = _PLAIN[kind]
        values, at = _integers(payload, at, len(fields))
        return {"frame_type": name, **dict(zip(fields, values, strict=True))}, at
    if kind in {0x02, 0x03}:
        return _ack(payload, at, ecn=kind == 0x03)
    if 0x08 <= kind <= 0x0F:
        return _stream(payload, at, kind)
    if kind == 0x06:
        (offset, length), at = _integers(payload, at, 2)
        return {"frame_type": "crypto", "offset": offset, "length": length}, at + length
    if kind == 0x07:
        (length,), at = _integers(payload, at, 1)
        return {"frame_type": "new_token"}, at + length
    if kind == 0x18:
        (sequence, retire), at = _integers(payload, at, 2)
        end = at + 1 + payload[at]
        cid = payload[at + 1 : end].hex()
        facts = {"sequence_number": sequence, "retire_prior_to": retire, "connection_id": cid}
        return {"frame_type": "new_connection_id", **facts}, end + 16
    if kind in {0x1A, 0x1B}:
        name = "path_challenge" if kind == 0x1A else "path_response"
        return {"frame_type": name, "data": payload[at : at + 8].hex()}, at + 8
    if kind in {0x1C, 0x1D}:
        return _close(payload, at, application=kind == 0x1D)
    raise IndexError(f"frame type {kind}")


def _integers(payload: bytes, at: int, count: int) -> tuple[list[int], int]:
    values = []
    for _ in range(count):
        value, at = read_varint(payload, at)
        values.append(value)
    return values, at


def _ack(payload: bytes, at: int, *, ecn: bool) -> tuple[dict[str, object], int]:
    (largest, delay, count, first), at = _integers(payload, at, 4)
    ranges = [[largest - first, largest]]
    for _ in range(count):
        (gap, length), at = _integers(payload, at, 2)
        top = ranges[-1][0] - gap - 2
        ranges.append([top - length, top])
    if ecn:
        _, at = _integers(payload, at, 3)
    facts = {"ack_delay": delay * 8 / 1000, "acked_ranges": ranges[::-1]}
    return {"frame_type": "ack", **facts}, at


def _stream(payload: bytes, at: int, kind: int) -> tuple[dict[str, object], int]:
    (stream,), at = _integers(payload, at, 1)
    offset = 0
    if kind & 4:
        offset, at = read_varint(payload, at)
    length = len(payload) - at
    if kind & 2:
        length, at = read_varint(payload, at)
    facts = {"stream_id": stream, "offset": offset, "length": length, "fin": bool(kind & 1)}
    return {"frame_type": "stream", **facts}, at + length


def _close(payload: bytes, at: int, *, application: bool) -> tuple[dict[str, object], int]:
    code, at = read_varint(payload, at)
    if not application:
        _, at = read_varint(payload, at)
    length, at = read_varint(payload, at)
    facts = {
        "error_space": "application" if application else "transport",
        "error_code": code,
        "reason": payload[at : at + length].decode("utf-8", "replace"),
    }
    return {"frame_type": "connection_close", **facts}, at + length


Opener = Callable[[bytes], tuple[int, bytes] | None]
"""Gives (number, frames) of a 1-RTT packet."""


class PacketLog:
    """Writes one connection's packets and metrics to its trace."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._last: tuple[object, ...] = ()
        self._again = 0.0

    def datagram(self, now: float, event: str, datagram: bytes, opener: Opener) -> None:
        """`event` is `packet_sent` or `packet_received`."""
        for packet in first_packets(datagram):
            header = parse_header(packet)
            if header is None:
                continue
            shown: dict[str, object] = {"packet_type": _TYPES.get(header.kind, "unknown")}
            facts: dict[str, object] = {"header": shown, "raw": {"length": len(packet)}}
            facts["frames"] = []
            if header.kind is Kind.SHORT:
                opened = opener(packet)
                if opened is None and event == "packet_received":
                    dropped = {**facts, "trigger": "payload_decrypt_error"}
                    self._trace(now, "transport:packet_dropped", dropped)
                    continue
                if opened is not None:
                    shown["packet_number"], payload = opened
                    facts["frames"] = frames(payload)
            else:
                shown["dcid"], shown["scid"] = header.destination.hex(), header.source.hex()
            self._trace(now, f"transport:{event}", facts)

    def metrics(self, now: float, stats: Stats) -> None:
        """Congestion window and round trip, when they have changed, and not too often."""
        values = (stats.congestion_window, stats.bytes_in_flight, stats.rtt)
        if values == self._last or now < self._again:
            return
        self._last, self._again = values, now + METRICS_EVERY
        data: dict[str, object] = {"cwnd": values[0], "bytes_in_flight": values[1]}
        if stats.rtt is not None:
            data["smoothed_rtt"] = stats.rtt * 1000
        self._trace(now, "recovery:metrics_updated", data)
