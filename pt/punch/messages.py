"""What two `pt`s tell each other about a punch, inside their session.

    Message{offer=1?: Offer, sample=2?: Sample, started=3?: Started}
    Offer{attempt=1: uint, nonce=2: 16 bytes, facts=3*: NatFacts, candidates=4*: Candidate,
          pps=5, packets=6, sockets=7, milliseconds=8, full_scan=9?: bool, scan_pps=10,
          sample=11?: Candidate}
    Candidate{kind=1: enum, protocol=2: UDP 0 | TCP 1, host=3: 4 or 16 bytes, port=4}
    Sample{attempt=1: uint, number=2: uint, host=3: bytes, port=4: uint}
    Started{attempt=1: uint}

The channel delivers in order, and knows where a message ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, TypeAlias

from pt.errors import RemoteProtocolError
from pt.punch.candidates import MAX_CANDIDATES, Address, Budget, Candidate, Kind, Side
from pt.punch.packets import NONCE_LEN
from pt.wire import protobuf
from pt.wire.nat_facts import NatFacts, Protocol

__all__ = [
    "MAX_MESSAGE",
    "Message",
    "Offer",
    "PunchMessageError",
    "Sample",
    "Started",
    "decode_message",
]

MAX_MESSAGE: Final = 4096
_MAX_FACTS: Final = 8
_MAX_NUMBER: Final = 1 << 16
_MAX_PPS: Final = 100_000
_MAX_PACKETS: Final = 1 << 18
_MAX_SOCKETS: Final = 1024
_MAX_SECONDS: Final = 3600.0


class PunchMessageError(RemoteProtocolError):
    """The peer's message is malformed, too long, or says what cannot be true."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What one side knows and allows; an attempt begins when both have the other's."""

    attempt: int
    nonce: bytes
    side: Side
    sample: Address | None = None
    """Where a server saw a fresh socket of ours just now; of sides with `Side.samples`."""

    def encode(self) -> bytes:
        """The message."""
        budget = self.side.budget
        parts = [protobuf.put_uint(1, self.attempt), protobuf.put_bytes(2, self.nonce)]
        parts += [protobuf.put_bytes(3, each.encode()) for each in self.side.facts[:_MAX_FACTS]]
        parts += [
            protobuf.put_bytes(4, _candidate(each))
            for each in self.side.candidates[:MAX_CANDIDATES]
        ]
        parts += [
            protobuf.put_uint(5, budget.pps),
            protobuf.put_uint(6, budget.packets),
            protobuf.put_uint(7, budget.sockets),
            protobuf.put_uint(8, round(budget.seconds * 1000)),
            protobuf.put_uint(9, budget.full_scan),
            protobuf.put_uint(10, budget.scan_pps),
        ]
        if self.sample is not None:
            seen = Candidate(Kind.REFLEXIVE, *self.sample)
            parts.append(protobuf.put_bytes(11, _candidate(seen)))
        return protobuf.put_bytes(1, b"".join(parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Where a server saw the sender's `number`th fresh socket a moment ago."""

    attempt: int
    number: int
    address: Address

    def encode(self) -> bytes:
        """The message."""
        body = [
            protobuf.put_uint(1, self.attempt),
            protobuf.put_uint(2, self.number),
            protobuf.put_bytes(3, ip_address(self.address[0]).packed),
            protobuf.put_uint(4, self.address[1]),
        ]
        return protobuf.put_bytes(2, b"".join(body))


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The controlling side has both offers now, and begins."""

    attempt: int

    def encode(self) -> bytes:
        """The message."""
        return protobuf.put_bytes(3, protobuf.put_uint(1, self.attempt))


Message: TypeAlias = Offer | Sample | Started


def decode_message(body: bytes) -> Message:
    """Read a message; candidates that are nobody's are left out.

    Raises:
        PunchMessageError: it is none.

    """
    if len(body) > MAX_MESSAGE:
        raise PunchMessageError(f"a message of {len(body)} bytes, over {MAX_MESSAGE}")
    try:
        fields = protobuf.Fields(body, 8)
        offer, sample = fields.bytes(1), fields.bytes(2)
        if offer is not None:
            return _offer(protobuf.Fields(offer, 128))
        if sample is not None:
            return _sample(protobuf.Fields(sample, 16))
        if (started := fields.bytes(3)) is not None:
            return Started(attempt=protobuf.Fields(started, 16).uint(1) or 0)
    except PunchMessageError:
        raise
    except RemoteProtocolError as error:
        raise PunchMessageError(f"a malformed message: {error}") from error
    raise PunchMessageError("a message of no known kind")


def _offer(fields: protobuf.Fields) -> Offer:
    nonce = fields.bytes(2) or b""
    if len(nonce) != NONCE_LEN:
        raise PunchMessageError(f"a nonce of {len(nonce)} bytes")
    facts = fields.all_bytes(3)
    if len(facts) > _MAX_FACTS:
        raise PunchMessageError(f"facts on {len(facts)} kinds of NAT")
    budget = Budget(
        pps=_bounded(fields, 5, 1, _MAX_PPS),
        packets=_bounded(fields, 6, 1, _MAX_PACKETS),
        sockets=_bounded(fields, 7, 1, _MAX_SOCKETS),
        seconds=_bounded(fields, 8, 1, round(_MAX_SECONDS * 1000)) / 1000,
        full_scan=bool(fields.uint(9)),
        scan_pps=_bounded(fields, 10, 1, _MAX_PPS),
    )
    candidates = []
    for raw in fields.all_bytes(4)[:MAX_CANDIDATES]:
        candidate = _read_candidate(protobuf.Fields(raw, 16))
        if candidate is not None and candidate.usable:
            candidates.append(candidate)
    side = Side(
        facts=tuple(NatFacts.decode(each) for each in facts),
        candidates=tuple(candidates),
        budget=budget,
    )
    raw_sample = fields.bytes(11)
    sample = None if raw_sample is None else _read_candidate(protobuf.Fields(raw_sample, 16))
    return Offer(
        attempt=fields.uint(1) or 0,
        nonce=nonce,
        side=side,
        sample=sample.address if sample is not None and sample.usable else None,
    )


def _sample(fields: protobuf.Fields) -> Sample:
    number = fields.uint(2) or 0
    if number > _MAX_NUMBER:
        raise PunchMessageError(f"sample number {number}")
    return Sample(
        attempt=fields.uint(1) or 0,
        number=number,
        address=(_host(fields.bytes(3)), _port(fields.uint(4))),
    )


def _candidate(candidate: Candidate) -> bytes:
    return b"".join(
        (
            protobuf.put_uint(1, candidate.kind),
            protobuf.put_uint(2, candidate.protocol),
            protobuf.put_bytes(3, ip_address(candidate.host).packed),
            protobuf.put_uint(4, candidate.port),
        )
    )


def _read_candidate(fields: protobuf.Fields) -> Candidate | None:
    """None: of a kind or protocol that is not known here."""
    try:
        kind, protocol = Kind(fields.uint(1) or 0), Protocol(fields.uint(2) or 0)
    except ValueError:
        return None
    return Candidate(kind, _host(fields.bytes(3)), _port(fields.uint(4)), protocol)


def _host(raw: bytes | None) -> str:
    if raw is None or len(raw) not in (4, 16):
        raise PunchMessageError("an address of neither 4 nor 16 bytes")
    return str(ip_address(raw))


def _port(value: int | None) -> int:
    if value is None or not 1 <= value <= 65535:
        raise PunchMessageError(f"port {value}")
    return value


def _bounded(fields: protobuf.Fields, field: int, least: int, most: int) -> int:
    value = fields.uint(field)
    if value is None:
        raise PunchMessageError(f"an offer without field {field}")
    return max(least, min(value, most))
