"""multistream-select 1.0: two peers agree on a protocol for a connection or a stream.

A token is an unsigned varint length, text, and a newline that the length counts.  Each side sends
the header token once; the initiator proposes, the responder echoes a proposal it takes or answers
`na`.  What follows the agreement belongs to the protocol: `leftover`.

Source: libp2p specs `connections/README.md`, section Protocol Negotiation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from pt.errors import LocalProtocolError, RemoteProtocolError
from pt.wire import uvarint

__all__ = [
    "HEADER",
    "MAX_PROPOSALS",
    "MAX_TOKEN",
    "NOT_AVAILABLE",
    "Initiator",
    "Responder",
    "UnsupportedError",
    "accept_reply",
    "encode_token",
    "lazy_open",
]

HEADER: Final = "/multistream/1.0.0"
NOT_AVAILABLE: Final = "na"
MAX_TOKEN: Final = 1024  # bytes with the newline: the longest that Go and js read
MAX_PROPOSALS: Final = 64  # a peer that was refused this often is not negotiating


class UnsupportedError(RemoteProtocolError):
    """The peer speaks none of the protocols we proposed."""


@lru_cache(maxsize=64)
def encode_token(text: str) -> bytes:
    """`text` as a token on the wire.

    Raises:
        LocalProtocolError: `text` is empty, has a newline, or is too long.

    """
    raw = text.encode() + b"\n"
    if len(raw) == 1 or b"\n" in raw[:-1] or len(raw) > MAX_TOKEN:
        raise LocalProtocolError(f"not a protocol id: {text[:64]!r}")
    return uvarint.encode(len(raw)) + raw


def lazy_open(protocol: str) -> bytes:
    """Header and proposal, to be sent at once with the first data to a peer known to support it.

    The peer's header and echo still come first on the way back: read them with an `Initiator` of
    this one protocol, whose own output is to be thrown away.
    """
    return encode_token(HEADER) + encode_token(protocol)


def accept_reply(protocol: str) -> bytes:
    """Header and echo: the whole answer of a responder that takes the first proposal."""
    return encode_token(HEADER) + encode_token(protocol)


class _Negotiation:
    """What both roles share: token framing, output, and the end."""

    __slots__ = ("_broken", "_header_seen", "_in", "_out", "failed", "result")

    def __init__(self) -> None:
        self.result: str | None = None
        self.failed = False
        self._in = bytearray()
        self._out = bytearray(encode_token(HEADER))
        self._header_seen = False
        self._broken = False

    @property
    def done(self) -> bool:
        """Whether the negotiation is over, well (`result`) or not (`failed`)."""
        return self.result is not None or self.failed

    def receive_data(self, data: bytes | memoryview) -> None:
        """Take bytes from the peer, split in any way; surplus bytes are kept for `leftover`.

        Raises:
            RemoteProtocolError: the peer breaks the protocol; close the stream or connection.

        """
        if self._broken:
            raise LocalProtocolError("the negotiation was broken off; close the stream")
        self._in += data
        try:
            while not self.done and (token := self._next_token()) is not None:
                if self._header_seen:
                    self._handle(token)
                elif token == HEADER:
                    self._header_seen = True
                else:
                    raise RemoteProtocolError("the peer does not speak multistream-select 1.0")
        except RemoteProtocolError:
            self._broken = True
            raise

    def data_to_send(self) -> bytes:
        """The bytes to write now; each is returned once."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def leftover(self) -> bytes:
        """Bytes received after the agreement; each is returned once."""
        if not self.done:
            return b""
        rest = bytes(self._in)
        self._in.clear()
        return rest

    def _handle(self, token: str) -> None:
        raise NotImplementedError

    def _next_token(self) -> str | None:
        try:
            size, start = uvarint.decode(self._in)
        except uvarint.Incomplete:
            return None
        if not 0 < size <= MAX_TOKEN:
            raise RemoteProtocolError(
                f"a protocol id of {size} bytes; 1 to {MAX_TOKEN} are allowed"
            )
        end = start + size
        if len(self._in) < end:
            return None
        raw = bytes(self._in[start:end])
        del self._in[:end]
        if raw[-1:] != b"\n":
            raise RemoteProtocolError("a protocol id does not end with a newline")
        try:
            return raw[:-1].decode()
        except UnicodeDecodeError as error:
            raise RemoteProtocolError("a protocol id is not UTF-8") from error


class Initiator(_Negotiation):
    """Proposes `protocols`, most wanted first, until the peer takes one.

    `failed` is set when the peer has refused them all.

    Raises:
        LocalProtocolError: there is nothing to propose, or a protocol id is malformed.

    """

    __slots__ = ("_proposed", "_waiting")

    def __init__(self, protocols: Sequence[str]) -> None:
        super().__init__()
        if not protocols:
            raise LocalProtocolError("there is no protocol to propose")
        for protocol in protocols:
            encode_token(protocol)
        self._proposed = protocols[0]
        self._waiting = list(protocols[1:])
        self._out += encode_token(self._proposed)

    def _handle(self, token: str) -> None:
        if token == self._proposed:
            self.result = token
        elif token != NOT_AVAILABLE:
            raise RemoteProtocolError(f"answer {token[:64]!r} to proposal {self._proposed!r}")
        elif self._waiting:
            self._proposed = self._waiting.pop(0)
            self._out += encode_token(self._proposed)
        else:
            self.failed = True


class Responder(_Negotiation):
    """Takes the first proposal for which `supported` is true; refuses the others.

    It never fails by itself: the peer gives up, or breaks the protocol.
    """

    __slots__ = ("_refused", "_supported")

    def __init__(self, supported: Callable[[str], bool]) -> None:
        super().__init__()
        self._supported = supported
        self._refused = 0

    def _handle(self, token: str) -> None:
        if token and self._supported(token):
            self.result = token
            self._out += encode_token(token)
            return
        self._refused += 1
        if self._refused >= MAX_PROPOSALS:
            raise RemoteProtocolError(f"the peer made {MAX_PROPOSALS} proposals, none known here")
        self._out += encode_token(NOT_AVAILABLE)
