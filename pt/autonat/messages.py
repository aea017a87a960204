"""Messages of AutoNAT v2, each with its length as a uvarint before it.

    Message oneof {dialRequest=1: {addrs=1*: bytes, nonce=2: fixed64},
                   dialResponse=2: {status=1: enum, addrIdx=2: uint32, dialStatus=3: enum},
                   dialDataRequest=3: {addrIdx=1: uint32, numBytes=2: uint64},
                   dialDataResponse=4: {data=1: bytes}}
    DialBack{nonce=1: fixed64}        DialBackResponse{status=1: OK 0}

Source: libp2p specs `autonat/autonat-v2.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

from pt.errors import RemoteProtocolError
from pt.wire import protobuf, uvarint
from pt.wire.multiaddr import Multiaddr, MultiaddrError

__all__ = [
    "DIAL_BACK",
    "DIAL_REQUEST",
    "MAX_ADDRESSES",
    "MAX_DATA",
    "MAX_DIAL_BACK",
    "MAX_MESSAGE",
    "MIN_DATA",
    "AutonatError",
    "DialData",
    "DialDataRequest",
    "DialRequest",
    "DialResponse",
    "DialStatus",
    "Message",
    "Status",
    "decode_dial_back",
    "decode_dial_back_response",
    "decode_message",
    "encode_dial_back",
    "encode_dial_back_response",
]

DIAL_REQUEST: Final = "/libp2p/autonat/2/dial-request"
DIAL_BACK: Final = "/libp2p/autonat/2/dial-back"

MAX_MESSAGE: Final = 8192
MAX_DIAL_BACK: Final = 64
"""Both messages of the dial-back protocol are shorter."""
MAX_ADDRESSES: Final = 50
"""Of a request that are looked at."""
MIN_DATA: Final = 30_000
MAX_DATA: Final = 100_000
"""Bytes that a server may ask for before it dials an address that is not where the client is."""


class AutonatError(RemoteProtocolError):
    """The peer's message is malformed, comes at the wrong time, or asks for too much."""


class Status(IntEnum):
    """What became of a request."""

    INTERNAL_ERROR = 0
    REQUEST_REJECTED = 100
    """Too many requests."""
    DIAL_REFUSED = 101
    """None of the addresses is dialed by this server."""
    OK = 200


class DialStatus(IntEnum):
    """What became of the dial."""

    UNUSED = 0
    DIAL_ERROR = 100
    """No connection."""
    DIAL_BACK_ERROR = 101
    """A connection, but the nonce could not be delivered on it."""
    OK = 200


@dataclass(frozen=True, slots=True)
class DialRequest:
    """Addresses in the order of interest; those that cannot be read are None, to keep indexes."""

    addresses: tuple[Multiaddr | None, ...]
    nonce: int

    def encode(self) -> bytes:
        """The message with its length before it."""
        parts = [protobuf.put_bytes(1, each.encode()) for each in self.addresses if each]
        parts.append(protobuf.put_fixed64(2, self.nonce))
        return _message(1, b"".join(parts))


@dataclass(frozen=True, slots=True)
class DialResponse:
    """The end of a request; numbers unknown here count as errors."""

    status: Status
    index: int = 0
    dial_status: DialStatus = DialStatus.UNUSED

    def encode(self) -> bytes:
        """The message with its length before it; zeros are left out."""
        values = ((1, self.status), (2, self.index), (3, self.dial_status))
        return _message(2, b"".join(protobuf.put_uint(n, value) for n, value in values if value))


@dataclass(frozen=True, slots=True)
class DialDataRequest:
    """The server wants to be sent so many bytes before it dials."""

    index: int
    count: int

    def encode(self) -> bytes:
        """The message with its length before it."""
        index = protobuf.put_uint(1, self.index) if self.index else b""
        return _message(3, index + protobuf.put_uint(2, self.count))


@dataclass(frozen=True, slots=True)
class DialData:
    """Bytes that pay for a dial."""

    data: bytes

    def encode(self) -> bytes:
        """The message with its length before it."""
        return _message(4, protobuf.put_bytes(1, self.data))


Message: TypeAlias = DialRequest | DialResponse | DialDataRequest | DialData


def decode_message(body: bytes) -> Message:
    """Read a message without its length.

    Raises:
        AutonatError: malformed, or none of the four.

    """
    fields = _fields(body)
    try:
        if (request := fields.bytes(1)) is not None:
            return _request(protobuf.Fields(request, 256))
        if (response := fields.bytes(2)) is not None:
            return _response(protobuf.Fields(response, 16))
        if (wish := fields.bytes(3)) is not None:
            wanted = protobuf.Fields(wish, 16)
            return DialDataRequest(wanted.uint(1) or 0, wanted.uint(2) or 0)
        if (data := fields.bytes(4)) is not None:
            return DialData(protobuf.Fields(data, 16).bytes(1) or b"")
    except protobuf.ProtobufError as error:
        raise AutonatError(f"a malformed AutoNAT message: {error}") from error
    raise AutonatError("an AutoNAT message of no known kind")


def _request(fields: protobuf.Fields) -> DialRequest:
    nonce = fields.fixed64(2)
    if nonce is None:
        raise AutonatError("a request to dial without a nonce")
    addresses: list[Multiaddr | None] = []
    for raw in fields.all_bytes(1)[:MAX_ADDRESSES]:
        try:
            addresses.append(Multiaddr.decode(raw))
        except MultiaddrError:
            addresses.append(None)
    return DialRequest(tuple(addresses), nonce)


def _response(fields: protobuf.Fields) -> DialResponse:
    try:
        status = Status(fields.uint(1) or 0)
    except ValueError:
        status = Status.INTERNAL_ERROR
    try:
        dial_status = DialStatus(fields.uint(3) or 0)
    except ValueError:
        dial_status = DialStatus.UNUSED
    return DialResponse(status, fields.uint(2) or 0, dial_status)


def encode_dial_back(nonce: int) -> bytes:
    """DialBack, with its length."""
    return uvarint.prefix(protobuf.put_fixed64(1, nonce))


def decode_dial_back(body: bytes) -> int:
    """The nonce of a DialBack.

    Raises:
        AutonatError: malformed, or without one.

    """
    nonce = _fields(body).fixed64(1)
    if nonce is None:
        raise AutonatError("a dial back without a nonce")
    return nonce


def encode_dial_back_response() -> bytes:
    """DialBackResponse, with its length: its only status is 0, which is not written."""
    return uvarint.prefix(b"")


def decode_dial_back_response(body: bytes) -> bool:
    """Whether the client has taken the nonce.

    Raises:
        AutonatError: malformed.

    """
    return not _fields(body).uint(1)


def _fields(body: bytes) -> protobuf.Fields:
    try:
        return protobuf.Fields(body, 16)
    except protobuf.ProtobufError as error:
        raise AutonatError(f"a malformed AutoNAT message: {error}") from error


def _message(field: int, body: bytes) -> bytes:
    return uvarint.prefix(protobuf.put_bytes(field, body))
