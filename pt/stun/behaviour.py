"""What the NAT in front of us does, found out as RFC 5780 and RFC 4787 have it; scripts.

All begin at one server. Where it names another address, or a second one is known, more is learnt:
a fact that could not be measured stays unknown. What nobody answers is a finding only if the place
where the answer should have come from does answer when asked directly.

The mapping is that of the socket that is given (0), which others may use meanwhile. What a filter
lets in can only be tried from a socket that has not written to those addresses: a fresh one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Final

from pt.errors import PtError
from pt.stun.attributes import PADDING, Address, Change, change_request
from pt.stun.binding import Binding, read_binding
from pt.stun.ports import Ports, PortSample
from pt.stun.probing import Ask, Prober, Script, ask, pause
from pt.stun.transactions import Outcome, Schedule
from pt.wire.ipranges import is_public
from pt.wire.nat_facts import Allocation, Dependence

__all__ = [
    "FRESH",
    "Hairpin",
    "Mapping",
    "Places",
    "dependence_of",
    "filtering",
    "first_binding",
    "hairpin",
    "largest",
    "mapping",
    "may_write",
    "noise",
    "patient",
    "port_samples",
    "quota_of",
]

FRESH: Final = 16
"""Sockets whose external ports are looked at."""
SIZES: Final = (548, 1252, 1280, 1312, 1352, 1372, 1392, 1412, 1424, 1432, 1452, 1464, 1472)
"""Bytes of datagrams by which the path's MTU is tried: those of common tunnels and of Ethernet."""
_BARE: Final = 32
"""Bytes of a request with empty PADDING: header, PADDING's own, FINGERPRINT."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where servers answer: `primary`, and what it offers besides.

    same_port: another IP address with the same port. second_port: the same IP address, another
    port. other: both different.
    """

    primary: Address
    same_port: Address | None = None
    second_port: Address | None = None
    other: Address | None = None

    @classmethod
    def of(cls, primary: Address, binding: Binding) -> Places:
        """As a server's first answer tells."""
        other = binding.other
        if other is None or other[0] == primary[0] or other[1] == primary[1]:
            return cls(primary)
        if not may_write(primary, other):
            return cls(primary)
        return cls(primary, (other[0], primary[1]), (primary[0], other[1]), other)

    def also(self, servers: Iterable[Address]) -> Places:
        """With other servers that were given, where this one knows of no other address."""
        if self.same_port is not None:
            return self
        extra = next((each for each in servers if each[0] != self.primary[0]), None)
        return replace(self, same_port=extra)


def may_write(server: Address, told: Address) -> bool:
    """Whether packets go to an address that a server told.

    One on the Internet has no business with private addresses, which mean somebody else here.
    """
    return is_public(ip_address(told[0])) or not is_public(ip_address(server[0]))


def patient(rtt: float) -> Schedule:
    """For a question that may rightly stay unanswered: five times within two round trips and a bit.

    That all five are lost one after the other is once in 3,000 even where a fifth of all is lost.
    """
    gap = max(0.05, rtt / 2)
    return Schedule(tuple(gap * each for each in range(5)), 4 * gap + max(0.3, 2 * rtt))


# --- the first answer ---------------------------------------------------------------------------


def first_binding(
    servers: Sequence[Address], schedule: Schedule
) -> Script[tuple[Binding | None, tuple[tuple[Address, Outcome], ...]]]:
    """The answer of the first server in the list that gives one; and how each of them answered."""
    outcomes = yield from ask(Ask(sock=0, to=each, schedule=schedule) for each in servers)
    found = [binding for each in outcomes if (binding := read_binding(each)) is not None]
    return (found[0] if found else None), tuple(zip(servers, outcomes, strict=True))


# --- mapping ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mapping:
    """On what the mapping depends, and the addresses seen by place."""

    dependence: Dependence = Dependence.UNKNOWN
    seen: dict[Address, Address] = field(default_factory=dict)
    """The external address by the server's."""


def mapping(places: Places, first: Binding, schedule: Schedule) -> Script[Mapping]:
    """Ask the other places from the same socket."""
    asked = [each for each in (places.second_port, places.same_port, places.other) if each]
    outcomes = yield from ask(Ask(sock=0, to=each, schedule=schedule) for each in asked)
    seen = {places.primary: first.mapped}
    for place, outcome in zip(asked, outcomes, strict=True):
        if (binding := read_binding(outcome)) is not None:
            seen[place] = binding.mapped
    return Mapping(dependence_of(places, seen), seen)


def dependence_of(places: Places, seen: dict[Address, Address]) -> Dependence:
    """Tell the kind of mapping from external addresses, by the place that saw them."""
    here = seen[places.primary]
    port, ip, both = (
        None if place is None else seen.get(place)
        for place in (places.second_port, places.same_port, places.other)
    )
    if port is not None and port != here:
        return Dependence.ADDRESS_AND_PORT
    elsewhere = [each for each in (ip, both) if each is not None]
    if not elsewhere:
        return Dependence.UNKNOWN  # a second port alone tells one kind from the two others
    if all(each == here for each in elsewhere):
        return Dependence.INDEPENDENT
    if len(elsewhere) == 2 and ip != both:
        return Dependence.ADDRESS_AND_PORT
    # With one other address only, the worse of the two kinds that it may be.
    return Dependence.ADDRESS if port is not None else Dependence.ADDRESS_AND_PORT


# --- filtering ----------------------------------------------------------------------------------


def filtering(prober: Prober, places: Places, mapped: Mapping, rtt: float) -> Script[Dependence]:
    """Have answers sent from places that a fresh socket has not written to."""
    if places.other is None:
        return Dependence.UNKNOWN
    sock = prober.open()
    (opened,) = yield from ask([Ask(sock=sock, to=places.primary)])
    if read_binding(opened) is None:
        prober.close_socket(sock)
        return Dependence.UNKNOWN
    both, port = yield from ask(
        Ask(
            sock=sock,
            to=places.primary,
            attributes=(change_request(change),),
            schedule=patient(rtt),
            elsewhere=True,
        )
        for change in (Change(True, True), Change(False, True))
    )
    prober.close_socket(sock)
    reachable = mapped.seen
    if _came_from(both, places.other):
        return Dependence.INDEPENDENT
    if _came_from(port, places.second_port):
        # Whether the third place is silent, or filtered, only its own answer tells.
        return Dependence.ADDRESS if places.other in reachable else Dependence.UNKNOWN
    if both.error is not None or port.error is not None or places.second_port not in reachable:
        return Dependence.UNKNOWN
    return Dependence.ADDRESS_AND_PORT


def _came_from(outcome: Outcome, place: Address | None) -> bool:
    return place is not None and outcome.response is not None and outcome.source == place


# --- ports --------------------------------------------------------------------------------------


def port_samples(
    prober: Prober, server: Address, count: int = FRESH
) -> Script[tuple[tuple[PortSample, ...], tuple[Binding | None, ...]]]:
    """The external ports of fresh sockets, all asked at once; and their answers, in that order."""
    socks: list[int] = []
    with contextlib.suppress(PtError):  # the system has no more: those that there are
        while len(socks) < count:
            socks.append(prober.open())
    outcomes = yield from ask(Ask(sock=sock, to=server) for sock in socks)
    bindings = tuple(read_binding(each) for each in outcomes)
    samples = []
    for sock, binding in zip(socks, bindings, strict=True):
        local = prober.sockets.local(sock, server)
        if local is not None and binding is not None:
            samples.append(PortSample(local[1], binding.mapped[1]))
        prober.close_socket(sock)
    return tuple(samples), bindings


def quota_of(answers: Sequence[Binding | None], before: int) -> int | None:
    """How many mappings one may have, if the last sockets of a sample got none.

    `before` were held already.
    """
    got = [each is not None for each in answers]
    held = got.index(False) if False in got else len(got)
    refused = len(got) - held
    return before + held if held and refused >= 3 and not any(got[held:]) else None


def noise(prober: Prober, server: Address, ports: Ports, seconds: float) -> Script[float | None]:
    """New mappings of others a second, where ports are given in a row; two sockets, some time."""
    if ports.allocation is not Allocation.SEQUENTIAL:
        return None
    found: list[tuple[float, int]] = []
    for wait in (seconds, 0.0):
        sock = prober.open()
        began = prober.now
        (outcome,) = yield from ask([Ask(sock=sock, to=server)])
        prober.close_socket(sock)
        if (binding := read_binding(outcome)) is None or binding.sends > 1:
            return None
        found.append((began, binding.mapped[1]))
        if wait:
            yield from pause(wait)
    (before, one), (after, two) = found
    taken = (two - one) / ports.step - 1
    return max(0.0, taken) / (after - before) if taken >= 0 else None  # the range's end


# --- hairpin ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hairpin:
    """Whether two hosts inside reach each other by their external addresses."""

    works: bool | None = None
    internal: bool = False
    """They then see each other's internal addresses, against RFC 4787 REQ-9."""


def hairpin(prober: Prober, server: Address) -> Script[Hairpin]:
    """Two fresh sockets write to each other's external address."""
    one, two = prober.open(), prober.open()
    outcomes = yield from ask(Ask(sock=each, to=server) for each in (one, two))
    seen = [read_binding(each) for each in outcomes]
    first, second = seen
    told = [each.mapped for each in seen if each is not None and may_write(server, each.mapped)]
    if first is None or second is None or len(told) < 2:
        prober.close_socket(one)
        prober.close_socket(two)
        return Hairpin()
    met = yield from ask(
        Ask(sock=sock, to=to.mapped, schedule=patient(first.rtt), ourselves=True)
        for sock, to in ((one, second), (two, first))
    )
    prober.close_socket(one)
    prober.close_socket(two)
    sources = [each.source for each in met if each.response is not None and each.source is not None]
    if sources:
        outside = {first.mapped[0], second.mapped[0]}
        return Hairpin(True, internal=all(source[0] not in outside for source in sources))
    return Hairpin(False)


# --- sizes --------------------------------------------------------------------------------------


def largest(prober: Prober, server: Address, rtt: float) -> Script[int]:
    """The longest datagram, of `SIZES`, that is answered in kind; 0 if none."""
    sock = prober.open(whole=True)
    outcomes = yield from ask(
        Ask(
            sock=sock,
            to=server,
            attributes=((PADDING, bytes(size - _BARE)),),
            schedule=patient(rtt),
        )
        for size in SIZES
    )
    prober.close_socket(sock)
    answered = [
        size for size, each in zip(SIZES, outcomes, strict=True) if each.response is not None
    ]
    return max(answered, default=0)
