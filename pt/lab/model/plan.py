"""Who is where: the hosts, NATs, networks and addresses that a few words ask for.

Public hosts s1, s2, … have two addresses of each family; a side x has hosts x, x2, … behind its
chain of NATs. Public addresses are of 11.0.0.0/8 and 2a00:6000::/32, which programs take for global
ones, and which lead nowhere from here; between a home's NAT and its carrier's is 100.64.0.0/10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, cast

from pt.lab.model.spec import Filtering, LinkSpec, NatSpec, SpecError, parse_link, parse_nat

__all__ = ["CORE", "Attach", "HostPlan", "NatPlan", "Network", "Plan", "make_plan"]

CORE: Final = "core"
MAX_SIDES: Final = 8
MAX_HOSTS: Final = 8
SHARED: Final = "cgn"
_SIX: Final = IPv6Network("2a00:6000::/32")


@dataclass(frozen=True, slots=True)
class Network:
    """A set of addresses that reach each other; `router`: its gateway's own address, if any."""

    name: str
    router: str = ""
    router6: str = ""


@dataclass(frozen=True, slots=True)
class Attach:
    """Where something is attached, and by which link (named so)."""

    network: str
    link: str


@dataclass(frozen=True, slots=True)
class HostPlan:
    """A host with its addresses, the first IPv4 and the first IPv6 one being what others call."""

    name: str
    at: Attach
    addresses: tuple[str, ...]
    prefix: int
    """Length of the IPv4 prefix that is on its link."""

    @property
    def ip(self) -> str:
        """Its first IPv4 address, empty without any."""
        return next((each for each in self.addresses if ":" not in each), "")

    @property
    def ip6(self) -> str:
        """Its first IPv6 address, empty without any."""
        return next((each for each in self.addresses if ":" in each), "")


@dataclass(frozen=True, slots=True)
class NatPlan:
    """A middlebox between two networks; family 4 or 6."""

    name: str
    spec: NatSpec
    inside: str
    at: Attach
    addresses: tuple[str, ...]
    family: int = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole laboratory."""

    networks: tuple[Network, ...]
    hosts: tuple[HostPlan, ...]
    nats: tuple[NatPlan, ...]
    links: Mapping[str, LinkSpec]


class _Planner:
    def __init__(self, *, lan: int, overlap: bool, cgn: NatSpec | None) -> None:
        self._lan = lan
        self._overlap = overlap
        self._cgn = cgn
        self.networks = [Network(CORE, "11.255.0.1", str(_SIX[-1]))]
        self.hosts: list[HostPlan] = []
        self.nats: list[NatPlan] = []

    def public_host(self, number: int) -> None:
        addresses = (f"11.{number}.0.1", f"11.{number}.1.1", *_six(number, 1, 2))
        name = f"s{number}"
        self.hosts.append(HostPlan(name, Attach(CORE, name), addresses, 32))

    def carrier(self, spec: NatSpec) -> None:
        """Put one NAT between all sides and the internet."""
        self.networks.append(Network(SHARED, "100.127.255.254"))
        at = Attach(CORE, SHARED)
        self.nats.append(NatPlan(SHARED, spec, SHARED, at, _pool("11.99.0.0/24", spec)))

    def side(self, name: str, number: int, chain: tuple[NatSpec, ...]) -> None:
        spec = chain[0]
        public = IPv4Network(f"11.{100 + number}.0.0/24")
        if spec.kind == "public":
            if spec.v6 not in ("open", "off"):
                raise SpecError(f"public,v6={spec.v6}: fw is what has a firewall")
            for index in range(self._lan):
                addresses: tuple[str, ...] = (str(public[10 + index]),)
                addresses += _six(100 + number, 10 + index) if spec.v6 == "open" else ()
                at = Attach(CORE, name)
                self.hosts.append(HostPlan(_member(name, index), at, addresses, 32))
            return
        third = 1 if self._overlap else 1 + number
        four = IPv4Network(f"192.168.{third}.0/24") if spec.kind == "nat" else public
        six = spec.v6 != "off"
        router6 = _six(100 + number, 1)[0] if six else ""
        router = "" if spec.kind == "none" else str(four[1])
        self.networks.append(Network(name, router, router6))
        members: list[HostPlan] = []
        for index in range(self._lan):
            # With equal subnets, the address of one side's host is another host on the next side.
            place = (index + number) % self._lan if self._overlap else index
            own: tuple[str, ...] = () if spec.kind == "none" else (str(four[10 + place]),)
            own += _six(100 + number, 10 + index) if six else ()
            if not own:
                raise SpecError("none: a side without IPv4 needs v6=open, eif, adf or apdf")
            members.append(HostPlan(_member(name, index), Attach(name, "lan"), own, 24))
        self.hosts += members
        if spec.kind == "nat":
            self._chain(name, number, chain, public)
        elif spec.kind == "fw":
            at = Attach(CORE, name)
            self.nats.append(NatPlan(name, spec, name, at, tuple(host.ip for host in members)))
        if six:
            inside = tuple(host.ip6 for host in members)
            wall = replace(spec, kind="public")
            if spec.v6 not in ("off", "open"):
                wall = replace(spec, kind="fw", filtering=cast("Filtering", spec.v6))
            at = Attach(CORE, name)
            self.nats.append(NatPlan(f"{name}/v6", wall, name, at, inside, family=6))

    def _chain(
        self, name: str, number: int, chain: tuple[NatSpec, ...], public: IPv4Network
    ) -> None:
        inside = name
        for depth, spec in enumerate(chain):
            label = name if depth == 0 else f"{name}.{depth + 1}"
            last = depth == len(chain) - 1
            if last and self._cgn is None:
                at = Attach(CORE, name)
                addresses = _pool(str(public), spec)
            else:
                network = SHARED if last else f"{name}.{depth + 2}"
                block = IPv4Network(f"100.{64 + number * 4 + depth}.0.0/24")
                if not last:
                    self.networks.append(Network(network, str(block[254])))
                at = Attach(network, name if last else "lan")
                addresses = _pool(str(block), spec)
            self.nats.append(NatPlan(label, spec, inside, at, addresses))
            inside = at.network


def _member(side: str, index: int) -> str:
    return side if index == 0 else f"{side}{index + 1}"


def _pool(network: str, spec: NatSpec) -> tuple[str, ...]:
    first = IPv4Address(network.split("/", maxsplit=1)[0])
    return tuple(str(first + 1 + index) for index in range(spec.pool))


def _six(subnet: int, *hosts: int) -> tuple[str, ...]:
    base = int(_SIX.network_address) | subnet << 80
    return tuple(str(IPv6Address(base | host)) for host in hosts)


def make_plan(
    sides: Mapping[str, str],
    *,
    public: int = 2,
    lan: int = 1,
    overlap: bool = False,
    cgn: str = "",
    link: str = "",
    links: Mapping[str, str] | None = None,
) -> Plan:
    """Return the plan of a laboratory.

    sides: NAT specs by the side's name (one lower-case letter but s). public: hosts in the open.
    lan: hosts a side. overlap: all private networks have the same addresses. cgn: one NAT between
    all sides and the internet. link: of everything to the internet; links: of single ones, by name
    (a side's, s1, …, cgn).

    Raises: SpecError.
    """
    if len(sides) > MAX_SIDES or not 0 <= public <= MAX_HOSTS or not 1 <= lan <= MAX_HOSTS:
        raise SpecError(f"at most {MAX_SIDES} sides, {MAX_HOSTS} hosts a side and in the open")
    for name in sides:
        if len(name) != 1 or not "a" <= name <= "z" or name == "s":
            raise SpecError(f"{name!r}: a side is called by one lower-case letter, not s")
    shared = parse_nat(cgn) if cgn else ()
    if len(shared) > 1 or not all(spec.translates for spec in shared):
        raise SpecError(f"{cgn!r}: the shared carrier has one NAT")
    planner = _Planner(lan=lan, overlap=overlap, cgn=shared[0] if shared else None)
    for number in range(1, public + 1):
        planner.public_host(number)
    for spec in shared:
        planner.carrier(spec)
    for number, (name, text) in enumerate(sorted(sides.items())):
        planner.side(name, number, parse_nat(text))
    ideal = LinkSpec(hops=0)
    default = parse_link(link)
    known = {"lan": ideal, SHARED: LinkSpec()} | {host.name: default for host in planner.hosts}
    known |= dict.fromkeys(sides, default)
    for name, text in (links or {}).items():
        if name not in known:
            raise SpecError(f"no link {name!r}: there are {', '.join(sorted(known))}")
        known[name] = parse_link(text)
    return Plan(tuple(planner.networks), tuple(planner.hosts), tuple(planner.nats), known)
