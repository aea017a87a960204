"""The exposer's door: who a stream of the tunnel protocol comes from, and where it goes.

Nothing of a stranger reaches a service: streams other than SESSION and ATTACH are reset until the
connection belongs to an authenticated session.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from pt.aio.muxed import MuxedStream
from pt.errors import CryptoFailure, PtError, RemoteProtocolError
from pt.identity.peer_id import PeerId
from pt.muxer import Stream
from pt.node.connection import Connection
from pt.tunnel import authenticate
from pt.tunnel.core import messages as wire
from pt.tunnel.exposer_session import ExposerSession

__all__ = ["Attempts", "Gate"]

AUTH_TIMEOUT: Final = 10.0
GRACE: Final = 60.0
"""Seconds after which a connection has to be of a peer with a session."""
MAX_PROVED: Final = 1024
MAX_SESSIONS: Final = 256
MAX_HEAD: Final = 64
"""Bytes in which a stream has to say what it is."""


class Attempts:
    """Failed proofs by source: more than `limit` within `window` s close the door for a while.

    A guess of the name costs its author the key derivation; this bounds what it costs us.
    Bounded: the source that failed longest ago is forgotten first.
    """

    MAX_SOURCES: Final = 1024

    def __init__(self, limit: int = 10, window: float = 60.0) -> None:
        self._limit = limit
        self._window = window
        self._failures: OrderedDict[str, list[float]] = OrderedDict()
        self._running: Counter[str] = Counter()

    def begin(self, source: str, now: float) -> bool:
        """Let an attempt of `source` begin, unless it has failed too often lately.

        Attempts under way count, or hundreds at once would get through; `end` each that began.
        """
        recent = [t for t in self._failures.get(source, ()) if now - t < self._window]
        if len(recent) + self._running[source] >= self._limit:
            return False
        self._running[source] += 1
        return True

    def end(self, source: str) -> None:
        """An attempt that began is over."""
        self._running[source] -= 1
        if self._running[source] <= 0:
            del self._running[source]

    def failed(self, source: str, now: float) -> None:
        """Note a failure."""
        times = [t for t in self._failures.pop(source, []) if now - t < self._window]
        self._failures[source] = [*times[-self._limit :], now]
        if len(self._failures) > self.MAX_SOURCES:
            self._failures.popitem(last=False)


class Gate:
    """Authenticates connections and dispatches their streams to sessions.

    `make(secret, connection)` creates a session; `on_reject(connection, reason)` and
    `on_attached(session, connection, resumed)` report.
    """

    def __init__(
        self,
        *,
        psk: bytes,
        allow: frozenset[PeerId],
        make: Callable[[bytes, Connection], ExposerSession],
        on_reject: Callable[[Connection, str], None],
        on_attached: Callable[[ExposerSession, Connection, bool], None],
    ) -> None:
        self.sessions: dict[bytes, ExposerSession] = {}
        self._psk = psk
        self._allow = allow
        self._make = make
        self._on_reject = on_reject
        self._on_attached = on_attached
        self._by_connection: dict[Connection, ExposerSession] = {}
        self._attempts = Attempts()
        self._proved: OrderedDict[PeerId, None] = OrderedDict()
        """Peers that knew the name, newest last: what others fail at does not keep them out."""

    def accept(self, connection: Connection, stream: Stream, reply: bytes, data: bytes) -> None:
        """A `RawHandler`: a stream of the tunnel protocol, `data` its first bytes."""
        if not data:  # a cautious opener, who waits for the agreement before it says more
            connection.link.send_small(stream, reply)
            stream.handler = _Head(self, connection, stream, b"", b"")
        elif not self._dispatch(connection, stream, reply, data):
            stream.handler = _Head(self, connection, stream, reply, data)

    def _dispatch(self, connection: Connection, stream: Stream, reply: bytes, data: bytes) -> bool:
        """Act on the stream's head; False while it is incomplete."""
        kind = data[0]
        if kind == wire.SESSION_KIND:
            muxed = MuxedStream(stream, connection.link)
            muxed.unread(data[1:])
            connection.node.spawn(self._authenticate(connection, muxed, reply))
            return True
        session = self._by_connection.get(connection)
        moved = session is not None and session.connection is not connection
        if moved and kind in (wire.OPEN_KIND, wire.RESUME_KIND):
            stream.handler = None  # said before the binder knew that we moved on: it says it again
            return True
        try:
            if kind == wire.OPEN_KIND and session is not None:
                if len(data) < wire.OPEN.size:
                    return False
                _, _, number, port = wire.OPEN.unpack_from(data)
                session.open(stream, number, port, reply, data[wire.OPEN.size :])
            elif kind == wire.RESUME_KIND and session is not None:
                if len(data) < wire.RESUME.size:
                    return False
                _, _, number, received = wire.RESUME.unpack_from(data)
                session.resume(stream, number, received, reply, data[wire.RESUME.size :])
            elif kind == wire.ATTACH_KIND:
                if len(data) < wire.ATTACH.size:
                    return False
                self._attach(connection, stream, reply, data)
            else:
                raise RemoteProtocolError("a stream before the session was authenticated")
        except RemoteProtocolError as error:
            stream.reset()
            self._on_reject(connection, str(error))
        return True

    def _allowed(self, connection: Connection) -> bool:
        return not self._allow or connection.peer_id in self._allow

    async def _authenticate(
        self, connection: Connection, stream: MuxedStream, reply: bytes
    ) -> None:
        loop = asyncio.get_running_loop()
        known = connection.peer_id in self._proved
        source = f"peer {connection.peer_id}" if known else connection.route.source
        if not self._allowed(connection):
            await stream.reset(authenticate.RESET_NOT_ALLOWED)
            self._on_reject(connection, "the peer is not on the --allow list")
            return
        taken = connection in self._by_connection
        full = len(self.sessions) >= MAX_SESSIONS and not self._make_room()
        if taken or full or not self._attempts.begin(source, loop.time()):
            await stream.reset(authenticate.RESET_BUSY)
            self._on_reject(connection, "too many attempts or sessions")
            return
        try:
            async with asyncio.timeout(AUTH_TIMEOUT):
                if reply:
                    await stream.write(reply)
                secret = await authenticate.grant_session(stream, connection, self._psk)
        except (PtError, TimeoutError) as error:
            code = authenticate.RESET_WRONG_NAME if isinstance(error, CryptoFailure) else 0
            await stream.reset(code)
            if isinstance(error, CryptoFailure):
                self._attempts.failed(source, loop.time())
            self._on_reject(connection, str(error) or "the authentication took too long")
            return
        finally:
            self._attempts.end(source)
        if connection.closed:
            return
        if connection in self._by_connection:
            connection.close("a second session on one connection")
            return
        self._proved[connection.peer_id] = None
        self._proved.move_to_end(connection.peer_id)
        if len(self._proved) > MAX_PROVED:
            self._proved.popitem(last=False)
        session = self._make(secret, connection)
        self.sessions[session.id] = session
        self._join(session, connection, stream.stream, stream.take_buffered(), resumed=False)

    def session_of(self, connection: Connection) -> ExposerSession | None:
        """Whose connection this is."""
        return self._by_connection.get(connection)

    def strangers(self, connections: Iterable[Connection]) -> list[Connection]:
        """Those of `connections` that were made to us long ago and are nobody's with a session.

        A stranger who keeps them, through a relay for instance, takes the places of binders.
        """
        now = asyncio.get_running_loop().time()
        guests = {session.remote for session in self.sessions.values()}
        return [
            each
            for each in connections
            if not each.initiator and now - each.since > GRACE and each.peer_id not in guests
        ]

    def _make_room(self) -> bool:
        """Give up a session that has neither path nor connections; whether there was one."""
        for number, session in self.sessions.items():
            if session.connection is None and not session.pumps:
                del self.sessions[number]
                session.end("room for others")
                return True
        return False

    def _attach(self, connection: Connection, stream: Stream, reply: bytes, data: bytes) -> None:
        _, session_id, proof = wire.ATTACH.unpack_from(data)
        session = self.sessions.get(session_id)
        if (
            session is None
            or session.ended
            or session.remote != connection.peer_id
            or not self._allowed(connection)
        ):
            answer = wire.ATTACH_ANSWER.pack(wire.Code.UNKNOWN, bytes(32))
            connection.link.send_small(stream, reply + answer)
            stream.close()
            stream.handler = None
            return
        answer = authenticate.grant_attach(connection, session.secret, proof)
        connection.link.send_small(stream, reply + answer)
        self._join(session, connection, stream, data[wire.ATTACH.size :], resumed=True)

    def _join(
        self,
        session: ExposerSession,
        connection: Connection,
        control: Stream,
        early: bytes,
        *,
        resumed: bool,
    ) -> None:
        previous = self._by_connection.get(connection)
        if previous is not None and previous is not session:
            connection.close("a second session on one connection")
            return
        if previous is None:
            self._by_connection[connection] = session
            connection.on_close.append(lambda _: self._left(connection))
        session.attach(connection, control, early)
        connection.link.flush()
        self._on_attached(session, connection, resumed)

    def _left(self, connection: Connection) -> None:
        self._by_connection.pop(connection, None)


class _Head:
    """Collects a stream's first bytes until they say what it is."""

    __slots__ = ("_connection", "_data", "_gate", "_reply", "_stream")

    def __init__(
        self, gate: Gate, connection: Connection, stream: Stream, reply: bytes, data: bytes
    ) -> None:
        self._gate = gate
        self._connection = connection
        self._stream = stream
        self._reply = reply
        self._data = data
        connection.node.watch_negotiation(self)

    def data_received(self, data: memoryview) -> None:
        self._stream.credit(len(data))
        self._data += bytes(data)
        if (
            not self._gate._dispatch(self._connection, self._stream, self._reply, self._data)
            and len(self._data) > MAX_HEAD
        ):
            self._stream.reset()

    @property
    def pending(self) -> bool:
        return self._stream.handler is self

    def expire(self) -> None:
        if self.pending:
            self._stream.reset()
            self._connection.link.flush()

    def eof_received(self) -> None:
        self._stream.reset()

    def window_opened(self) -> None:
        pass

    def stream_acked(self) -> None:
        pass

    def stream_lost(self, code: int | None) -> None:
        pass
