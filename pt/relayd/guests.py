"""Who is connected: users who proved the secret, holders of reservations, and notices to them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pt.identity.peer_id import PeerId
from pt.relay import raw
from pt.relay.aio import answer_auth, read_proof
from pt.relay.rates import Buckets
from pt.relay.raw import AuthAnswer, Notice
from pt.relay.registry import Grade

if TYPE_CHECKING:
    from pt.aio.muxed import MuxedStream
    from pt.muxer import Stream
    from pt.node.connection import Connection

__all__ = ["Guests"]

PROOF_TIMEOUT: Final = 10.0
WRONG_PROOFS: Final = 10
"""Wrong proofs a host may try in a minute."""
HOP_STREAMS: Final = 64
"""Requests of one connection that are being served; more are reset."""
USER_STREAMS: Final = 16384
"""Streams that a user may have open on one connection."""


class Guests:
    """Grades of connections; `key` None: nobody is a user by a secret."""

    def __init__(self, key: bytes | None, allow: frozenset[PeerId], *, private: bool) -> None:
        self.holders: dict[PeerId, Connection] = {}
        """The connection over which each holder of a reservation is reached."""
        self.on_left: Callable[[Connection, str], None] = lambda _connection, _reason: None
        """Told the end of each connection that is watched."""
        self._watched: set[Connection] = set()
        self._by_peer: dict[PeerId, list[Connection]] = {}
        self._key = key
        self._allow = allow
        self._private = private
        self._users: set[Connection] = set()
        self._controls: dict[Connection, Stream] = {}
        self._asking: Counter[Connection] = Counter()
        self._wrong = Buckets(WRONG_PROOFS)

    def reconfigure(self, key: bytes | None, allow: frozenset[PeerId], *, private: bool) -> None:
        """Set another secret and list; who proved the old secret stays a user while connected."""
        self._key = key
        self._allow = allow
        self._private = private

    def grade(self, connection: Connection) -> Grade:
        """How a connection's peer stands with the operator."""
        known = connection in self._users or connection.peer_id in self._allow
        return Grade.USER if known else Grade.STRANGER

    def watch(self, connection: Connection) -> None:
        """Keep what is known of a connection until it ends.

        Raises:
            ClosedError: it has ended already; nothing may be kept of it then.

        """
        connection.check_open()
        if connection not in self._watched:
            self._watched.add(connection)
            self._by_peer.setdefault(connection.peer_id, []).append(connection)
            connection.on_close.append(lambda reason: self._left(connection, reason))

    def connection_of(self, peer: PeerId) -> Connection | None:
        """The oldest open connection of a peer, if any is watched."""
        return next((one for one in self._by_peer.get(peer, ()) if not one.closed), None)

    def _left(self, connection: Connection, reason: str) -> None:
        self._watched.discard(connection)
        of_peer = self._by_peer[connection.peer_id]
        of_peer.remove(connection)
        if not of_peer:
            del self._by_peer[connection.peer_id]
        self._users.discard(connection)
        self._controls.pop(connection, None)
        self.on_left(connection, reason)

    # --- requests --------------------------------------------------------------------------------

    def begin(self, connection: Connection) -> bool:
        """Whether another request of this connection may be served now; `end` each that was."""
        if self._asking[connection] >= HOP_STREAMS:
            return False
        self._asking[connection] += 1
        return True

    def asking(self, connection: Connection) -> bool:
        """Whether a request of this connection is being served."""
        return connection in self._asking

    def end(self, connection: Connection) -> None:
        """A request was served."""
        self._asking[connection] -= 1
        if self._asking[connection] <= 0:
            del self._asking[connection]

    # --- users -----------------------------------------------------------------------------------

    async def authenticate(self, stream: MuxedStream, connection: Connection) -> str:
        """Serve an AUTH stream; why the proof was not accepted, empty if it was or none was given.

        Raises:
            PtError, TimeoutError: the client did not keep to the protocol, or is gone.

        """
        async with asyncio.timeout(PROOF_TIMEOUT):
            proof = await read_proof(stream)
            self.watch(connection)
            problem = self._prove(proof, connection)
            if self.grade(connection) is Grade.USER:
                connection.link.session.limits.streams = USER_STREAMS
                answer = AuthAnswer.USER
            else:
                answer = AuthAnswer.NOTHING if self._private else AuthAnswer.STRANGER
            await answer_auth(stream, answer)
        if stream.at_eof:
            return problem  # it does not want to hear anything
        connection.check_open()
        self._controls[connection] = stream.stream
        stream.stream.handler = _Silent(stream.stream)
        return problem

    def _prove(self, proof: bytes, connection: Connection) -> str:
        """Note who proved the secret; what was wrong, empty if nothing or none was given."""
        if proof == raw.NO_PROOF:
            return ""
        now = asyncio.get_running_loop().time()
        host = connection.route.source
        if not self._wrong.allows(host, now):
            return "too many wrong secrets from this host"
        if self._key is None or not raw.verify_proof(
            proof,
            self._key,
            client=connection.peer_id,
            relay=connection.node.peer_id,
            binding=connection.handshake_hash,
        ):
            self._wrong.count(host, now)
            return "a wrong secret"
        self._users.add(connection)
        return ""

    def say(self, notice: Notice) -> None:
        """Give notice to everybody who listens."""
        for connection, stream in list(self._controls.items()):
            if not stream.local_closed and not connection.closed and stream.send_window:
                connection.link.send_small(stream, bytes((notice,)))
                connection.link.flush()


class _Silent:
    """The client's direction of a control stream: nothing is expected, nothing is kept."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def data_received(self, data: memoryview) -> None:
        del data  # and no credit: a client that talks here runs out of window

    def eof_received(self) -> None:
        self._stream.close()

    def window_opened(self) -> None:
        pass

    def stream_acked(self) -> None:
        pass

    def stream_lost(self, code: int | None) -> None:
        pass
