"""What NATs and firewalls do to TCP, asked of a STUN server: mapping, ports, filters, hairpin.

A filter over TCP lets in connections, so that somebody has to connect to us: a `pt relay` does, if
it is asked over a connection from the very address (CONNECT-BACK). Other servers do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pt.aio import tcp
from pt.errors import PtError, WaitTimeoutError
from pt.node.nat_hairpin import hairpins
from pt.node.nat_tcp_lifetime import TcpLifetime, measure_tcp_lifetime
from pt.stun.aio import ask_over_stream, binding_of
from pt.stun.attributes import CONNECT_BACK, Address, Change, change_request, read_change_request
from pt.stun.behaviour import Places, dependence_of
from pt.stun.binding import Binding
from pt.stun.discovery import behind_carrier
from pt.stun.messages import Kind, StunError, decode
from pt.stun.ports import PortSample, classify
from pt.wire.nat_facts import Allocation, Dependence, NatFacts, Protocol

__all__ = ["TcpDiscovery", "discover_tcp"]

SOCKETS: Final = 8
"""Connections whose external ports are looked at."""
BACK_PATIENCE: Final = 1.6
"""Seconds in which a relay connects, which tries it so long."""
_LONGEST: Final = 64
"""Bytes that are read of whoever connects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpDiscovery:
    """What was found over TCP; `problem`: why nothing was, `silent`: because nobody answered."""

    facts: NatFacts
    server: Address | None = None
    local: Address | None = None
    binding: Binding | None = None
    mapped: dict[Address, Address] = field(default_factory=dict)
    lifetime: TcpLifetime | None = None
    problem: str = ""
    silent: bool = False


async def discover_tcp(
    server: Address,
    *,
    sockets: int = SOCKETS,
    hairpin: bool = True,
    cliffs: Sequence[float] = (),
    timeout: float = 4.0,
) -> TcpDiscovery:
    """Ask a server all that it can tell; whether there is a `hairpin`; silences up to `cliffs`.

    The connections stay open until the last one was answered: a NAT forgets those that are closed.
    """
    facts = NatFacts(family=6 if ":" in server[0] else 4, protocol=Protocol.TCP)
    with contextlib.ExitStack() as stack:

        async def bound(to: Address, local: Address | None = None) -> tuple[Binding, Address]:
            sock = stack.enter_context(socket.socket(tcp.ip_family(to[0]), socket.SOCK_STREAM))
            outcome, own = await ask_over_stream(sock, to, local=local, timeout=timeout)
            return binding_of(to, outcome), own

        async def tried(
            to: Address, local: Address | None = None
        ) -> tuple[Binding, Address] | None:
            try:
                return await bound(to, local)
            except (PtError, OSError):  # or the system gives no more sockets
                return None

        try:
            first, local = await bound(server)
        except (PtError, OSError) as error:
            silent = isinstance(error, WaitTimeoutError)
            return TcpDiscovery(facts=facts, server=server, problem=str(error), silent=silent)
        places = Places.of(server, first)
        asked = [each for each in (places.second_port, places.same_port, places.other) if each]
        found = await asyncio.gather(*(tried(each, local) for each in asked))
        fresh = await asyncio.gather(*(tried(server) for _ in range(sockets)))
    mapped = {server: first.mapped}
    mapped |= {place: each[0].mapped for place, each in zip(asked, found, strict=True) if each}
    samples = [PortSample(each[1][1], each[0].mapped[1]) for each in fresh if each is not None]
    ports = classify(samples)
    translated = local != first.mapped
    dependence = dependence_of(places, mapped) if translated else Dependence.INDEPENDENT
    filtering, met = await asyncio.gather(
        _filtering(server, places, mapped, local[0], timeout),
        hairpins(server, local[0], first.rtt, timeout) if hairpin and translated else _unknown(),
    )
    lifetime: TcpLifetime | None = None
    if cliffs:
        lifetime = await measure_tcp_lifetime(server, cliffs, first.rtt, timeout)
    # Silence means nothing where each connection comes from a port that a filter does not know.
    free = Dependence.INDEPENDENT in (dependence, filtering)
    facts = replace(
        facts,
        works=True,
        translated=translated,
        mapping=dependence,
        filtering=filtering,
        ports=ports.allocation if translated else Allocation.UNKNOWN,
        step=ports.step if translated else 0,
        block=ports.block if translated else None,
        hairpin=met if met or free else None,
        lifetime=None if lifetime is None else lifetime.safe,
        external=first.mapped[0],
        carrier_grade=behind_carrier(local, first.mapped),
    )
    return TcpDiscovery(
        facts=facts,
        server=server,
        local=local,
        binding=first,
        mapped=mapped,
        lifetime=lifetime,
    )


async def _unknown() -> None:
    return None


async def _filtering(
    server: Address, places: Places, mapped: dict[Address, Address], host: str, timeout: float
) -> Dependence:
    """Listen on a fresh port that has connected to the server alone, and see who gets in."""
    if places.other is None:
        return Dependence.UNKNOWN
    wish = (CONNECT_BACK, change_request(Change(True, True))[1])
    try:
        with (
            tcp.listen(host, 0, share_port=True) as listener,
            socket.socket(tcp.ip_family(host), socket.SOCK_STREAM) as sock,
        ):
            own = (host, int(listener.getsockname()[1]))
            outcome, _ = await ask_over_stream(
                sock, server, local=own, attributes=[wish], timeout=timeout
            )
            if outcome.response is None:
                return Dependence.UNKNOWN
            told = outcome.response.get(CONNECT_BACK)
            tried = Change(False, False) if told is None else read_change_request(told)
            wanted = {
                place
                for place, is_tried in ((places.second_port, tried.port), (places.other, tried.ip))
                if place is not None and is_tried
            }
            came = await _callers(listener, outcome.response.transaction, wanted, places.other)
    except (PtError, OSError):
        return Dependence.UNKNOWN
    if places.other in came:
        return Dependence.INDEPENDENT
    if not wanted <= mapped.keys() or places.other not in wanted:
        return Dependence.UNKNOWN  # perhaps the server's own network is in the way
    return Dependence.ADDRESS if came else Dependence.ADDRESS_AND_PORT


async def _callers(
    listener: socket.socket, transaction: bytes, wanted: set[Address], enough: Address
) -> set[Address]:
    """Who of `wanted` connects, and proves to be the server; `enough` ends the wait."""
    loop = asyncio.get_running_loop()
    came: set[Address] = set()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(BACK_PATIENCE if wanted else 0):
            while came != wanted and enough not in came:
                caller, name = await loop.sock_accept(listener)
                with caller:
                    caller.setblocking(False)
                    data = await loop.sock_recv(caller, _LONGEST)
                with contextlib.suppress(StunError):
                    said = decode(data)
                    if said.kind is Kind.INDICATION and said.transaction == transaction:
                        came |= {(str(name[0]), int(name[1]))} & wanted
    return came
