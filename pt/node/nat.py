"""What the network in front of this machine does, by STUN servers: all families and protocols.

No server is asked that was not named. What is blocked is told by comparison: silence of a server
over UDP means something only if its TCP port answers, and the other way round.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, NamedTuple

from pt.errors import DnsError, NetworkError, RefusedError, UsageError, WaitTimeoutError
from pt.node.hops import carrier_between, first_routers
from pt.node.nat_tcp import TcpDiscovery, discover_tcp
from pt.node.resolve import Resolver
from pt.stun.aio import Explorer, bind_over_tcp
from pt.stun.discovery import Discovery, Wishes
from pt.stun.messages import BINDING, TRANSACTION_ID, Kind, StunError, encode
from pt.wire.multiaddr import Multiaddr
from pt.wire.nat_facts import NatFacts, Protocol

__all__ = ["MAX_SERVERS", "How", "Reach", "StunServer", "Survey", "survey"]

MAX_SERVERS: Final = 8
TCP_PATIENCE: Final = 4.0
"""Seconds that a TCP port has to answer."""
_NAMES: Final = frozenset({"dns", "dns4", "dns6"})
Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class StunServer:
    """A server as it was named; `kind` is ip4, ip6, dns, dns4 or dns6."""

    kind: str
    host: str
    port: int

    @classmethod
    def of_relay(cls, address: Multiaddr) -> StunServer:
        """A `pt relay`, which serves at the number of its port.

        Raises:
            UsageError: it has no host and port of its own.

        """
        port = address.udp_port if address.udp_port is not None else address.tcp_port
        if address.host is None or not port or address.is_circuit:
            raise UsageError(
                f"{address}: give a relay's address as it prints it, such as "
                "/ip4/192.0.2.1/tcp/4001"
            )
        kind, host = address.host
        if kind not in _NAMES | {"ip4", "ip6"}:
            raise UsageError(f"{address}: give an address with an IP address or a name")
        return cls(kind, host, port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class How(Enum):
    """How far one gets."""

    OPEN = "open"
    """Whoever is there answers, though perhaps not with STUN."""
    SILENT = "silent"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


class Reach(NamedTuple):
    """One port of a server."""

    protocol: Protocol
    address: Address
    how: How


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was found, UDP and TCP, IPv4 before IPv6."""

    udp: tuple[Discovery, ...] = ()
    tcp: tuple[TcpDiscovery, ...] = ()
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What names stand for."""
    reach: tuple[Reach, ...] = ()
    """How far each server's ports are."""
    routers: tuple[str, ...] = ()
    """The first ones on the way, over IPv4; empty texts for those that did not answer."""
    problems: tuple[str, ...] = ()
    """What could not be tried, and why."""

    @property
    def facts(self) -> tuple[NatFacts, ...]:
        """What the planner of hole punching takes."""
        return (*(each.facts for each in self.udp), *(each.facts for each in self.tcp))

    @property
    def answered(self) -> bool:
        """Whether anybody did."""
        return any(each.works for each in self.facts)


async def survey(
    servers: Sequence[StunServer],
    wishes: Wishes,
    *,
    resolver: Resolver,
    say: Callable[[str], None] = lambda _: None,
) -> Survey:
    """Ask the servers.

    Raises:
        DnsError: no server's name can be looked up.
        NetworkError: there is no way to any server.
        LimitError: the system gives no sockets.

    """
    found, names, failures = await _addresses(servers[:MAX_SERVERS], resolver)
    problems = [str(each) for each in failures]
    if not found and failures:
        raise failures[0]
    udp: list[Discovery] = []
    tcp: list[TcpDiscovery] = []
    on_the_way: list[str] = []
    reach: list[Reach] = []
    unreachable: list[NetworkError] = []
    for version in (4, 6):
        own = [each for each in found if (":" in each[0]) == (version == 6)]
        if not own:
            continue
        say(f"asking {', '.join(host for host, _ in own)} over UDP and TCP")
        one, pair, routers = await asyncio.gather(
            _over_udp(own, wishes),
            _over_tcp(own),
            first_routers(own[0], _request()),
            return_exceptions=True,
        )
        if isinstance(one, NetworkError):
            unreachable.append(one)
            problems.append(str(one))
            continue
        if isinstance(one, BaseException):
            raise one
        if isinstance(pair, BaseException):
            raise pair
        if isinstance(routers, BaseException):
            raise routers
        two, ports = pair
        reach += [
            Reach(Protocol.UDP, each, How.SILENT if each in one.silent else How.OPEN)
            for each in own
        ]
        reach += ports
        one, two = _compare(one, two)
        if carrier_between(routers):
            one = replace(one, facts=replace(one.facts, carrier_grade=True))
            two = replace(two, facts=replace(two.facts, carrier_grade=True))
        on_the_way += routers
        udp.append(one)
        tcp.append(two)
    if not udp and unreachable:
        raise unreachable[0]
    return Survey(
        udp=tuple(udp),
        tcp=tuple(tcp),
        names=names,
        reach=tuple(reach),
        routers=tuple(on_the_way),
        problems=tuple(problems),
    )


def _request() -> bytes:
    """What a server may answer that it reaches after all."""
    return encode(Kind.REQUEST, BINDING, secrets.token_bytes(TRANSACTION_ID))


async def _addresses(
    servers: Iterable[StunServer], resolver: Resolver
) -> tuple[list[Address], dict[str, tuple[str, ...]], list[DnsError]]:
    found: dict[Address, None] = {}
    names: dict[str, tuple[str, ...]] = {}
    failures: list[DnsError] = []
    for server in servers:
        hosts = [server.host]
        if server.kind in _NAMES:
            try:
                hosts = await resolver.addresses(server.kind, server.host)
            except DnsError as error:
                failures.append(error)
                continue
            names[server.host] = tuple(hosts)
        found.update(dict.fromkeys((host, server.port) for host in hosts))
    return list(found), names, failures


async def _over_udp(servers: Sequence[Address], wishes: Wishes) -> Discovery:
    explorer = Explorer()
    try:
        return await explorer.discover(servers, wishes)
    finally:
        explorer.close()


async def _over_tcp(servers: Sequence[Address]) -> tuple[TcpDiscovery, list[Reach]]:
    """How far each server's port is, and all of the first that serves STUN there."""
    tried = await asyncio.gather(*map(_try_tcp, servers))
    reach = [
        Reach(Protocol.TCP, server, how) for server, (how, _) in zip(servers, tried, strict=True)
    ]
    for server, (_, problem) in zip(servers, tried, strict=True):
        if not problem:
            return await discover_tcp(server), reach
    facts = NatFacts(family=6 if ":" in servers[0][0] else 4, protocol=Protocol.TCP)
    silent = all(each.how is How.SILENT for each in reach)
    failed = TcpDiscovery(facts=facts, server=servers[0], problem=tried[0][1], silent=silent)
    return failed, reach


async def _try_tcp(server: Address) -> tuple[How, str]:
    """How far a connection gets, and why STUN is not served there, if so."""
    try:
        await bind_over_tcp(server, timeout=TCP_PATIENCE)
    except WaitTimeoutError as error:
        return How.SILENT, str(error)
    except NetworkError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError):  # it opened, and was closed again
            return How.OPEN, str(error)
        return (How.REFUSED if cause.errno == errno.ECONNREFUSED else How.UNREACHABLE), str(error)
    except (RefusedError, StunError) as error:
        return How.OPEN, str(error)
    return How.OPEN, ""


def _compare(udp: Discovery, tcp: TcpDiscovery) -> tuple[Discovery, TcpDiscovery]:
    """Take silence of the one for blocked if the other one answers."""
    if udp.facts.works is None and tcp.facts.works:
        udp = replace(udp, facts=replace(udp.facts, works=False))
    if tcp.silent and udp.facts.works:
        tcp = replace(tcp, facts=replace(tcp.facts, works=False))
    return udp, tcp
