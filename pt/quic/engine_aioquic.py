"""The engine that works everywhere: aioquic, in pure Python; about 0.3 Gbit/s."""

from __future__ import annotations

import logging
from typing import Any, ClassVar, Final

from aioquic.quic import events as theirs
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.logger import QuicLogger, QuicLoggerTrace

from pt.identity.peer_id import PeerId
from pt.quic.aioquic_connection import Connection
from pt.quic.base import Base
from pt.quic.codes import TransportCode
from pt.quic.engine import Admission, Config, Stats, Trace, Train
from pt.quic.events import Address, Event, PathChanged, StreamsAvailable
from pt.quic.limits import BASE_DATAGRAM
from pt.quic.packets import CID_LENGTH, VERSION_1, parse_header
from pt.quic.pmtu import BLACK_HOLE_PTOS, PathMtu
from pt.quic.tls import ALPN
from pt.quic.trains import group

__all__ = ["AioquicEngine"]

# It reports every protocol error of a peer as a warning: that is ours to tell.
logging.getLogger("quic").addHandler(logging.NullHandler())

ROUNDING: Final = 1e-6
"""Seconds: at its deadline to the last bit, the loss timer may find that nothing is lost yet."""

LIBRARY_FAULTS: Final = (AssertionError, LookupError, ValueError, RuntimeError)
"""What a packet that the library did not expect might make it raise."""


class _Forward(QuicLoggerTrace):
    """Gives events to our trace, with the engine's clock."""

    def __init__(self, sink: Trace, now: float, *, is_client: bool, odcid: bytes) -> None:
        super().__init__(is_client=is_client, odcid=odcid)
        self.sink = sink
        self.now = now

    def log_event(self, *, category: str, event: str, data: dict[str, Any]) -> None:
        self.sink(self.now, f"{category}:{event}", data)


class _Logger(QuicLogger):
    def __init__(self, forward: _Forward) -> None:
        super().__init__()
        self._forward = forward

    def start_trace(self, is_client: bool, odcid: bytes) -> QuicLoggerTrace:
        return self._forward

    def end_trace(self, trace: QuicLoggerTrace) -> None:
        pass


class AioquicEngine(Base):
    """`Engine` over one `Connection`."""

    name: ClassVar[str] = "aioquic"

    def __init__(
        self,
        config: Config,
        address: Address,
        now: float,
        *,
        admission: Admission | None = None,
        expected: PeerId | None = None,
    ) -> None:
        super().__init__(config, address, now, admission=admission, expected=expected)
        limits = config.limits
        self._forward: _Forward | None = None
        configuration = QuicConfiguration(
            alpn_protocols=[ALPN],
            certificate=config.certificate.x509,
            private_key=config.certificate.private_key,
            congestion_control_algorithm=config.congestion,
            connection_id_length=CID_LENGTH,
            idle_timeout=limits.idle_timeout,
            is_client=self.is_client,
            max_data=limits.connection_window,
            max_datagram_size=BASE_DATAGRAM,
            max_stream_data=limits.stream_window,
            quic_logger=self._logger(admission, now),
            supported_versions=[VERSION_1],
        )
        self._conn = Connection(configuration, config, self._verify, admission)
        self._changed = self._conn.moved
        self._pmtu = PathMtu(self._ceiling)
        self._probes: list[tuple[bytes, Address]] = []
        self._last_close: list[tuple[bytes, Address]] = []
        self._close_heard = 0
        self._close_repeat = False
        self._could_open = 0
        self._ids.add(self._conn.host_cid)
        if admission is None:
            self._conn.connect(address, now)
        elif admission.validated:
            self._conn.admitted = address

    def _logger(self, admission: Admission | None, now: float) -> _Logger | None:
        if self._config.trace is None:
            return None
        odcid = b"" if admission is None else admission.original_destination
        sink = self._config.trace(self.is_client, odcid)
        if sink is None:
            return None
        self._forward = _Forward(sink, now, is_client=self.is_client, odcid=odcid)
        return _Logger(self._forward)

    # --- driving -------------------------------------------------------------------------------

    def receive(self, data: bytes, segment: int, address: Address, now: float) -> None:
        """See `Engine`."""
        if self.terminated or not data:
            return
        self._set_clock(now)
        for at in range(0, len(data), segment):
            datagram = data[at : at + segment]
            if self._closed is None and not datagram[0] & 0x80:
                header = parse_header(datagram)
                if header is not None and header.destination not in self._ids:
                    if self._conn.is_stateless_reset(datagram):
                        self._lost("the peer has forgotten the connection", now)
                        return
                    continue
            if self._conn.closing:
                self._heard_while_closing()
                continue
            try:
                self._conn.receive_datagram(datagram, address, now)
            except LIBRARY_FAULTS as error:
                self._conn.close(TransportCode.INTERNAL_ERROR, 0, f"{type(error).__name__}")
        self._after(now)

    def _heard_while_closing(self) -> None:
        """Repeat our CONNECTION_CLOSE, more and more rarely (RFC 9000, section 10.2.1)."""
        self._close_heard += 1
        if self._close_heard & (self._close_heard - 1) == 0:
            self._close_repeat = True

    def handle_timeout(self, now: float) -> None:
        """See `Engine`."""
        if self.terminated:
            return
        self._set_clock(now)
        if self._handshake_late(now):
            self._conn.close(TransportCode.NO_ERROR, 0, "handshake timed out")
        self._ping_if_due(now)
        timer = self._conn.get_timer()
        if timer is not None and now >= timer:
            self._conn.handle_timer(now)
            if self._conn.timeouts >= BLACK_HOLE_PTOS and self._pmtu.black_hole(now):
                self._conn.set_datagram_size(self._pmtu.size)
        self._after(now)

    def next_timeout(self) -> float | None:
        """See `Engine`."""
        if self.terminated:
            return None
        timer, own = self._conn.get_timer(), self._own_timeout()
        if timer is not None and timer == self._conn.pacing_at:
            timer = self._not_too_soon(timer, self._conn.rtt)
        elif timer is not None:
            timer += ROUNDING
        if timer is None or own is None:
            return own if timer is None else timer
        return min(timer, own)

    def trains(self, now: float) -> list[Train]:
        """See `Engine`."""
        if self.terminated or not self._conn.has_path:
            return []
        self._set_clock(now)
        if self._conn.closing:
            repeat, self._close_repeat = self._close_repeat, False
            return group(self._last_close) if repeat else []
        closing = self._conn.over
        if closing and not self._conn.may_close:
            self._conn.drop()
            self._after(now)
            return []
        datagrams = self._conn.datagrams_to_send(now)
        if datagrams:
            self._sent_at = now
            self._conn.update_key_when_due()
        if closing:
            self._last_close = datagrams
        else:
            datagrams += self._probe(now)
        for stream in self._conn.streams_over():
            self._ended(stream)
        self._note_sent()
        self._take_events(now)
        return group(datagrams)

    def _probe(self, now: float) -> list[tuple[bytes, Address]]:
        if not self._conn.confirmed or self.peer is None:
            return []
        size = self._pmtu.probe(now)
        if size is None:
            return []
        probe: list[tuple[bytes, Address]] = self._conn.probe(size, now)
        return probe

    def next_event(self) -> Event | None:
        """See `Engine`."""
        return self._events.popleft() if self._events else None

    def _set_clock(self, now: float) -> None:
        if self._forward is not None:
            self._forward.now = now

    def _lost(self, reason: str, now: float) -> None:
        self._close_event(TransportCode.NO_ERROR, reason, application=False, by_peer=True)
        self._conn.drop()
        self._after(now)

    def _after(self, now: float) -> None:
        """What any input may have changed."""
        conn = self._conn
        self._heard = max(self._heard, conn.heard or 0.0)
        self._take_events(now)
        for size, arrived in conn.probe_outcomes:
            if arrived:
                self._pmtu.acked(size, now)
                conn.set_datagram_size(self._pmtu.size)
            else:
                self._pmtu.lost(size, now)
        conn.probe_outcomes.clear()
        if conn.confirmed:
            self._confirmed()
        close = conn.close_cause
        if self._closed is None and close is not None:
            self._failure = conn.context.failure if hasattr(conn, "tls") else None
            self._close_event(
                int(close.error_code),
                close.reason_phrase,
                application=close.frame_type is None,
                by_peer=conn.draining,
            )
        if self._closed is None and self.peer is not None:
            if conn.path.is_validated and conn.path.addr != self.address:
                self.address = conn.path.addr
                self._pmtu.path_changed()
                conn.set_datagram_size(self._pmtu.size)
                self._events.append(PathChanged(self.address))
            if conn.streams_left > self._could_open:
                self._events.append(StreamsAvailable(conn.streams_left))
            self._could_open = conn.streams_left

    def _take_events(self, now: float) -> None:
        conn = self._conn
        while (event := conn.next_event()) is not None:
            match event:
                case theirs.HandshakeCompleted():
                    assert conn.context.identity is not None
                    self._handshake_done(conn.context.identity, conn.context.binding)
                    self._could_open = conn.streams_left
                case theirs.StreamDataReceived():
                    self._stream_data(event, now)
                case theirs.StreamReset():
                    final = conn.final_size(event.stream_id)
                    self._peer_reset(event.stream_id, event.error_code, final, now)
                case theirs.StopSendingReceived():
                    self._peer_stopped(event.stream_id, event.error_code, now)
                case theirs.ConnectionIdIssued():
                    self._issued(event.connection_id)
                case theirs.ConnectionIdRetired():
                    self._retired(event.connection_id)
                case theirs.ConnectionTerminated():
                    if event.reason_phrase == "Idle timeout":
                        self._silent()
                    elif self._closed is None:
                        self._close_event(
                            int(event.error_code),
                            event.reason_phrase,
                            application=event.frame_type is None,
                            by_peer=False,
                        )
                    for cid in list(self._ids):
                        self._retired(cid)
                    self.terminated = True
                case _:  # pings, ALPN
                    pass
        conn.freed = self._windows.freed

    def _stream_data(self, event: theirs.StreamDataReceived, now: float) -> None:
        if self._closed is not None:
            return
        stream = event.stream_id
        self._data(stream, event.data, now, fin=event.end_stream)
        window = self._windows.streams.get(stream)
        if window is not None and window.discard:
            limit = self._windows.moved(stream, now, self._conn.rtt)
            if limit is not None:
                self._grant(stream, limit, now)

    # --- streams -------------------------------------------------------------------------------

    @property
    def streams_left(self) -> int:
        """See `Engine`."""
        return self._conn.streams_left if self.peer is not None and self._closed is None else 0

    def open_stream(self) -> int:
        """See `Engine`."""
        self._may_open(self._conn.streams_left)
        stream = self._conn.get_next_available_stream_id()
        self._conn._get_or_create_stream_for_send(stream)
        self._could_open = self._conn.streams_left
        self._begin(stream, self._heard)
        return stream

    def _next_local(self) -> int:
        return self._conn.get_next_available_stream_id()

    def _unsent(self, stream: int) -> int:
        sender = self._conn.sender(stream)
        return 0 if sender is None else sender._buffer_stop - sender.highest_offset

    def _allowed(self, stream: int) -> int:
        return self._conn.allowed(stream)

    def _send_stream(self, stream: int, data: bytes | memoryview, *, fin: bool) -> None:
        self._conn.send_stream_data(stream, bytes(data), fin)
        self._conn.wake_id(stream)

    def _reset_stream(self, stream: int, code: int) -> None:
        self._conn.reset_stream(stream, code)

    def _stop_stream(self, stream: int, code: int) -> None:
        self._conn.stop_stream(stream, code)
        self._conn.wake_id(stream)

    def _grant(self, stream: int, limit: int, now: float) -> None:
        self._conn.move_window(stream, limit)

    @property
    def minds_loss(self) -> bool:
        """See `Engine`."""
        return self._config.congestion != "bbr"

    def _send_ping(self) -> None:
        self._conn.send_ping(0)

    def _freed(self) -> None:
        self._conn.freed = self._windows.freed

    def _rtt(self) -> float | None:
        return self._conn.rtt

    def close(self, code: int, reason: str, now: float) -> None:
        """See `Engine`."""
        self._check_code(code)
        if self._closed is None:
            self._conn.close(code, None, reason)
            self._after(now)

    def stats(self) -> Stats:
        """See `Engine`."""
        loss = self._conn.recovery
        return Stats(
            rtt=self._conn.rtt,
            congestion_window=loss.congestion_window,
            bytes_in_flight=loss.bytes_in_flight,
            datagram_size=self._pmtu.size,
            held=self._windows.held,
            backlog=self._backlog,
            lost=loss.lost,
        )
