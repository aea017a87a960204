"""The fast engine: qh3's native core; 2 to 3 Gbit/s with UDP_GRO and UDP_SEGMENT."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from pt.errors import LimitError, ProtocolError
from pt.identity.peer_id import PeerId
from pt.quic.base import Base, StreamState
from pt.quic.codes import TransportCode
from pt.quic.credit import Credit
from pt.quic.engine import Admission, Config, Stats, Train
from pt.quic.events import Address, Event, PathChanged, StreamsAvailable
from pt.quic.limits import BASE_DATAGRAM
from pt.quic.moves import Moves
from pt.quic.nudge import Nudge
from pt.quic.qh3_connection import Connection, FaultError, VersionError
from pt.quic.qh3_sender import Sender
from pt.quic.qh3_sizes import Sizes
from pt.quic.qlog import PacketLog
from pt.quic.trains import split

__all__ = ["Qh3Engine"]

BURST: Final = 512
"""Datagrams that one call of `trains` yields at most."""

EARLY_LIMIT: Final = 64 * 1024
"""Bytes of datagrams that are looked at before the handshake is done; it takes a tenth."""

_STREAM_FRAME: Final = 0x08
_SPIN: Final = 0.0005
_MAX_SPIN: Final = 0.1
_FRAME_ROOM: Final = 1000
_OVER: Final = frozenset({"closing", "draining", "terminated"})


class Qh3Engine(Base):
    """`Engine` over one `Connection`."""

    name: ClassVar[str] = "qh3"

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
        ipv6 = ":" in address[0]
        self._conn = Connection(
            config, self._verify, admission, now, ceiling=self._ceiling, ipv6=ipv6
        )
        self._moves = Moves(address)
        self._sizes = Sizes(self._conn, self._ceiling)
        self._sender = Sender(self._conn, self._sizes)
        self._changed = self._sender.moved
        self._credit = Credit(config.limits.stream_window)
        trace = None
        if config.trace is not None:
            trace = config.trace(self.is_client, self._conn.original)
        self._log = None if trace is None else PacketLog(trace)
        self._brake = config.limits.connection_window // 2
        self._early = EARLY_LIMIT
        self._last_from_peer = b""
        self._handled = (-1.0, 0.0)  # a core's deadline, and how long to leave it alone
        self._could_open = 0
        self._nudge = Nudge(self._conn)
        self._ids.add(self._conn.host_cid)

    # --- receiving -----------------------------------------------------------------------------

    def receive(self, data: bytes, segment: int, address: Address, now: float) -> None:
        """See `Engine`."""
        if self.terminated or not data:
            return
        conn = self._conn
        self._handled = (-1.0, 0.0)
        if address == self._moves.address:
            self._moves.received(len(data))
            if conn.confirmed:
                self._received(data, segment, now)
            else:
                self._received_early(data, segment, now)
        elif not self.is_client and conn.confirmed:
            self._received_elsewhere(data, segment, address, now)
        conn.follow_updates()
        if self._log is not None:
            for at in range(0, len(data), segment):
                datagram = data[at : at + segment]
                self._log.datagram(now, "packet_received", datagram, conn.open_received)
        self._after(now)

    def _received(self, data: bytes, segment: int, now: float) -> None:
        if self._conn.feed(data, segment, now):
            self._heard = now
            self._last_from_peer = data[(len(data) - 1) // segment * segment :]
            if self._looking():
                for at in range(0, len(data), segment):
                    self._look(data[at : at + segment], now)

    def _received_early(self, data: bytes, segment: int, now: float) -> None:
        # The core keeps handshake bytes that come out of order one by one.
        self._early -= len(data)
        if self._early < 0 and not self._conn.done:
            return
        for at in range(0, len(data), segment):
            datagram = data[at : at + segment]
            try:
                good = self._conn.receive_early(datagram, now, lambda: self._drain(now))
            except VersionError as error:
                self._failure = error
                self._gone(TransportCode.VERSION_NEGOTIATION_ERROR, str(error), by_peer=False)
                return
            if good:
                self._heard = now
                if self._looking():
                    self._look(datagram, now)

    def _received_elsewhere(self, data: bytes, segment: int, address: Address, now: float) -> None:
        """Take datagrams from another address than the client's: it may have moved."""
        conn = self._conn
        for at in range(0, len(data), segment):
            datagram = data[at : at + segment]
            number = conn.number(datagram)
            if not conn.feed(datagram, len(datagram), now):
                continue
            self._heard = now
            if self._last_from_peer:
                conn.note_number(self._last_from_peer)
            newest = conn.newest_received
            conn.note_number(datagram)
            if number is not None and number >= newest and address != self._moves.address:
                self._moves.move(address, len(datagram), now, max(3 * self._pto(), 1.0))
                self._last_from_peer = datagram
                self._moved(now)

    def _moved(self, now: float) -> None:
        if self._moves.validated and self._moves.proved != self.address:
            self.address = self._moves.proved
            self._events.append(PathChanged(self.address))

    def _looking(self) -> bool:
        """Whether packets are to be opened here, too: something of ours may be answered."""
        return not self._moves.validated or self._sizes.looking

    def _look(self, datagram: bytes, now: float) -> None:
        frames = self._conn.frames_of(datagram)
        self._sizes.look(frames, now, max((self._rtt() or 0.0) / 2, 0.01))
        self._moves.look(frames)

    def _after(self, now: float) -> None:
        """What any input may have changed."""
        self._drain(now)
        conn = self._conn
        if conn.confirmed:
            self._confirmed()
            self._moved(now)
        if not self._events and conn.core.state == "terminated":
            self._end()

    # --- events --------------------------------------------------------------------------------

    def next_event(self) -> Event | None:
        """See `Engine`."""
        return self._events.popleft() if self._events else None

    def _drain(self, now: float) -> None:
        """Take the core's events, as long as there is room for what they bring."""
        conn = self._conn
        if self._windows.held >= self._brake and conn.core.state not in _OVER:
            return
        for event in conn.events():
            self._take(event, now)
            if self._windows.held >= self._brake:
                break

    def _take(self, event: tuple[Any, ...], now: float) -> None:
        match event:
            case ("stream_data", stream, data, fin):
                self._stream_data(stream, data, now, fin=fin)
            case ("stream_reset", stream, code, final):
                self._credit.close(stream)
                self._peer_reset(stream, code, final, now)
            case ("stop_sending", stream, code):
                self._peer_stopped(stream, code, now)
            case ("stream_finished", stream):
                self._credit.close(stream)
                self._sender.fins.close(stream)
                self._ended(stream)
            case ("stream_credit", stream, limit):
                self._sender.outbox.allow(stream, limit)
                self._changed.add(stream)
            case ("peer_blocked", int(stream), limit):
                self._credit.blocked(stream, limit)
            case _:
                self._take_rare(event)

    def _take_rare(self, event: tuple[Any, ...]) -> None:
        match event:
            case ("crypto_data", epoch, _, data):
                self._crypto(epoch, data)
            case ("handshake_done",):
                self._conn.confirm()
            case ("streams_available", False, _):
                left = self._left()
                if self.peer is not None and left > self._could_open:
                    self._events.append(StreamsAvailable(left))
                self._could_open = left
            case ("connection_id_issued", cid):
                self._issued(cid)
            case ("connection_id_retired", cid):
                self._retired(cid)
            case ("peer_closed", application, code, _, reason):
                self._close_event(code, _text(reason), application=application, by_peer=True)
            case ("protocol_error", code, _, reason):
                self._close_event(code, reason, application=False, by_peer=False)
            case ("connection_terminated", _, _, b"Idle timeout"):
                self._silent()
                self._end()
            case ("connection_terminated", code, _, reason):
                # Without a word before: a stateless reset.
                text = _text(reason) or "the peer has forgotten the connection"
                self._close_event(code, text, application=False, by_peer=not reason)
                self._end()
            case _:  # pings, tokens, credit that the core uses by itself
                pass

    def _stream_data(self, stream: int, data: bytes, now: float, *, fin: bool) -> None:
        if self._closed is not None:
            return
        if not self._data(stream, data, now, fin=fin):
            self._violation("more than flow control allows")
            return
        window = self._windows.streams.get(stream)
        if window is not None:
            if fin:
                self._credit.close(stream)
            else:
                self._credit.received(stream, window.received, now, self._pto())

    def _violation(self, reason: str) -> None:
        self._conn.close(TransportCode.FLOW_CONTROL_ERROR, _STREAM_FRAME, reason)
        self._close_event(
            TransportCode.FLOW_CONTROL_ERROR, reason, application=False, by_peer=False
        )

    def _crypto(self, epoch: int, data: bytes) -> None:
        if self._closed is not None:
            return
        try:
            self._conn.crypto(epoch, data)
        except ProtocolError as error:
            self._failure = error
            self._conn.fail(error)
            code = TransportCode.INTERNAL_ERROR if error.code is None else error.code
            self._close_event(code, "handshake failed", application=False, by_peer=False)
            return
        if self._conn.done and self.peer is None:
            # At once: streams may follow in the same datagram.
            assert self._conn.tls.identity is not None
            self._handshake_done(self._conn.tls.identity, self._conn.tls.binding)
            self._could_open = self._left()

    def _gone(self, code: int, reason: str, *, by_peer: bool) -> None:
        """Over, without a farewell."""
        self._close_event(code, reason, application=False, by_peer=by_peer)
        self._end()

    def _end(self) -> None:
        for cid in list(self._ids):
            self._retired(cid)
        self.terminated = True

    # --- sending -------------------------------------------------------------------------------

    def trains(self, now: float) -> list[Train]:
        """See `Engine`."""
        if self.terminated:
            return []
        moves = self._moves
        most = BURST
        room = moves.room()
        if room is not None:
            most = min(most, room // self._sizes.size)
        own: list[bytes] = []
        due = self._credit.due or self._sender.fins.due
        idle = not due and moves.validated and self._sizes.surveyed
        if not idle and self._closed is None and self._conn.done:
            own = self._own_packets(now)
        try:
            datagrams = self._sender.poll(now, most, max(self._pto(), 0.05))
        except FaultError as error:
            self._failure = error
            self._gone(error.code or TransportCode.INTERNAL_ERROR, str(error), by_peer=False)
            return []
        if datagrams or own:
            self._sent_at = now
            self._handled = (-1.0, 0.0)
        datagrams += own
        if not moves.validated:
            moves.sent(sum(map(len, datagrams)))
        if self._log is not None:
            for datagram in datagrams:
                self._log.datagram(now, "packet_sent", datagram, self._conn.open_sent)
            self._log.metrics(now, self.stats())
        self._note_sent()
        return split(datagrams, moves.address)

    def _own_packets(self, now: float) -> list[bytes]:
        """What the core does not send: window updates, path challenges, FINs that it would lose."""
        packets: list[bytes | None] = []
        conn = self._conn
        moves = self._moves
        challenge = moves.challenge(now, max(self._pto(), 0.05), self._config.random)
        if challenge is not None:
            # Not padded to all that may be sent: it may have to be asked again.
            size = BASE_DATAGRAM if (moves.room() or 0) >= BASE_DATAGRAM else 0
            packets.append(conn.seal(b"\x1a" + challenge, size=size))
        if moves.validated:
            for source in (self._credit, self._sender.fins):
                while frames := source.frames(_FRAME_ROOM):
                    packets.append(conn.seal(frames))
            interval = max(self._pto(), 0.05)
            for size, data in self._sizes.probes(now, interval, self._config.random):
                packets.append(conn.seal(b"\x1a" + data, size=size))
        return [packet for packet in packets if packet is not None]

    # --- time ----------------------------------------------------------------------------------

    def next_timeout(self) -> float | None:
        """See `Engine`."""
        if self.terminated:
            return None
        deadlines = [self._core_timeout(), self._own_timeout(), self._moves.next_timeout()]
        if not self._conn.done:
            deadlines.append(self._nudge.at(max(self._heard, self._sent_at), self._pto()))
        if self._closed is None and self._moves.validated:
            own = (self._sizes, self._credit, self._sender.fins)
            deadlines += [each.next_timeout() for each in own]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _core_timeout(self) -> float | None:
        timer = self._conn.core.get_timer()
        if timer is None:
            return None
        kind, deadline = timer
        room = self._moves.room()
        if room is not None and room < self._sizes.size and kind not in {"idle", "close"}:
            return None  # it could not send; what comes from there makes room
        handled, pause = self._handled
        if deadline <= handled:
            return handled + pause  # it has had its turn, and could not send
        if kind == "pacing":
            return self._not_too_soon(deadline, self._rtt())
        return deadline

    def handle_timeout(self, now: float) -> None:
        """See `Engine`."""
        if self.terminated:
            return
        conn = self._conn
        if self._handshake_late(now):
            reason = "handshake timed out"
            conn.close(TransportCode.NO_ERROR, 0, reason)
            self._close_event(TransportCode.NO_ERROR, reason, application=False, by_peer=False)
        self._ping_if_due(now)
        if not conn.done:
            self._nudge.expire(now, max(self._heard, self._sent_at), self._pto())
        timer = conn.core.get_timer()
        if timer is not None and timer[1] <= now:
            conn.core.handle_timer(now)
            pause = self._handled[1]
            self._handled = (now, min(2 * pause, _MAX_SPIN) or _SPIN)
            self._sizes.timeout()
        self._credit.expire(now)
        self._sender.fins.expire(now)
        self._moves.expire(now)
        self._after(now)

    def _pto(self) -> float:
        rtt = self._rtt()
        return 0.2 if rtt is None else 2 * rtt + 0.025

    # --- streams -------------------------------------------------------------------------------

    def _left(self) -> int:
        peer_limit, _, opened, _ = self._conn.core.stream_limits
        return max(0, peer_limit - opened)

    @property
    def streams_left(self) -> int:
        """See `Engine`."""
        return self._left() if self.peer is not None and self._closed is None else 0

    def open_stream(self) -> int:
        """See `Engine`."""
        self._may_open(self._left())
        try:
            stream = self._conn.core.open_stream(False)  # unidirectional
        except (ValueError, RuntimeError) as error:
            raise LimitError(f"no stream can be opened: {error}") from error
        self._could_open = self._left()
        self._begin(stream, self._heard)
        return stream

    def _next_local(self) -> int:
        return self._conn.core.stream_limits[2] * 4 + int(not self.is_client)

    def _begin(self, stream: int, now: float) -> StreamState:
        peer = self._conn.peer
        assert peer is not None
        ours = stream & 1 != int(self.is_client)
        limit = peer.stream_bidi_remote if ours else peer.stream_bidi_local
        self._sender.outbox.open(stream, limit)
        return super()._begin(stream, now)

    def _end_writing(self, stream: int, state: StreamState) -> None:
        super()._end_writing(stream, state)
        if not state.finished:
            self._sender.close(stream)

    def _unsent(self, stream: int) -> int:
        return self._sender.unsent(stream)

    def _allowed(self, stream: int) -> int:
        return self._sender.outbox.room(stream)

    def _send_stream(self, stream: int, data: bytes | memoryview, *, fin: bool) -> None:
        self._sender.outbox.put(stream, data, fin=fin)

    def _reset_stream(self, stream: int, code: int) -> None:
        try:
            self._conn.core.reset_stream(stream, code)
        except (ValueError, RuntimeError):
            return

    def _stop_stream(self, stream: int, code: int) -> None:
        try:
            self._conn.core.stop_sending(stream, code)
        except (ValueError, RuntimeError):
            return

    def _grant(self, stream: int, limit: int, now: float) -> None:
        offset = self._windows.streams[stream].received
        self._credit.tell(stream, limit, offset, now, self._pto())

    @property
    def minds_loss(self) -> bool:
        """See `Engine`: CUBIC is all that the core has."""
        return True

    def _send_ping(self) -> None:
        self._conn.core.send_ping(0)

    def _freed(self) -> None:
        """Nothing: the core's own window moves when bytes are fetched."""

    def consumed(self, stream: int, count: int, now: float) -> None:
        """See `Engine`."""
        braked = self._windows.held >= self._brake
        super().consumed(stream, count, now)
        if braked:
            self._drain(now)

    def close(self, code: int, reason: str, now: float) -> None:
        """See `Engine`."""
        self._check_code(code)
        if self._closed is None:
            self._conn.close(code, None, reason)
            self._close_event(code, reason, application=True, by_peer=False)
            self._after(now)

    # --- figures -------------------------------------------------------------------------------

    def _rtt(self) -> float | None:
        return self._conn.core.smoothed_rtt

    def stats(self) -> Stats:
        """See `Engine`."""
        core = self._conn.core
        return Stats(
            rtt=core.smoothed_rtt,
            congestion_window=core.congestion_window,
            bytes_in_flight=core.bytes_in_flight,
            datagram_size=self._sizes.size,
            held=self._windows.held,
            backlog=self._backlog,
            lost=core.loss_total,
        )


def _text(reason: bytes) -> str:
    return reason.decode("utf-8", "replace")
