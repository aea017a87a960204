"""ATTACH without waiting for its answer: RESUME goes along, which saves a round trip.

For a connection on which frames arrive in the order in which they were sent, that is any but QUIC.
Nothing that the exposer says of a stream counts before its proof.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pt.errors import ClosedError, CryptoFailure, PtError, RemoteProtocolError
from pt.multistream.negotiation import accept_reply, lazy_open
from pt.tunnel import authenticate
from pt.tunnel.core import messages as wire

if TYPE_CHECKING:
    from pt.muxer import Stream
    from pt.node.connection import Connection
    from pt.tunnel.session import BinderSession

__all__ = ["attach_early"]

_OPENING: Final = lazy_open(wire.PROTOCOL)
_REPLY: Final = accept_reply(wire.PROTOCOL)


def attach_early(session: BinderSession, connection: Connection) -> asyncio.Future[None]:
    """Move `session` to `connection` now; the future is done when the exposer has proved itself.

    It fails with a `PtError` otherwise: then the connection is of no use.
    """
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    control = connection.new_stream()
    attach = authenticate.attach_message(connection, session.secret)
    connection.link.send_small(control, _OPENING + attach)
    session.attach(connection, control, b"", proved=False)
    control.handler = _Answer(session, connection, control, done)
    return done


class _Answer:
    """The control stream until the answer is complete."""

    __slots__ = ("_connection", "_data", "_done", "_session", "_stream")

    def __init__(
        self,
        session: BinderSession,
        connection: Connection,
        stream: Stream,
        done: asyncio.Future[None],
    ) -> None:
        self._session = session
        self._connection = connection
        self._stream = stream
        self._done = done
        self._data = b""

    def data_received(self, data: memoryview) -> None:
        self._stream.credit(len(data))
        self._data += bytes(data)
        start, stop = len(_REPLY), len(_REPLY) + wire.ATTACH_ANSWER.size
        if self._data[:start] != _REPLY[: len(self._data)]:
            self._fail(RemoteProtocolError("the peer does not speak this protocol"))
            return
        if len(self._data) < stop:
            return
        try:
            known = authenticate.check_attach_answer(
                self._connection, self._session.secret, self._data[start:stop]
            )
        except CryptoFailure as error:
            self._fail(error)
            return
        if not known:
            self._fail(ClosedError("the exposer knows the session no more"))
            return
        self._session.confirm(self._stream, self._data[stop:])
        if not self._done.done():
            self._done.set_result(None)

    def _fail(self, error: PtError) -> None:
        self._stream.handler = None
        if not self._done.done():
            self._done.set_exception(error)

    def eof_received(self) -> None:
        self._fail(ClosedError("the peer ended the stream instead of answering"))

    def window_opened(self) -> None:
        pass

    def stream_acked(self) -> None:
        pass

    def stream_lost(self, code: int | None) -> None:
        self._fail(ClosedError("the stream was lost" if code is None else "the peer refused"))
