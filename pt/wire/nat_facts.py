"""What a NAT or firewall does, in RFC 4787's terms, for one address family and one protocol.

`NatFacts` are measured by whoever asks servers (RFC 5780), told to the other end of a session, and
read by the planner of hole punching.  Everything may be unknown: 0, None.

    NatFacts{family=1: 4 | 6, protocol=2: UDP 0 | TCP 1, works=3?: tri, translated=4?: tri,
             mapping=5?: enum, filtering=6?: enum, ports=7?: enum, step=8?: uint (zigzag),
             block=9?: first << 16 | last, hairpin=10?: tri, simultaneous_open=11?: tri,
             lifetime=12?: ms, inbound_refreshes=13?: tri, max_age=14?: ms, noise=15?: milli/s,
             quota=16?: uint, external=17?: 4 or 16 bytes, carrier_grade=18?: tri}
    tri: false 1 | true 2
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address
from typing import Final

from pt.errors import LocalProtocolError, RemoteProtocolError
from pt.wire import protobuf

__all__ = ["MAX_FACTS", "Allocation", "Dependence", "NatFacts", "NatFactsError", "Protocol"]

MAX_FACTS: Final = 256
"""Bytes of one message; longer ones are refused."""
_MAX_TIME: Final = 7 * 86400.0
_MAX_PORT: Final = 65535
_MAX_STEP: Final = 4096


class NatFactsError(RemoteProtocolError):
    """The peer's message does not describe a NAT."""


class Protocol(IntEnum):
    """What is translated."""

    UDP = 0
    TCP = 1


class Dependence(IntEnum):
    """On what of the remote end a mapping, or a filter, depends (RFC 4787, 4.1 and 5)."""

    UNKNOWN = 0
    INDEPENDENT = 1
    """EIM, EIF: on nothing; a host without NAT or firewall is so, too."""
    ADDRESS = 2
    """ADM, ADF: on the remote address."""
    ADDRESS_AND_PORT = 3
    """APDM, APDF: on remote address and port."""


class Allocation(IntEnum):
    """How the external port of a new mapping is chosen."""

    UNKNOWN = 0
    PRESERVING = 1
    """The internal port, if no other mapping has it: that of a fresh socket's first packet."""
    SEQUENTIAL = 2
    """The last one and `step`."""
    RANDOM = 3


_SHORT: Final = {
    Dependence.UNKNOWN: "?",
    Dependence.INDEPENDENT: "ei",
    Dependence.ADDRESS: "ad",
    Dependence.ADDRESS_AND_PORT: "apd",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NatFacts:
    """One family and protocol; times in seconds, ports in their own order.

    A host with a public address behind nothing: not translated, independent in both ways.
    """

    family: int = 4
    protocol: Protocol = Protocol.UDP
    works: bool | None = None
    """Whether such packets get out, and answers in."""
    translated: bool | None = None
    mapping: Dependence = Dependence.UNKNOWN
    filtering: Dependence = Dependence.UNKNOWN
    ports: Allocation = Allocation.UNKNOWN
    step: int = 0
    """Of a sequential allocation; may be negative."""
    block: tuple[int, int] | None = None
    """First and last port of the narrow range that all external ports seen were in."""
    hairpin: bool | None = None
    simultaneous_open: bool | None = None
    """TCP: whether a SYN from outside passes that meets our own."""
    lifetime: float | None = None
    """After so much silence a mapping is gone."""
    inbound_refreshes: bool | None = None
    max_age: float | None = None
    """After so long a mapping is gone, whatever the traffic."""
    noise: float | None = None
    """New mappings of others, a second."""
    quota: int | None = None
    """Mappings one host may have."""
    external: str | None = None
    """The address seen from outside."""
    carrier_grade: bool | None = None

    @property
    def label(self) -> str:
        """As in `eim-apdf`, `apdm-random-apdf`, `public`, `fw-apdf`, `blocked`."""
        if self.works is False:
            return "blocked"
        filtering = f"{_SHORT[self.filtering]}f"
        if self.translated is False:
            open_ = self.filtering is Dependence.INDEPENDENT
            return "public" if open_ else f"fw-{filtering}"
        mapping = f"{_SHORT[self.mapping]}m"
        if self.mapping in (Dependence.INDEPENDENT, Dependence.UNKNOWN):
            return f"{mapping}-{filtering}"
        ports = {0: "?", 1: "preserve", 2: "seq", 3: "block" if self.block else "random"}
        return f"{mapping}-{ports[self.ports]}-{filtering}"

    def encode(self) -> bytes:
        """The message; what is unknown is left out.

        Raises:
            LocalProtocolError: a value is out of range.

        """
        out = [protobuf.put_uint(1, self.family), protobuf.put_uint(2, self.protocol)]
        zigzag = self.step * 2 if self.step >= 0 else -self.step * 2 - 1
        block = None if self.block is None else self.block[0] << 16 | self.block[1]
        values = (
            (3, _tri(self.works)),
            (4, _tri(self.translated)),
            (5, self.mapping or None),
            (6, self.filtering or None),
            (7, self.ports or None),
            (8, zigzag or None),
            (9, block),
            (10, _tri(self.hairpin)),
            (11, _tri(self.simultaneous_open)),
            (12, _milli(self.lifetime)),
            (13, _tri(self.inbound_refreshes)),
            (14, _milli(self.max_age)),
            (15, _milli(self.noise)),
            (16, self.quota),
        )
        out += [protobuf.put_uint(field, value) for field, value in values if value is not None]
        if self.external is not None:
            try:
                out.append(protobuf.put_bytes(17, ip_address(self.external).packed))
            except ValueError as error:
                raise LocalProtocolError(f"{self.external!r} is not an IP address") from error
        tri = _tri(self.carrier_grade)
        if tri is not None:
            out.append(protobuf.put_uint(18, tri))
        return b"".join(out)

    @classmethod
    def decode(cls, body: bytes) -> NatFacts:
        """Read the message; numbers unknown here count as unknown facts.

        Raises:
            NatFactsError: malformed, too long, or a value out of range.

        """
        if len(body) > MAX_FACTS:
            raise NatFactsError(f"NAT facts of {len(body)} bytes, over {MAX_FACTS}")
        try:
            fields = protobuf.Fields(body, 64)
        except protobuf.ProtobufError as error:
            raise NatFactsError(f"malformed NAT facts: {error}") from error
        family = fields.uint(1)
        protocol = fields.uint(2)
        if family not in (4, 6) or protocol not in (0, 1):
            raise NatFactsError("NAT facts of no known address family or protocol")
        zigzag = fields.uint(8) or 0
        step = zigzag // 2 if zigzag % 2 == 0 else -(zigzag // 2) - 1
        if abs(step) > _MAX_STEP:
            raise NatFactsError(f"ports that differ by {step}")
        quota = fields.uint(16)
        return cls(
            family=family,
            protocol=Protocol(protocol),
            works=_bool(fields.uint(3)),
            translated=_bool(fields.uint(4)),
            mapping=_dependence(fields.uint(5)),
            filtering=_dependence(fields.uint(6)),
            ports=_allocation(fields.uint(7)),
            step=step,
            block=_block(fields.uint(9)),
            hairpin=_bool(fields.uint(10)),
            simultaneous_open=_bool(fields.uint(11)),
            lifetime=_seconds(fields.uint(12)),
            inbound_refreshes=_bool(fields.uint(13)),
            max_age=_seconds(fields.uint(14)),
            noise=_seconds(fields.uint(15)),
            quota=None if quota is None else min(quota, 1 << 20),
            external=_external(fields.bytes(17), family),
            carrier_grade=_bool(fields.uint(18)),
        )


def _tri(value: bool | None) -> int | None:
    return None if value is None else 1 + value


def _bool(value: int | None) -> bool | None:
    return {1: False, 2: True}.get(value or 0)


def _milli(value: float | None) -> int | None:
    return None if value is None else round(min(value, _MAX_TIME) * 1000)


def _seconds(value: int | None) -> float | None:
    return None if value is None else min(value / 1000, _MAX_TIME)


def _dependence(value: int | None) -> Dependence:
    try:
        return Dependence(value or 0)
    except ValueError:
        return Dependence.UNKNOWN


def _allocation(value: int | None) -> Allocation:
    try:
        return Allocation(value or 0)
    except ValueError:
        return Allocation.UNKNOWN


def _block(value: int | None) -> tuple[int, int] | None:
    if value is None:
        return None
    first, last = value >> 16, value & _MAX_PORT
    if not 1 <= first <= last <= _MAX_PORT:
        raise NatFactsError(f"a block of ports from {first} to {last}")
    return first, last


def _external(value: bytes | None, family: int) -> str | None:
    if value is None:
        return None
    if len(value) != (4 if family == 4 else 16):
        raise NatFactsError(f"an IPv{family} address of {len(value)} bytes")
    return str(ip_address(value))
