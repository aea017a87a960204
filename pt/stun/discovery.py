"""All that can be told of the NAT in front of us, over UDP and one IP version, in one script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Final

from pt.stun import behaviour
from pt.stun.attributes import Address
from pt.stun.behaviour import Hairpin, Mapping, Places
from pt.stun.binding import Binding
from pt.stun.lifetime import Lifetime, measure_lifetime
from pt.stun.ports import classify
from pt.stun.probing import Prober, Script, together
from pt.stun.transactions import QUICK, Schedule
from pt.wire.ipranges import is_public
from pt.wire.nat_facts import Allocation, Dependence, NatFacts, Protocol

__all__ = ["Discovery", "Wishes", "behind_carrier", "discover"]

NOISE_SECONDS: Final = 0.4
_SHARED: Final = ip_network("100.64.0.0/10")
_UDP_HEADERS: Final = {4: 28, 6: 48}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is to be found out."""

    cliffs: tuple[float, ...] = ()
    """Silences to try, in seconds; none: the lifetime is not measured, which takes long."""
    sockets: int = behaviour.FRESH
    mtu: bool = True
    tcp_hairpin: bool = True
    schedule: Schedule = QUICK


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What was found, and what it was found by."""

    facts: NatFacts
    server: Address | None = None
    """Who was asked; None: nobody answered."""
    silent: tuple[Address, ...] = ()
    """Servers that did not answer, or refused."""
    local: Address | None = None
    binding: Binding | None = None
    """The first answer."""
    places: Places | None = None
    mapped: dict[Address, Address] = field(default_factory=dict)
    """The external address of our socket, by the server's."""
    pooled: bool | None = None
    """Sockets get different external IP addresses."""
    hairpin_internal: bool = False
    lifetime: Lifetime | None = None
    mtu: int | None = None
    """Of the path to the server, as far as it was tried."""


def discover(prober: Prober, servers: Sequence[Address], wishes: Wishes) -> Script[Discovery]:
    """Ask `servers`, all of one IP version; the first that answers is asked the rest.

    Raises:
        PtError: the system gives no sockets.

    """
    family = 6 if ":" in servers[0][0] else 4
    binding, answers = yield from behaviour.first_binding(servers, wishes.schedule)
    silent = tuple(server for server, outcome in answers if outcome.response is None)
    if binding is None:
        return Discovery(facts=NatFacts(family=family, protocol=Protocol.UDP), silent=silent)
    server = binding.source
    others = [each for each, outcome in answers if outcome.response is not None]
    places = Places.of(server, binding).also(others)
    local = prober.sockets.local(0, server)
    mapped: Mapping = yield from behaviour.mapping(places, binding, wishes.schedule)
    samples, fresh = yield from behaviour.port_samples(prober, server, wishes.sockets)
    ports = classify(samples)
    noise = yield from behaviour.noise(prober, server, ports, NOISE_SECONDS)
    filtering, hairpin, size = yield from together(
        behaviour.filtering(prober, places, mapped, binding.rtt),
        behaviour.hairpin(prober, server),
        *([behaviour.largest(prober, server, binding.rtt)] if wishes.mtu else [_none()]),
    )
    lifetime: Lifetime | None = None
    if wishes.cliffs:
        lifetime = yield from measure_lifetime(prober, server, wishes.cliffs, binding.rtt)
    translated = None if local is None else local != binding.mapped
    hosts = {each.mapped[0] for each in fresh if each is not None}
    return Discovery(
        facts=NatFacts(
            family=family,
            protocol=Protocol.UDP,
            works=True,
            translated=translated,
            mapping=mapped.dependence if translated is not False else Dependence.INDEPENDENT,
            filtering=filtering,
            ports=ports.allocation if translated else Allocation.UNKNOWN,
            step=ports.step if translated else 0,
            block=ports.block if translated else None,
            hairpin=_hairpins(hairpin, mapped, filtering) if translated else None,
            lifetime=_safe(lifetime),
            inbound_refreshes=None if lifetime is None else lifetime.inbound_refreshes,
            max_age=None if lifetime is None else lifetime.max_age,
            noise=noise if translated else None,
            quota=behaviour.quota_of(fresh, before=len(set(mapped.seen.values()))),
            external=binding.mapped[0],
            carrier_grade=behind_carrier(local, binding.mapped),
        ),
        server=server,
        silent=silent,
        local=local,
        binding=binding,
        places=places,
        mapped=dict(mapped.seen),
        pooled=None if len(fresh) < 2 else len(hosts | {binding.mapped[0]}) > 1,
        hairpin_internal=hairpin.internal,
        lifetime=lifetime,
        mtu=size + _UDP_HEADERS[family] if size else None,
    )


def _none() -> Script[int]:
    yield from ()
    return 0


def _hairpins(met: Hairpin, mapped: Mapping, filtering: Dependence) -> bool | None:
    """Silence means nothing where each packet comes from a port that a filter does not know."""
    free = Dependence.INDEPENDENT in (mapped.dependence, filtering)
    return met.works if met.works or free else None


def _safe(lifetime: Lifetime | None) -> float | None:
    """The longest silence that was survived, which is what a keep-alive has to be shorter than."""
    if lifetime is None:
        return None
    return lifetime.at_least or (lifetime.at_most or 0.0) / 2


def behind_carrier(local: Address | None, mapped: Address) -> bool | None:
    """Whether a carrier translates, too, as far as addresses alone tell.

    A router that has an address of 100.64.0.0/10 outside has one because of its carrier (RFC 6598);
    we see that only where we have such an address ourselves, or a server within the carrier's net.
    """
    if ":" in mapped[0]:
        return None
    if ip_address(mapped[0]) in _SHARED:
        return True
    if local is None:
        return None
    own = ip_address(local[0])
    if own in _SHARED:
        return True
    return False if is_public(own) else None
