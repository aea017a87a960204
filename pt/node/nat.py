"""What the network in front of this machine does, by STUN servers: all families and protocols.

No server is asked that was not named; the default gateways are if that is wanted.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from pt.aio.together import together
from pt.errors import DnsError, NetworkError, UsageError
from pt.node.hops import carrier_between, first_routers
from pt.node.nat_family import Family, Reach, measure
from pt.node.nat_gateways import Agreement, compare
from pt.node.nat_tcp import TcpDiscovery
from pt.node.portmap import Finding, ask_gateways
from pt.node.resolve import Resolver
from pt.portmap.aio import Place
from pt.stun.aio import Explorer
from pt.stun.discovery import Discovery, Wishes
from pt.stun.messages import BINDING, TRANSACTION_ID, Kind, encode
from pt.wire.multiaddr import Multiaddr
from pt.wire.nat_facts import NatFacts

__all__ = ["MAX_SERVERS", "StunServer", "Survey", "survey"]

MAX_SERVERS: Final = 8
_NAMES: Final = frozenset({"dns", "dns4", "dns6"})
Address = tuple[str, int]
Found = TypeVar("Found", Discovery, TcpDiscovery)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was found, UDP and TCP, IPv4 before IPv6."""

    udp: tuple[Discovery, ...] = ()
    tcp: tuple[TcpDiscovery, ...] = ()
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What names stand for."""
    reach: tuple[Reach, ...] = ()
    """How far each server's ports are."""
    gateways: tuple[Finding, ...] | None = None
    """The port-mapping services of the default gateways; None: they were not asked."""
    routers: tuple[str, ...] = ()
    """The first ones on the way, over IPv4; empty texts for those that did not answer."""
    problems: tuple[str, ...] = ()
    """What could not be tried, and why."""

    @property
    def facts(self) -> tuple[NatFacts, ...]:
        """What the planner of hole punching takes."""
        return (*(each.facts for each in self.udp), *(each.facts for each in self.tcp))

    def outside(self, found: Finding) -> Agreement | None:
        """Whether a gateway's external address is what servers see."""
        return compare(found.external, self.seen)

    @property
    def seen(self) -> tuple[str, ...]:
        """The IPv4 addresses that servers saw us at, the usual one first."""
        found = [each.external for each in self.facts if each.external and each.family == 4]
        places = [*(each.mapped for each in self.udp), *(each.mapped for each in self.tcp)]
        found += [host for each in places for host, _ in each.values() if ":" not in host]
        return tuple(dict.fromkeys(found))

    def with_gateways(self, gateways: tuple[Finding, ...] | None) -> Survey:
        """The same, with what gateways said; one that has a carrier's address tells of its NAT."""
        found = replace(self, gateways=gateways)
        if not any(found.outside(each) is Agreement.CARRIER for each in gateways or ()):
            return found
        return replace(
            found,
            udp=tuple(map(_behind_carrier, self.udp)),
            tcp=tuple(map(_behind_carrier, self.tcp)),
        )

    @property
    def answered(self) -> bool:
        """Whether anybody did."""
        return any(each.works for each in self.facts)


async def survey(
    servers: Sequence[StunServer],
    wishes: Wishes,
    *,
    resolver: Resolver,
    places: Callable[[], Sequence[Place]] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Survey:
    """Ask the servers, and meanwhile the gateways at `places` which ports they would map.

    Raises:
        DnsError: no server's name can be looked up.
        NetworkError: there is no way to any server.
        LimitError: the system gives no sockets.

    """
    found, gateways = await together(_ask_servers(servers, wishes, resolver, say), _ask(places))
    return found.with_gateways(gateways)


async def _ask(places: Callable[[], Sequence[Place]] | None) -> tuple[Finding, ...] | None:
    return None if places is None else tuple(await ask_gateways(places))


async def _ask_servers(
    servers: Sequence[StunServer],
    wishes: Wishes,
    resolver: Resolver,
    say: Callable[[str], None],
) -> Survey:
    found, names, failures = await _addresses(servers[:MAX_SERVERS], resolver)
    if not found and failures:
        raise failures[0]
    groups = [
        group
        for version in (4, 6)
        if (group := [each for each in found if (":" in each[0]) == (version == 6)])
    ]
    for group in groups:
        say(f"asking {', '.join(host for host, _ in group)} over UDP and TCP")
    measured = await asyncio.gather(
        *(_family(each, wishes) for each in groups), return_exceptions=True
    )
    families: list[Family] = []
    on_the_way: list[str] = []
    unreachable: list[NetworkError] = []
    for each in measured:
        if isinstance(each, NetworkError):
            unreachable.append(each)
        elif isinstance(each, BaseException):
            raise each
        else:
            families.append(each[0])
            on_the_way += each[1]
    if not families and unreachable:
        raise unreachable[0]
    return Survey(
        udp=tuple(each.udp for each in families),
        tcp=tuple(each.tcp for each in families),
        names=names,
        reach=tuple(each for family in families for each in family.reach),
        routers=tuple(on_the_way),
        problems=tuple(map(str, (*failures, *unreachable))),
    )


async def _family(servers: Sequence[Address], wishes: Wishes) -> tuple[Family, list[str]]:
    """What is found over one IP version, and the first routers on the way.

    Raises:
        NetworkError: there is no way to any server.
        LimitError: the system gives no sockets.

    """
    found, routers = await together(
        measure(Explorer(), servers, wishes), first_routers(servers[0], _request())
    )
    if carrier_between(routers):
        udp, tcp = _behind_carrier(found.udp), _behind_carrier(found.tcp)
        found = replace(found, udp=udp, tcp=tcp)
    return found, routers


def _behind_carrier(found: Found) -> Found:
    """The same, with a carrier's NAT over IPv4, which something else has shown."""
    if found.facts.family != 4:
        return found
    return replace(found, facts=replace(found.facts, carrier_grade=True))


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
