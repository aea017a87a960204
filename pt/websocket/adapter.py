"""One WebSocket connection without I/O: the library `websockets` behind a byte stream's face.

Source: RFC 6455; libp2p specs `websockets/README.md`: binary messages carry the bytes of the
connection, whose boundaries mean nothing: one Noise message may span several and the reverse.
So payloads are handed on frame by frame, and no message is ever put together.

Bounds: the upgrade is at most `MAX_HANDSHAKE` bytes long, a frame carries at most `MAX_FRAME`
(both received), and only the latest ping is answered while the network takes nothing, as
RFC 6455 §5.5.3 permits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self, TypeAlias

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import Event, State
from websockets.server import ServerProtocol
from websockets.uri import WebSocketURI

from pt.errors import RemoteProtocolError

__all__ = ["MAX_FRAME", "MAX_HANDSHAKE", "MAX_SENT_FRAME", "WebSocket", "WebSocketError"]

MAX_FRAME: Final = 1024 * 1024
"""Longest payload of a frame that a peer may send."""
MAX_SENT_FRAME: Final = 64 * 1024
"""Longest payload of a frame that we send."""
MAX_HANDSHAKE: Final = 16 * 1024
"""Longest HTTP request or answer of an upgrade."""
Payload: TypeAlias = bytes | bytearray | memoryview
_END_OF_HEAD: Final = b"\r\n\r\n"
_PONG: Final = 0x80 | Opcode.PONG
_SIZES: Final = (None, MAX_FRAME)
"""Of messages and of frames."""


class WebSocketError(RemoteProtocolError):
    """The peer does not speak WebSocket, or breaks its rules.  What is to be sent stays valid."""


class WebSocket:
    """Either end.  Feed what arrives to `receive_data`, send what `data_to_send` returns."""

    __slots__ = ("_head", "_pong", "_protocol", "_received", "_writes", "ended", "opened", "over")

    def __init__(self, protocol: ServerProtocol | ClientProtocol) -> None:
        self.opened = False
        """The upgrade is done."""
        self.ended = False
        """The peer sends no more payload."""
        self.over = False
        """Once everything is sent, our end of the connection is to be closed."""
        self._protocol = protocol
        self._head = bytearray()
        self._received = 0
        self._writes: list[bytes] = []
        self._pong = b""

    @classmethod
    def server(cls) -> Self:
        """Return the end that is asked to upgrade, at whatever path and from whatever origin."""
        return cls(ServerProtocol(max_size=_SIZES))

    @classmethod
    def client(cls, host: str, port: int, *, secure: bool) -> Self:
        """Return the end that asks; its request is to be sent at once.

        `host` and `port` only name the server to itself; `secure` tells whether TLS is below.
        """
        protocol = ClientProtocol(
            WebSocketURI(secure, host, port, "/", "", None, None), max_size=_SIZES
        )
        protocol.send_request(protocol.connect())
        end = cls(protocol)
        end._collect()
        return end

    # --- received ------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> list[Payload]:
        """Take bytes from the network, return the payload that they complete.

        After the end, and after an error, bytes are dropped.

        Raises:
            WebSocketError: the peer is no WebSocket, or broke a rule.

        """
        if self.ended:
            return []
        try:
            if self.opened:
                self._protocol.receive_data(data)
                return self._payload(self._protocol.events_received())
            if isinstance(self._protocol, ServerProtocol):
                return self._receive_request(self._protocol, data)
            return self._receive_answer(self._protocol, data)
        except WebSocketError:
            self.ended = True
            raise
        finally:
            self._collect()

    def receive_eof(self) -> None:
        """Take the end of what the network sends."""
        self.ended = True
        self._protocol.receive_eof()
        self._collect()
        self.over = True

    def _receive_request(self, protocol: ServerProtocol, data: bytes) -> list[Payload]:
        """Answer the upgrade; frames that came along are parsed after the answer only."""
        head = self._head
        head += data
        end = head.find(_END_OF_HEAD, max(0, len(head) - len(data) - len(_END_OF_HEAD)))
        if end > MAX_HANDSHAKE or (end < 0 and len(head) > MAX_HANDSHAKE):
            protocol.send_response(protocol.reject(431, "The request is too long.\n"))
            raise WebSocketError(f"a request of more than {MAX_HANDSHAKE} bytes")
        if end < 0:
            return []
        end += len(_END_OF_HEAD)
        protocol.receive_data(bytes(head[:end]))
        rest = bytes(head[end:])
        head.clear()
        for event in protocol.events_received():
            assert isinstance(event, Request)
            protocol.send_response(protocol.accept(event))
        if protocol.handshake_exc is not None:
            raise WebSocketError(f"not a WebSocket upgrade: {_cause(protocol.handshake_exc)}")
        self.opened = True
        protocol.receive_data(rest)
        return self._payload(protocol.events_received())

    def _receive_answer(self, protocol: ClientProtocol, data: bytes) -> list[Payload]:
        protocol.receive_data(data)
        self._received += len(data)
        if protocol.handshake_exc is not None:
            if isinstance(protocol.handshake_exc, InvalidStatus):
                status = protocol.handshake_exc.response.status_code
                raise WebSocketError(f"no WebSocket there: it answers with HTTP status {status}")
            raise WebSocketError(f"no WebSocket there: {_cause(protocol.handshake_exc)}")
        if protocol.state is State.CONNECTING:
            if self._received > MAX_HANDSHAKE:
                raise WebSocketError(f"no WebSocket there: it answers with over {MAX_HANDSHAKE} B")
            return []
        self.opened = True
        _answer, *frames = protocol.events_received()
        return self._payload(frames)

    def _payload(self, frames: Sequence[Event]) -> list[Payload]:
        protocol = self._protocol
        payload: list[Payload] = []
        for frame in frames:
            assert isinstance(frame, Frame)
            if frame.opcode is Opcode.TEXT:
                if protocol.state is State.OPEN:
                    protocol.fail(CloseCode.UNSUPPORTED_DATA, "binary messages only")
                raise WebSocketError("a text message: libp2p's are binary")
            if frame.opcode in (Opcode.BINARY, Opcode.CONT) and frame.data:
                payload.append(frame.data)
        if protocol.parser_exc is not None:
            # What the same bytes brought before the mistake is given up with the connection.
            raise WebSocketError(f"broken WebSocket: {_cause(protocol.parser_exc)}")
        self.ended = protocol.close_rcvd is not None
        return payload

    # --- sent ----------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send payload; dropped once either end has closed."""
        view = memoryview(data)
        if self._protocol.state is State.OPEN:
            for start in range(0, len(view), MAX_SENT_FRAME):
                self._protocol.send_binary(view[start : start + MAX_SENT_FRAME])
            self._collect()

    def close(self, code: int = CloseCode.NORMAL_CLOSURE) -> None:
        """Send no more payload; the peer answers by ending, too.  Idempotent."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code)
            self._collect()

    def _collect(self) -> None:
        for data in self._protocol.data_to_send():
            if not data:
                self.over = True
            elif self.opened and data[0] == _PONG:
                self._pong = data
            else:
                self._writes.append(data)

    def data_to_send(self, *, room: bool = True) -> list[bytes]:
        """Take what is to be sent now; the answer to a ping waits until there is `room`."""
        writes = self._writes
        if self._pong and (room or writes):
            if self._protocol.state is State.OPEN:
                writes.append(self._pong)
            self._pong = b""
        self._writes = []
        return writes


def _cause(error: BaseException) -> str:
    """What went wrong in the first place, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).partition("\n")[0] or type(error).__name__
