"""NAT-PMP messages (RFC 6886): requests out, responses in, both ways for the laboratory."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address
from typing import Final

from pt.portmap.mapping import PortmapError, Wanted
from pt.wire.nat_facts import Protocol

__all__ = [
    "External",
    "Granted",
    "Request",
    "Response",
    "Result",
    "decode_request",
    "decode_response",
    "encode_response",
    "external_request",
    "map_request",
]

VERSION: Final = 0
MAX_MESSAGE: Final = 64
_CODE: Final = {Protocol.UDP: 1, Protocol.TCP: 2}
_PROTOCOL: Final = {code: protocol for protocol, code in _CODE.items()}
_MAP: Final = struct.Struct(">BBHHHI")
_HEAD: Final = struct.Struct(">BBHI")
_GRANTED: Final = struct.Struct(">HHI")


class Result(IntEnum):
    """Result codes (section 3.5)."""

    SUCCESS = 0
    UNSUPPORTED_VERSION = 1
    NOT_AUTHORIZED = 2
    NETWORK_FAILURE = 3
    OUT_OF_RESOURCES = 4
    UNSUPPORTED_OPCODE = 5


@dataclass(frozen=True, slots=True)
class External:
    """The gateway's external address."""

    host: str


@dataclass(frozen=True, slots=True)
class Granted:
    """A mapping, or the end of one (lifetime 0)."""

    wanted: Wanted
    port: int
    lifetime: int


@dataclass(frozen=True, slots=True)
class Response:
    """A response; `body` is None with an error."""

    opcode: int
    result: int
    epoch: int
    body: External | Granted | None = None

    @property
    def why(self) -> str:
        """The result's name."""
        known = self.result in Result.__members__.values()
        return Result(self.result).name if known else f"error {self.result}"


@dataclass(frozen=True, slots=True)
class Request:
    """A request; `wanted` None: for the external address."""

    wanted: Wanted | None
    port: int = 0
    lifetime: int = 0


def external_request() -> bytes:
    """Ask for the external address."""
    return bytes((VERSION, 0))


def map_request(wanted: Wanted, *, lifetime: int, port: int) -> bytes:
    """Ask for a mapping, to the external `port` if possible; lifetime 0 deletes it."""
    code = _CODE[wanted.protocol]
    return _MAP.pack(VERSION, code, 0, wanted.port, port if lifetime else 0, lifetime)


def decode_response(data: bytes) -> Response:
    """Read a response.

    Raises:
        PortmapError: it is none.

    """
    if not _HEAD.size <= len(data) <= MAX_MESSAGE:
        raise PortmapError(f"{len(data)} bytes are no NAT-PMP response")
    version, opcode, result, epoch = _HEAD.unpack_from(data)
    if version != VERSION or not opcode & 0x80:
        raise PortmapError("no NAT-PMP response")
    opcode &= 0x7F
    rest = data[_HEAD.size :]
    if result:
        return Response(opcode, result, epoch)
    if opcode == 0 and len(rest) >= 4:
        return Response(opcode, result, epoch, External(str(IPv4Address(rest[:4]))))
    if opcode in _PROTOCOL and len(rest) >= _GRANTED.size:
        internal, external, lifetime = _GRANTED.unpack_from(rest)
        granted = Granted(Wanted(_PROTOCOL[opcode], internal), external, lifetime)
        return Response(opcode, result, epoch, granted)
    raise PortmapError("a NAT-PMP response that is cut short, or to nothing that was asked")


def decode_request(data: bytes) -> Request:
    """Read a request, as a gateway does.

    Raises:
        PortmapError: it is none.

    """
    if data == external_request():
        return Request(None)
    if len(data) != _MAP.size or data[0] != VERSION or data[1] not in _PROTOCOL:
        raise PortmapError("no NAT-PMP request")
    _, code, _, internal, external, lifetime = _MAP.unpack(data)
    return Request(Wanted(_PROTOCOL[code], internal), external, lifetime)


def encode_response(response: Response) -> bytes:
    """Write a response."""
    head = _HEAD.pack(VERSION, response.opcode | 0x80, response.result, response.epoch)
    match response.body:
        case External(host):
            return head + IPv4Address(host).packed
        case Granted(wanted, port, lifetime):
            return head + _GRANTED.pack(wanted.port, port, lifetime)
        case None:
            return head
