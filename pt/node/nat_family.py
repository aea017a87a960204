"""What NATs and firewalls do to packets of one IP version: UDP and TCP side by side.

What is blocked is told by comparison: silence of a server over UDP means something only if its TCP
port answers, and the other way round.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, NamedTuple

from pt.aio.tcp import dial
from pt.aio.together import together
from pt.errors import NetworkError, RefusedError, WaitTimeoutError
from pt.node.nat_tcp import TcpDiscovery, discover_tcp
from pt.stun.aio import Explorer, bind_over_tcp
from pt.stun.discovery import Discovery, Wishes
from pt.stun.messages import StunError
from pt.wire.nat_facts import NatFacts, Protocol

__all__ = ["Family", "How", "Reach", "measure"]

TCP_PATIENCE: Final = 4.0
"""Seconds that a TCP port has to answer."""
USUAL_PORTS: Final = (443, 4001)
"""TCP ports that are tried, too: HTTPS, and libp2p."""
USUAL_PATIENCE: Final = 2.0
HEAD_START: Final = 0.3
"""Seconds that servers named before the first that answered have still."""
Address = tuple[str, int]


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
    named: bool = True
    """Else it was tried because networks that let little out let such ports out: a refusal tells
    that it is reached, silence tells nothing."""

    @property
    def through(self) -> bool:
        """Whether packets get there and back."""
        return self.how is How.OPEN or (not self.named and self.how is How.REFUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What was found."""

    udp: Discovery
    tcp: TcpDiscovery
    reach: tuple[Reach, ...] = ()
    """How far each server's ports are, as far as that was waited for."""

    @property
    def facts(self) -> tuple[NatFacts, NatFacts]:
        """Over UDP and TCP."""
        return self.udp.facts, self.tcp.facts


async def measure(
    explorer: Explorer, servers: Sequence[Address], wishes: Wishes, *, every: bool = True
) -> Family:
    """Ask servers of one IP version: `explorer` over UDP, connections over TCP.

    With `every` server's port is waited for, and usual ports of the first one; else the first that
    serves is enough. The explorer is closed.

    Raises:
        NetworkError: there is no way to any of them.
        LimitError: the system gives no sockets.

    """
    try:
        udp, tcp, usual = await together(
            explorer.discover(servers, wishes),
            _over_tcp(servers, wishes, every),
            _usual(servers if every else ()),
        )
    finally:
        explorer.close()
    reach = [
        Reach(Protocol.UDP, each, How.SILENT if each in udp.silent else How.OPEN)
        for each in servers
    ]
    over_udp, over_tcp = _compare(udp, tcp[0])
    return Family(udp=over_udp, tcp=over_tcp, reach=(*reach, *tcp[1], *usual))


async def _over_tcp(
    servers: Sequence[Address], wishes: Wishes, every: bool
) -> tuple[TcpDiscovery, list[Reach]]:
    """How far each server's port is, and all of the first that serves STUN there."""
    loop = asyncio.get_running_loop()
    tries = [loop.create_task(_try_tcp(each)) for each in servers]
    found: TcpDiscovery | None = None
    try:
        number = await _first_serving(tries)
        if number is not None:
            found = await discover_tcp(
                servers[number], hairpin=wishes.tcp_hairpin, cliffs=wishes.cliffs
            )
        if every:
            await asyncio.wait(tries)
    finally:
        late = [each for each in tries if not each.done()]
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
    tried = [
        (server, *task.result())
        for server, task in zip(servers, tries, strict=True)
        if not task.cancelled()
    ]
    reach = [Reach(Protocol.TCP, server, how) for server, how, _ in tried]
    if found is None:
        silent = all(each.how is How.SILENT for each in reach)
        facts = NatFacts(family=6 if ":" in servers[0][0] else 4, protocol=Protocol.TCP)
        found = TcpDiscovery(facts=facts, server=servers[0], problem=tried[0][2], silent=silent)
    return found, reach


async def _first_serving(tries: Sequence[asyncio.Task[tuple[How, str]]]) -> int | None:
    """The first in the list that serves, if it is not much slower than another one."""

    def serving() -> int | None:
        done = (number for number, task in enumerate(tries) if task.done())
        return next((number for number in done if not tries[number].result()[1]), None)

    waiting = set(tries)
    while waiting and serving() is None:
        _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if waiting and serving() != 0:
        await asyncio.wait(waiting, timeout=HEAD_START)
    return serving()


async def _try_tcp(server: Address) -> tuple[How, str]:
    """How far a connection gets, and why STUN is not served there, if so."""
    try:
        await bind_over_tcp(server, timeout=TCP_PATIENCE)
    except WaitTimeoutError as error:
        return How.SILENT, str(error)
    except NetworkError as error:
        cause = error.__cause__  # none: it opened, and was closed again
        return (_failed(cause) if isinstance(cause, OSError) else How.OPEN), str(error)
    except (RefusedError, StunError) as error:
        return How.OPEN, str(error)
    return How.OPEN, ""


def _failed(error: OSError) -> How:
    return How.REFUSED if error.errno == errno.ECONNREFUSED else How.UNREACHABLE


async def _usual(servers: Sequence[Address]) -> list[Reach]:
    """How far usual TCP ports of the first server are, where nobody was named."""
    found = [(host, port) for host, _ in servers[:1] for port in USUAL_PORTS]
    untried = [each for each in found if each not in servers]
    hows = await asyncio.gather(*map(_try_connect, untried))
    return [
        Reach(Protocol.TCP, address, how, named=False)
        for address, how in zip(untried, hows, strict=True)
    ]


async def _try_connect(address: Address) -> How:
    """How far a connection gets; nothing is said."""
    try:
        async with asyncio.timeout(USUAL_PATIENCE):
            (await dial(*address)).close()
    except TimeoutError:
        return How.SILENT
    except OSError as error:
        return _failed(error)
    return How.OPEN


def _compare(udp: Discovery, tcp: TcpDiscovery) -> tuple[Discovery, TcpDiscovery]:
    """Take silence of the one for blocked if the other one answers."""
    if udp.facts.works is None and tcp.facts.works:
        udp = replace(udp, facts=replace(udp.facts, works=False))
    if tcp.silent and udp.facts.works:
        tcp = replace(tcp, facts=replace(tcp.facts, works=False))
    return udp, tcp
