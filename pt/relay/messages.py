"""Messages of circuit relay v2: a hop protocol between client and relay, a stop protocol onwards.

    HopMessage{type=1: RESERVE 0 | CONNECT 1 | STATUS 2, peer=2?: Peer,
               reservation=3?: Reservation, limit=4?: Limit, status=5?: enum}
    StopMessage{type=1: CONNECT 0 | STATUS 1, peer=2?: Peer, limit=3?: Limit, status=4?: enum}
    Peer{id=1: bytes, addrs=2*: bytes}
    Reservation{expire=1: uint64 Unix s, addrs=2*: bytes, voucher=3?: bytes}
    Limit{duration=1?: uint32 s, data=2?: uint64 bytes}

Each is preceded by its length as a uvarint. Our raw circuits use the same messages with a further
field, `token=16?: bytes` (docs/design.md, "Relays"), which others skip.

Decoding is lenient where implementations differ: unknown fields, addresses and status numbers cost
nothing, an absent type is type 0. What a message has to contain is for its reader to check.

Source: libp2p specs `relay/circuit-v2.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pt.errors import LocalProtocolError, RemoteProtocolError
from pt.identity.peer_id import PeerId
from pt.wire import protobuf, uvarint
from pt.wire.multiaddr import Multiaddr, MultiaddrError

__all__ = [
    "AUTH",
    "HOP",
    "MAX_ADDRESSES",
    "MAX_MESSAGE",
    "RAW_HOP",
    "RAW_STOP",
    "STOP",
    "HopMessage",
    "HopType",
    "Limit",
    "MessageReader",
    "Peer",
    "RelayMessageError",
    "Reservation",
    "Status",
    "StopMessage",
    "StopType",
]

HOP: Final = "/libp2p/circuit/relay/0.2.0/hop"
STOP: Final = "/libp2p/circuit/relay/0.2.0/stop"
RAW_HOP: Final = "/peertunnel/relay/1.0.0/hop"
RAW_STOP: Final = "/peertunnel/relay/1.0.0/stop"
AUTH: Final = "/peertunnel/relay/1.0.0/auth"

MAX_MESSAGE: Final = 4096  # bytes without the length, as every implementation
MAX_ADDRESSES: Final = 32  # of a peer or a reservation; further ones are ignored
_MAX_UINT32: Final = 2**32 - 1
_TOKEN: Final = 16


class RelayMessageError(RemoteProtocolError):
    """The peer's message is malformed or too long, or says what cannot be true."""


class HopType(IntEnum):
    """What a hop message is."""

    RESERVE = 0
    CONNECT = 1
    STATUS = 2


class StopType(IntEnum):
    """What a stop message is."""

    CONNECT = 0
    STATUS = 1


class Status(IntEnum):
    """The outcome in a STATUS message; RAW_UNSUPPORTED is ours, all others are libp2p's."""

    UNUSED = 0
    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    RAW_UNSUPPORTED = 300
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


@dataclass(frozen=True, slots=True)
class Limit:
    """What a circuit may last (seconds) and carry (bytes, in each direction); 0: no such bound.

    A limit that is present makes the connection a limited one even if it is 0 and 0.
    """

    duration: int
    data: int

    def encode(self) -> bytes:
        """The embedded message; a bound of 0 is left out.

        Raises:
            LocalProtocolError: the duration exceeds 32 bits, or one is negative.

        """
        if self.duration > _MAX_UINT32:
            raise LocalProtocolError(f"a limit of {self.duration} s does not fit 32 bits")
        duration = protobuf.put_uint(1, self.duration) if self.duration else b""
        return duration + (protobuf.put_uint(2, self.data) if self.data else b"")

    @classmethod
    def decode(cls, body: bytes) -> Limit:
        """Read the embedded message; of the duration the low 32 bits count, as in protobuf."""
        fields = protobuf.Fields(body)
        return cls((fields.uint(1) or 0) & _MAX_UINT32, fields.uint(2) or 0)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is connected to, or who connects; the addresses are rarely said."""

    id: PeerId
    addresses: tuple[Multiaddr, ...] = ()

    def encode(self) -> bytes:
        """The embedded message."""
        return protobuf.put_bytes(1, self.id.raw) + _put_addresses(2, self.addresses)

    @classmethod
    def decode(cls, body: bytes) -> Peer:
        """Read the embedded message.

        Raises:
            RelayMessageError: there is no peer id, or it is none.

        """
        fields = protobuf.Fields(body)
        try:
            peer_id = PeerId(fields.bytes(1) or b"")
        except RemoteProtocolError as error:
            raise RelayMessageError(f"a peer without a peer id: {error}") from error
        return cls(peer_id, _addresses(fields.all_bytes(2)))


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a relay granted: until when (Unix time, seconds), and where it can be reached.

    Nothing is verified: `voucher` is a signed envelope (`pt.relay.voucher`), `expire` the relay's
    word.
    """

    expire: int
    addresses: tuple[Multiaddr, ...] = ()
    voucher: bytes | None = None

    def encode(self) -> bytes:
        """The embedded message."""
        out = protobuf.put_uint(1, self.expire) + _put_addresses(2, self.addresses)
        return out if self.voucher is None else out + protobuf.put_bytes(3, self.voucher)

    @classmethod
    def decode(cls, body: bytes) -> Reservation:
        """Read the embedded message; an absent expiry is 0."""
        fields = protobuf.Fields(body)
        return cls(fields.uint(1) or 0, _addresses(fields.all_bytes(2)), fields.bytes(3))


@dataclass(frozen=True, slots=True)
class HopMessage:
    """What client and relay say to each other; a type or status unknown here stays a number."""

    type: HopType | int
    peer: Peer | None = None
    reservation: Reservation | None = None
    limit: Limit | None = None
    status: Status | int | None = None
    token: bytes | None = None

    def encode(self) -> bytes:
        """The message with its length before it.

        Raises:
            LocalProtocolError: it is longer than MAX_MESSAGE: too many addresses.

        """
        parts = [protobuf.put_uint(1, self.type)]
        if self.peer is not None:
            parts.append(protobuf.put_bytes(2, self.peer.encode()))
        if self.reservation is not None:
            parts.append(protobuf.put_bytes(3, self.reservation.encode()))
        if self.limit is not None:
            parts.append(protobuf.put_bytes(4, self.limit.encode()))
        return _delimited([*parts, *_tail(5, self.status, self.token)])

    @classmethod
    def decode(cls, body: bytes) -> HopMessage:
        """Read a message without its length.

        Raises:
            RelayMessageError: malformed, or too long.

        """
        fields = _fields(body)
        peer, reservation, limit = fields.bytes(2), fields.bytes(3), fields.bytes(4)
        try:
            return cls(
                _hop_type(fields.uint(1) or 0),
                None if peer is None else Peer.decode(peer),
                None if reservation is None else Reservation.decode(reservation),
                None if limit is None else Limit.decode(limit),
                _status(fields.uint(5)),
                fields.bytes(_TOKEN),
            )
        except protobuf.ProtobufError as error:
            raise RelayMessageError(f"a malformed relay message: {error}") from error


@dataclass(frozen=True, slots=True)
class StopMessage:
    """What relay and target say to each other; a type or status unknown here stays a number."""

    type: StopType | int
    peer: Peer | None = None
    limit: Limit | None = None
    status: Status | int | None = None
    token: bytes | None = None

    def encode(self) -> bytes:
        """The message with its length before it.

        Raises:
            LocalProtocolError: it is longer than MAX_MESSAGE: too many addresses.

        """
        parts = [protobuf.put_uint(1, self.type)]
        if self.peer is not None:
            parts.append(protobuf.put_bytes(2, self.peer.encode()))
        if self.limit is not None:
            parts.append(protobuf.put_bytes(3, self.limit.encode()))
        return _delimited([*parts, *_tail(4, self.status, self.token)])

    @classmethod
    def decode(cls, body: bytes) -> StopMessage:
        """Read a message without its length.

        Raises:
            RelayMessageError: malformed, or too long.

        """
        fields = _fields(body)
        peer, limit = fields.bytes(2), fields.bytes(3)
        try:
            return cls(
                _stop_type(fields.uint(1) or 0),
                None if peer is None else Peer.decode(peer),
                None if limit is None else Limit.decode(limit),
                _status(fields.uint(4)),
                fields.bytes(_TOKEN),
            )
        except protobuf.ProtobufError as error:
            raise RelayMessageError(f"a malformed relay message: {error}") from error


class MessageReader:
    """Collects one message, whose last byte is the last one taken; the rest is `leftover`.

    What follows a message belongs to the circuit, so none of it may be lost.
    """

    __slots__ = ("_body", "_in")

    def __init__(self) -> None:
        self._in = bytearray()
        self._body: bytes | None = None

    def receive_data(self, data: bytes | memoryview) -> bytes | None:
        """Take bytes, split in any way; the message without its length once it is complete.

        Raises:
            RelayMessageError: the message is longer than MAX_MESSAGE, or its length is malformed.

        """
        self._in += data
        if self._body is None:
            try:
                size, start = uvarint.decode(self._in)
            except uvarint.Incomplete:
                return None
            except uvarint.UvarintError as error:
                raise RelayMessageError(f"a relay message with a bad length: {error}") from error
            if size > MAX_MESSAGE:
                raise RelayMessageError(f"a relay message of {size} bytes, over {MAX_MESSAGE}")
            if len(self._in) < start + size:
                return None
            self._body = bytes(self._in[start : start + size])
            del self._in[: start + size]
        return self._body

    def leftover(self) -> bytes:
        """Take what came after the message; b"" while it is incomplete."""
        if self._body is None:
            return b""
        rest = bytes(self._in)
        self._in.clear()
        return rest


def _fields(body: bytes) -> protobuf.Fields:
    if len(body) > MAX_MESSAGE:
        raise RelayMessageError(f"a relay message of {len(body)} bytes, over {MAX_MESSAGE}")
    try:
        return protobuf.Fields(body)
    except protobuf.ProtobufError as error:
        raise RelayMessageError(f"a malformed relay message: {error}") from error


def _delimited(parts: Iterable[bytes]) -> bytes:
    body = b"".join(parts)
    if len(body) > MAX_MESSAGE:
        raise LocalProtocolError(f"a relay message of {len(body)} bytes: use fewer addresses")
    return uvarint.prefix(body)


def _tail(field: int, status: int | None, token: bytes | None) -> Iterator[bytes]:
    if status is not None:
        yield protobuf.put_uint(field, status)
    if token is not None:
        yield protobuf.put_bytes(_TOKEN, token)


def _put_addresses(field: int, addresses: Iterable[Multiaddr]) -> bytes:
    return b"".join(protobuf.put_bytes(field, address.encode()) for address in addresses)


def _addresses(raw: Iterable[bytes]) -> tuple[Multiaddr, ...]:
    """Those that can be read, at most MAX_ADDRESSES."""
    found: list[Multiaddr] = []
    for one in raw:
        if len(found) == MAX_ADDRESSES:
            break
        try:
            found.append(Multiaddr.decode(one))
        except MultiaddrError:
            continue  # one unknown transport must not cost the others
    return tuple(found)


def _hop_type(value: int) -> HopType | int:
    try:
        return HopType(value)
    except ValueError:
        return value


def _stop_type(value: int) -> StopType | int:
    try:
        return StopType(value)
    except ValueError:
        return value


def _status(value: int | None) -> Status | int | None:
    if value is None:
        return None
    try:
        return Status(value)
    except ValueError:
        return value
