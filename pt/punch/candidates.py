"""Where one side of a punch may be reached, and what it knows of the NATs before it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from ipaddress import ip_address
from typing import Final, TypeAlias

from pt.wire import ipranges
from pt.wire.nat_facts import Allocation, Dependence, NatFacts, Protocol

__all__ = [
    "FIRST_PORT",
    "LAST_PORT",
    "MAX_CANDIDATES",
    "Address",
    "Budget",
    "Candidate",
    "Kind",
    "Side",
]

Address: TypeAlias = tuple[str, int]

MAX_CANDIDATES: Final = 24
"""Of one side; further ones are ignored."""
FIRST_PORT: Final = 1024
LAST_PORT: Final = 65535
"""NATs take external ports from here, as a rule; a guess is never outside."""


class Kind(IntEnum):
    """How an address came to be known; a better one has the lower number."""

    HOST = 1
    """Of an interface."""
    MAPPED = 2
    """Of a port mapping that a gateway granted, or one that is forwarded by hand."""
    REFLEXIVE = 3
    """As a server sees us."""
    PEER_REFLEXIVE = 4
    """As the peer sees us: met during a punch, never told."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One address; `host` is an IP address in its usual spelling."""

    kind: Kind
    host: str
    port: int
    protocol: Protocol = Protocol.UDP

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.host else 4

    @property
    def address(self) -> Address:
        """Host and port."""
        return self.host, self.port

    @property
    def public(self) -> bool:
        """Whether the Internet routes to it."""
        return ipranges.is_public(ip_address(self.host))

    @property
    def usable(self) -> bool:
        """Whether packets may be sent there on a peer's word.

        Not to multicast, unspecified or loopback addresses; to port 0 neither.
        """
        address = ip_address(self.host)
        return bool(self.port) and not (
            address.is_multicast
            or address.is_unspecified
            or ipranges.is_loopback(address)
            or self.host == "255.255.255.255"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one attempt may cost; of two sides' budgets the smaller counts."""

    pps: int = 1000
    """Packets a second."""
    packets: int = 4096
    """Of one side, but for a full scan."""
    sockets: int = 256
    seconds: float = 10.0
    full_scan: bool = False
    """Every port of the peer's address, at `scan_pps`: only if both sides' users ask for it."""
    scan_pps: int = 10_000

    def meet(self, other: Budget) -> Budget:
        """What both sides agree to."""
        return Budget(
            pps=max(1, min(self.pps, other.pps)),
            packets=min(self.packets, other.packets),
            sockets=min(self.sockets, other.sockets),
            seconds=min(self.seconds, other.seconds),
            full_scan=self.full_scan and other.full_scan,
            scan_pps=max(1, min(self.scan_pps, other.scan_pps)),
        )


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one side tells the other: NAT facts, candidates, budget."""

    facts: tuple[NatFacts, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    budget: Budget = Budget()

    def nat(self, family: int, protocol: Protocol) -> NatFacts:
        """The facts that count; all unknown if none were told.

        A port mapping makes the socket reachable for anybody, whatever else the NAT does.
        """
        found = NatFacts(family=family, protocol=protocol)
        for facts in self.facts:
            if (facts.family, facts.protocol) == (family, protocol):
                found = facts
                break
        if self.of(Kind.MAPPED, family, protocol):
            open_ = Dependence.INDEPENDENT
            found = replace(found, works=True, mapping=open_, filtering=open_)
        return found

    @property
    def samples(self) -> bool:
        """Whether an offer should carry the outer port of a fresh socket: the next ones follow."""
        nat = self.nat(4, Protocol.UDP)
        return nat.mapping in (Dependence.ADDRESS, Dependence.ADDRESS_AND_PORT) and (
            nat.ports in (Allocation.PRESERVING, Allocation.SEQUENTIAL)
        )

    def of(
        self, kind: Kind, family: int, protocol: Protocol = Protocol.UDP
    ) -> tuple[Candidate, ...]:
        """The candidates of one kind."""
        return tuple(
            each
            for each in self.candidates
            if (each.kind, each.family, each.protocol) == (kind, family, protocol)
        )

    def lan(self, family: int) -> tuple[Candidate, ...]:
        """Addresses that mean this side only in some networks: private ones of interfaces."""
        found = self.of(Kind.HOST, family)
        return tuple(
            each for each in found if not each.public and not ip_address(each.host).is_link_local
        )

    def wan(self, family: int, protocol: Protocol = Protocol.UDP) -> tuple[Candidate, ...]:
        """Addresses that mean this side everywhere, each once, the best kind first."""
        found: dict[Address, Candidate] = {}
        for kind in (Kind.MAPPED, Kind.HOST, Kind.REFLEXIVE):
            for each in self.of(kind, family, protocol):
                if kind is not Kind.HOST or each.public:
                    found.setdefault(each.address, each)
        return tuple(found.values())

    def names(self, host: str) -> bool:
        """Whether this side has said that it is at `host`."""
        return host in {candidate.host for candidate in self.candidates} | {
            facts.external for facts in self.facts
        }

    @cached_property
    def external(self) -> str | None:
        """The IPv4 address that others see, if it is known."""
        for facts in self.facts:
            if facts.family == 4 and facts.external is not None:
                return facts.external
        for candidate in self.candidates:
            if candidate.kind is Kind.REFLEXIVE and candidate.family == 4:
                return candidate.host
        return None
