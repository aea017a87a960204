"""What both engines do alike: events, streams' states, windows, buffers, keep-alive, deadlines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import ClassVar, Final, Self

from pt.errors import LimitError, LocalProtocolError, ProtocolError
from pt.identity.keys import PublicKey
from pt.identity.peer_id import PeerId, PeerMismatchError
from pt.quic import certificate
from pt.quic.codes import MAX_CODE, TransportCode
from pt.quic.engine import Admission, Config
from pt.quic.events import (
    Address,
    Closed,
    ConnectionIdIssued,
    ConnectionIdRetired,
    Event,
    HandshakeDone,
    StopSending,
    StreamData,
    StreamEnded,
    StreamOpened,
    StreamReset,
    Writable,
)
from pt.quic.limits import MAX_DATAGRAM_IPV6
from pt.quic.windows import Windows

__all__ = ["Base", "StreamState"]

_BAD_CERTIFICATE: Final = 0x12A

PACING_QUANTUM: Final = 0.0005
"""Seconds between bursts of a paced connection: 60 kB at 1 Gbit/s, which is what one send takes."""


class StreamState:
    """What the application may still do with a stream, and what waits to be sent."""

    __slots__ = ("finished", "reading", "unsent", "writing")

    def __init__(self) -> None:
        self.writing = True
        """Neither finished nor reset."""
        self.finished = False
        """FIN was written."""
        self.reading = True
        """Neither ended, reset nor stopped."""
        self.unsent = 0
        """Bytes accepted and not sent, as of the last look."""


class Base(ABC):
    """State of one connection; subclasses have the packets, and are each an `EngineFactory`."""

    name: ClassVar[str]

    def __init__(
        self,
        config: Config,
        address: Address,
        now: float,
        *,
        admission: Admission | None = None,
        expected: PeerId | None = None,
    ) -> None:
        self.is_client = is_client = admission is None
        self.peer: PeerId | None = None
        self.address = address
        self.terminated = False
        self._config = config
        self._limits = config.limits
        self._expected = expected
        self._events: deque[Event] = deque()
        self._windows = Windows(config.limits)
        self._states: dict[int, StreamState] = {}
        self._changed: set[int] = set()  # streams sent from, or whose window at the peer has moved
        self._crowded = False  # a stream is blocked for all streams' bytes together
        self._backlog = 0
        self._clients_id = None if admission is None else admission.destination
        self._ids = {self._clients_id} if self._clients_id is not None else set()
        self._blocked: set[int] = set()  # streams that are owed a Writable
        self._unseen: set[int] = set()  # remote streams that only a higher one opened
        self._highest_remote = -4 + int(is_client)  # the id before the peer's first
        self._closed: Closed | None = None
        self._failure: ProtocolError | None = None
        self._handshake_deadline: float | None = now + config.limits.handshake_timeout
        self._heard = now
        self._pinged = now
        self._sent_at = now
        self._ceiling = config.limits.max_datagram
        if ":" in address[0]:
            self._ceiling = min(self._ceiling, MAX_DATAGRAM_IPV6)

    @classmethod
    def connect(
        cls, config: Config, address: Address, now: float, *, expected: PeerId | None = None
    ) -> Self:
        """See `EngineFactory`."""
        return cls(config, address, now, expected=expected)

    @classmethod
    def accept(cls, config: Config, admission: Admission, address: Address, now: float) -> Self:
        """See `EngineFactory`."""
        return cls(config, address, now, admission=admission)

    @property
    def heard(self) -> float:
        """See `Engine`."""
        return self._heard

    @property
    def backlog(self) -> int:
        """See `Engine`."""
        return self._backlog

    # --- events --------------------------------------------------------------------------------

    @property
    def connection_ids(self) -> frozenset[bytes]:
        """See `Engine`."""
        return frozenset(self._ids)

    def _issued(self, cid: bytes) -> None:
        if cid not in self._ids:
            self._ids.add(cid)
            self._events.append(ConnectionIdIssued(cid))

    def _retired(self, cid: bytes) -> None:
        if cid in self._ids:
            self._ids.remove(cid)
            self._events.append(ConnectionIdRetired(cid))

    def _confirmed(self) -> None:
        """The handshake is confirmed: the client uses the id that it made up no more."""
        if self._clients_id is not None:
            self._retired(self._clients_id)
            self._clients_id = None

    def _verify(self, chain: Sequence[bytes]) -> PublicKey:
        """Check the peer's certificates, and that it is the one we expect."""
        key = certificate.identity_key(chain, now=self._config.unix_time())
        actual = PeerId.from_public_key(key)
        if self._expected is not None and actual != self._expected:
            raise PeerMismatchError(self._expected, actual, _BAD_CERTIFICATE)
        return key

    def _handshake_done(self, key: PublicKey, binding: bytes) -> None:
        self._handshake_deadline = None
        self.peer = PeerId.from_public_key(key)
        self._events.append(HandshakeDone(self.peer, key, binding))

    def _close_event(self, code: int, reason: str, *, application: bool, by_peer: bool) -> None:
        """The connection is over: nothing about streams any more, but what the peer said before."""
        if self._closed is not None:
            return
        self._handshake_deadline = None
        if not by_peer:
            self._events = deque(
                event
                for event in self._events
                if isinstance(event, HandshakeDone | ConnectionIdIssued | ConnectionIdRetired)
            )
        self._closed = Closed(
            code, application, reason, by_peer, None if by_peer else self._failure
        )
        self._events.append(self._closed)
        self._states.clear()
        self._blocked.clear()
        self._changed.clear()
        self._windows = Windows(self._limits)
        self._backlog = 0

    def _silent(self) -> None:
        """The peer was not heard for as long as agreed on."""
        reason = "no sign of life"
        self._close_event(TransportCode.NO_ERROR, reason, application=False, by_peer=False)

    # --- receiving -----------------------------------------------------------------------------

    def _state(self, stream: int, now: float) -> StreamState | None:
        """A stream's state; made, and told, when the peer opens it.  None: it was over before."""
        state = self._states.get(stream)
        if state is not None:
            return state
        if stream & 1 != int(self.is_client) or stream & 2:
            return None
        if stream <= self._highest_remote:
            if stream not in self._unseen:
                return None
            self._unseen.remove(stream)
        else:
            # A stream opens all below it, which may be used in any order.
            self._unseen.update(range(self._highest_remote + 4, stream, 4))
            self._highest_remote = stream
        self._events.append(StreamOpened(stream))
        return self._begin(stream, now)

    def _begin(self, stream: int, now: float) -> StreamState:
        state = self._states[stream] = StreamState()
        self._windows.open(stream, now)
        return state

    def _data(self, stream: int, data: bytes, now: float, *, fin: bool) -> bool:
        """Bytes came; False: more than we allowed."""
        state = self._state(stream, now)
        if state is None:
            return True
        if data and not self._windows.received(stream, len(data)):
            return False
        if not state.reading:
            data = b""
        if data or fin:
            self._events.append(StreamData(stream, data, fin))
        if fin:
            state.reading = False
        return True

    def _peer_reset(self, stream: int, code: int, final: int, now: float) -> None:
        state = self._state(stream, now)
        if state is None:
            return
        self._windows.reset(stream, final)
        state.reading = False
        self._events.append(StreamReset(stream, code))

    def _peer_stopped(self, stream: int, code: int, now: float) -> None:
        state = self._state(stream, now)
        if state is None:
            return
        state.finished = False
        self._end_writing(stream, state)
        self._drop_unsent(stream, state)
        self._events.append(StopSending(stream, code))

    def _ended(self, stream: int) -> None:
        state = self._states.pop(stream, None)
        if state is None:
            return
        self._end_writing(stream, state)
        self._drop_unsent(stream, state)
        self._windows.close(stream)
        self._events.append(StreamEnded(stream))

    # --- what the application asks of a stream ------------------------------------------------

    def write(self, stream: int, data: bytes | memoryview, *, fin: bool = False) -> int:
        """See `Engine`."""
        state = self._known_state(stream)
        if state is None:
            return 0
        if not state.writing:
            if state.finished:
                raise LocalProtocolError(f"write on stream {stream} after its end")
            return 0
        self._note_unsent(stream, state)
        room = min(
            self._limits.send_buffer - state.unsent,
            self._limits.send_total - self._backlog,
            self._allowed(stream),
        )
        room = max(0, room)
        part = data if len(data) <= room else data[:room]
        whole = len(part) == len(data)
        if len(part) or (fin and whole):
            self._send_stream(stream, part, fin=fin and whole)
            self._note_unsent(stream, state)
        if not whole:
            self._blocked.add(stream)
            self._crowded |= self._backlog >= self._limits.send_total
        elif fin:
            state.finished = True
            self._end_writing(stream, state)
        return len(part)

    def finish(self, stream: int) -> None:
        """See `Engine`."""
        state = self._known_state(stream)
        if state is not None and state.writing:
            self._send_stream(stream, b"", fin=True)
            state.finished = True
            self._end_writing(stream, state)

    def reset(self, stream: int, code: int) -> None:
        """See `Engine`."""
        self._check_code(code)
        state = self._known_state(stream)
        if state is not None and (state.writing or state.finished):
            self._reset_stream(stream, code)
            state.finished = False
            self._end_writing(stream, state)
            self._drop_unsent(stream, state)

    def stop(self, stream: int, code: int) -> None:
        """See `Engine`."""
        self._check_code(code)
        state = self._known_state(stream)
        self._windows.discard(stream)
        if state is None:
            self._windows.drop_if_consumed(stream)
        elif state.reading:
            state.reading = False
            self._stop_stream(stream, code)
        self._freed()

    def consumed(self, stream: int, count: int, now: float) -> None:
        """See `Engine`."""
        limit = self._windows.consumed(stream, count, now, self._rtt())
        state = self._states.get(stream)
        if state is None:
            self._windows.drop_if_consumed(stream)
        elif limit is not None and state.reading:
            self._grant(stream, limit, now)
        self._freed()

    # What an engine does about it.

    @abstractmethod
    def _send_stream(self, stream: int, data: bytes | memoryview, *, fin: bool) -> None: ...

    @abstractmethod
    def _reset_stream(self, stream: int, code: int) -> None: ...

    @abstractmethod
    def _stop_stream(self, stream: int, code: int) -> None: ...

    @abstractmethod
    def _grant(self, stream: int, limit: int, now: float) -> None:
        """Let the peer send up to `limit`."""

    @abstractmethod
    def _send_ping(self) -> None: ...

    @abstractmethod
    def _freed(self) -> None:
        """Something was consumed."""

    @abstractmethod
    def _rtt(self) -> float | None: ...

    @abstractmethod
    def _unsent(self, stream: int) -> int:
        """Bytes of a stream that were accepted and not sent for the first time."""

    @abstractmethod
    def _allowed(self, stream: int) -> int:
        """Bytes that the stream's window at the peer has room for, beyond what was accepted."""

    @abstractmethod
    def _next_local(self) -> int: ...

    # --- sending -------------------------------------------------------------------------------

    def _note_unsent(self, stream: int, state: StreamState) -> None:
        unsent = self._unsent(stream)
        self._backlog += unsent - state.unsent
        state.unsent = unsent

    def _note_sent(self) -> None:
        """After datagrams were built: whose bytes went, and who may write again.

        Looks at streams of which that may have changed: there may be thousands that wait.
        """
        moved = set(self._changed)
        self._changed.clear()
        for stream in moved:
            state = self._states.get(stream)
            if state is not None:
                self._note_unsent(stream, state)
        if self._backlog >= self._limits.send_total:
            self._crowded |= bool(self._blocked)
            return
        for stream in list(self._blocked) if self._crowded else moved & self._blocked:
            roomy = self._states[stream].unsent <= self._limits.send_buffer // 2
            if roomy and self._allowed(stream) > 0:
                self._blocked.discard(stream)
                self._events.append(Writable(stream))
        self._crowded = False

    def _end_writing(self, stream: int, state: StreamState) -> None:
        state.writing = False
        self._blocked.discard(stream)

    def _drop_unsent(self, stream: int, state: StreamState) -> None:
        self._backlog -= state.unsent
        state.unsent = 0

    def _known_state(self, stream: int) -> StreamState | None:
        """The state of a stream; None: it is over."""
        state = self._states.get(stream)
        if state is None and self._closed is None and not self._was_open(stream):
            raise LocalProtocolError(f"stream {stream} was never opened")
        return state

    def _was_open(self, stream: int) -> bool:
        if stream & 1 == int(self.is_client):
            return stream <= self._highest_remote
        return stream < self._next_local()

    def _may_open(self, left: int) -> None:
        if self.peer is None or self._closed is not None:
            raise LocalProtocolError("a stream before the handshake is done, or after the end")
        if left <= 0:
            raise LimitError("the peer allows no more streams now")

    @staticmethod
    def _check_code(code: int) -> None:
        if not 0 <= code <= MAX_CODE:
            raise LocalProtocolError(f"{code} is not a QUIC error code")

    # --- time ----------------------------------------------------------------------------------

    def _own_timeout(self) -> float | None:
        """The next deadline that is not the packets'."""
        if self._closed is not None:
            return None
        if self._handshake_deadline is not None:
            return self._handshake_deadline
        return max(self._heard, self._pinged) + self._limits.keep_alive

    def _not_too_soon(self, timer: float, rtt: float | None) -> float:
        """A pacing deadline, put off so that what goes then is a train, not a single datagram."""
        return max(timer, self._sent_at + min(PACING_QUANTUM, (rtt or 0.0) / 8))

    def ping(self) -> None:
        """See `Engine`."""
        if self._closed is None and self.peer is not None:
            self._send_ping()

    def _ping_if_due(self, now: float) -> None:
        """Send a PING after too long a silence."""
        due = (
            self._closed is None
            and self.peer is not None
            and now >= max(self._heard, self._pinged) + self._limits.keep_alive
        )
        if due:
            self._pinged = now
            self._send_ping()

    def _handshake_late(self, now: float) -> bool:
        return self._handshake_deadline is not None and now >= self._handshake_deadline
