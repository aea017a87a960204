"""What a gateway answers who asks for port mappings: NAT-PMP (RFC 6886), PCP (RFC 6887).

NAT-PMP  00 OP 0000 internal:2 external:2 lifetime:4
→  00 80|OP result:2 epoch:4 (address:4 | internal:2 external:2 lifetime:4)
PCP      02 01 0000 lifetime:4 client:16 nonce:12 protocol 000000 internal:2 external:2 address:16
→  02 81 00 result lifetime:4 epoch:4 0:12 nonce:12 protocol 000000 internal:2 external:2
address:16
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from pt.lab.model.packet import TCP, UDP, Endpoint

__all__ = ["MAX_LIFETIME", "PORT", "answer"]

PORT: Final = 5351
MAX_LIFETIME: Final = 7200
"""Seconds that are granted at most."""
_PMP_PROTOCOLS: Final = {1: UDP, 2: TCP}
_MAPPED: Final = bytes(10) + b"\xff\xff"

Map = Callable[[int, Endpoint, int, int], int | None]
"""(protocol, internal, wanted port, lifetime; 0 ends it) → the outer port, or None."""


def answer(
    data: bytes, client: bytes, outer: bytes, epoch: int, grant: Map, *, speaks: str
) -> bytes | None:
    """Return the answer to a datagram from `client`, None if it deserves none.

    speaks: on, pmp or pcp, that is both protocols or only one.
    """
    if len(data) < 2 or data[1] & 0x80:
        return None
    if data[0] == 0 and speaks != "pcp":
        return _pmp(data, client, outer, epoch, grant)
    if data[0] == 2 and speaks != "pmp":
        return _pcp(data, client, outer, epoch, grant)
    if speaks == "pmp":  # RFC 6887, appendix A: how a client notices that it has to step down
        return struct.pack(">BBHI", 0, data[1] | 0x80, 1, epoch)
    return struct.pack(">BBBBII12x", 2, data[1] | 0x80, 0, 1, 0, epoch)  # UNSUPP_VERSION


def _pmp(data: bytes, client: bytes, outer: bytes, epoch: int, grant: Map) -> bytes | None:
    operation = data[1]
    if operation == 0 and len(data) >= 2:
        return struct.pack(">BBHI", 0, 128, 0, epoch) + outer
    protocol = _PMP_PROTOCOLS.get(operation)
    if protocol is None:
        return struct.pack(">BBHI", 0, 128 | operation, 5, epoch)  # unsupported opcode
    if len(data) < 12:
        return None
    internal, wanted, lifetime = struct.unpack_from(">HHI", data, 4)
    lifetime = min(lifetime, MAX_LIFETIME)
    port = grant(protocol, (client, internal), wanted, lifetime)
    result = 0 if port is not None else 4  # out of resources
    given = (port or 0) if lifetime else 0
    head = struct.pack(">BBHI", 0, 128 | operation, result, epoch)
    return head + struct.pack(">HHI", internal, given, lifetime if port is not None else 0)


def _pcp(data: bytes, client: bytes, outer: bytes, epoch: int, grant: Map) -> bytes | None:
    operation = data[1]

    def refuse(result: int) -> bytes:
        head = struct.pack(">BBBBII12x", 2, 0x80 | operation, 0, result, 30, epoch)
        return head + data[24:60]

    if len(data) < 24:
        return refuse(3)  # MALFORMED_REQUEST
    if operation == 0:  # ANNOUNCE, which asks for the epoch
        return struct.pack(">BBBBII12x", 2, 0x80, 0, 0, 0, epoch)
    if operation != 1:
        return refuse(4)  # UNSUPP_OPCODE
    if len(data) < 60:
        return refuse(3)
    (lifetime,) = struct.unpack_from(">I", data, 4)
    if data[8:24] != _MAPPED + client:
        return refuse(12)  # ADDRESS_MISMATCH
    protocol = data[36]
    internal, wanted = struct.unpack_from(">HH", data, 40)
    if protocol not in (UDP, TCP) or not internal:
        return refuse(5)  # UNSUPP_PROTOCOL: all ports, all protocols
    lifetime = min(lifetime, MAX_LIFETIME)
    port = grant(protocol, (client, internal), wanted, lifetime)
    if port is None:
        return refuse(8)  # NO_RESOURCES
    head = struct.pack(">BBBBII12x", 2, 0x81, 0, 0, lifetime, epoch)
    return head + data[24:40] + struct.pack(">HH", internal, port) + _MAPPED + outer
