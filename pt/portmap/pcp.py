"""PCP messages (RFC 6887): ANNOUNCE and MAP, requests out, responses in."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address, ip_address
from typing import Final

from pt.portmap.mapping import PortmapError, Wanted
from pt.wire.nat_facts import Protocol

__all__ = [
    "ANNOUNCE",
    "MAP",
    "MAX_MESSAGE",
    "NONCE",
    "PORT",
    "VERSION",
    "Response",
    "Result",
    "announce_request",
    "decode_request",
    "decode_response",
    "encode_response",
    "map_request",
    "speaks_older",
]

VERSION: Final = 2
PORT: Final = 5351
MAX_MESSAGE: Final = 1100
NONCE: Final = 12
"""Bytes: it proves that who renews or deletes a mapping is who made it."""
ANNOUNCE: Final = 0
MAP: Final = 1
_REQUEST: Final = struct.Struct(">BBHI16s")
_RESPONSE: Final = struct.Struct(">BBBBII12x")
_MAP: Final = struct.Struct(">12sB3xHH16s")
_NUMBER: Final = {Protocol.UDP: 17, Protocol.TCP: 6}
_PROTOCOL: Final = {number: protocol for protocol, number in _NUMBER.items()}


class Result(IntEnum):
    """Result codes (section 7.4)."""

    SUCCESS = 0
    UNSUPP_VERSION = 1
    NOT_AUTHORIZED = 2
    MALFORMED_REQUEST = 3
    UNSUPP_OPCODE = 4
    UNSUPP_OPTION = 5
    MALFORMED_OPTION = 6
    NETWORK_FAILURE = 7
    NO_RESOURCES = 8
    UNSUPP_PROTOCOL = 9
    USER_EX_QUOTA = 10
    CANNOT_PROVIDE_EXTERNAL = 11
    ADDRESS_MISMATCH = 12
    EXCESSIVE_REMOTE_PEERS = 13


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A response; `lifetime` of an error says for how long it holds.  The rest is of MAP alone."""

    opcode: int
    result: int
    lifetime: int
    epoch: int
    nonce: bytes = b""
    wanted: Wanted | None = None
    external: tuple[str, int] = ("::", 0)

    @property
    def why(self) -> str:
        """The result's name."""
        known = self.result in Result.__members__.values()
        return Result(self.result).name if known else f"error {self.result}"


def packed(host: str) -> bytes:
    """An address in PCP's 16 bytes, IPv4 mapped."""
    address = ip_address(host)
    return b"\0" * 10 + b"\xff\xff" + address.packed if address.version == 4 else address.packed


def unpacked(data: bytes) -> str:
    """The reverse."""
    address = IPv6Address(data)
    return str(address.ipv4_mapped or address)


def announce_request(client: str) -> bytes:
    """Ask for the epoch; `client` is the address that the packet leaves from."""
    return _REQUEST.pack(VERSION, ANNOUNCE, 0, 0, packed(client))


def map_request(
    client: str, wanted: Wanted, nonce: bytes, *, lifetime: int, external: tuple[str, int]
) -> bytes:
    """Ask for a mapping, `external` if possible (port 0: any); lifetime 0 deletes it."""
    return _REQUEST.pack(VERSION, MAP, 0, lifetime, packed(client)) + _MAP.pack(
        nonce, _NUMBER[wanted.protocol], wanted.port, external[1], packed(external[0])
    )


def speaks_older(data: bytes) -> bool:
    """Whether this says that the gateway knows NAT-PMP only (RFC 6887, appendix A)."""
    return len(data) >= 4 and data[0] == 0 and data[2:4] == b"\0\1"


def decode_response(data: bytes) -> Response:
    """Read a response; options are not looked at.

    Raises:
        PortmapError: it is none.

    """
    if not _RESPONSE.size <= len(data) <= MAX_MESSAGE or len(data) % 4:
        raise PortmapError(f"{len(data)} bytes are no PCP response")
    version, opcode, _, result, lifetime, epoch = _RESPONSE.unpack_from(data)
    if version != VERSION or not opcode & 0x80:
        raise PortmapError("no PCP response of version 2")
    opcode &= 0x7F
    plain = Response(opcode=opcode, result=result, lifetime=lifetime, epoch=epoch)
    if opcode != MAP:
        return plain
    if len(data) < _RESPONSE.size + _MAP.size:
        if result:
            return plain
        raise PortmapError("a PCP response to MAP without its data")
    nonce, number, internal, external, host = _MAP.unpack_from(data, _RESPONSE.size)
    protocol = _PROTOCOL.get(number)
    return Response(
        opcode=opcode,
        result=result,
        lifetime=lifetime,
        epoch=epoch,
        nonce=nonce,
        wanted=None if protocol is None else Wanted(protocol, internal),
        external=(unpacked(host), external),
    )


# --- the gateway's side, of the laboratory ------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as a gateway reads it."""

    opcode: int
    lifetime: int
    client: str
    nonce: bytes = b""
    wanted: Wanted | None = None
    external: tuple[str, int] = ("::", 0)


def decode_request(data: bytes) -> Request:
    """Read a request.

    Raises:
        PortmapError: it is none.

    """
    if not _REQUEST.size <= len(data) <= MAX_MESSAGE or len(data) % 4:
        raise PortmapError(f"{len(data)} bytes are no PCP request")
    version, opcode, _, lifetime, client = _REQUEST.unpack_from(data)
    if version != VERSION or opcode & 0x80:
        raise PortmapError("no PCP request of version 2")
    plain = Request(opcode=opcode, lifetime=lifetime, client=unpacked(client))
    if opcode != MAP or len(data) < _REQUEST.size + _MAP.size:
        return plain
    nonce, number, internal, external, host = _MAP.unpack_from(data, _REQUEST.size)
    protocol = _PROTOCOL.get(number)
    return Request(
        opcode=opcode,
        lifetime=lifetime,
        client=plain.client,
        nonce=nonce,
        wanted=None if protocol is None else Wanted(protocol, internal),
        external=(unpacked(host), external),
    )


def encode_response(response: Response) -> bytes:
    """Write a response."""
    head = _RESPONSE.pack(
        VERSION, response.opcode | 0x80, 0, response.result, response.lifetime, response.epoch
    )
    wanted = response.wanted
    if response.opcode != MAP or wanted is None:
        return head
    return head + _MAP.pack(
        response.nonce,
        _NUMBER[wanted.protocol],
        wanted.port,
        response.external[1],
        packed(response.external[0]),
    )
