"""Port mappings of a tunnel's node: who is told of them, and when.

The gateway is asked in the background.  An address that servers outside find us at, or have dialed,
is published as one of ours; another public one is a candidate for hole punching; what is not public
is only told to the user, with the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, TypeAlias

from pt.autonat.reachability import State
from pt.node.gateways import find_places
from pt.node.outside import Outside, judge, seen_by_servers, seen_over_tcp
from pt.node.portmap import PortMapper
from pt.portmap.mapping import Mapping, Outer, Wanted
from pt.tunnel import events
from pt.wire import ipranges
from pt.wire.multiaddr import Multiaddr
from pt.wire.nat_facts import Protocol

if TYPE_CHECKING:
    from pt.aio.udp import Address
    from pt.node.connection import Connection
    from pt.node.nat_view import NatView
    from pt.node.node import Node

__all__ = ["PortMappings", "map_meanwhile", "wanted_of"]

AGAIN: Final = 30.0
"""Seconds until an address is looked at again that nobody outside could be asked about."""
PAUSE: Final = 0.25
"""Seconds between two looks at least, whatever is new."""
SELDOM: Final = 600.0
"""The same, of others."""
_WHY: Final = {
    Outside.VERIFIED: "found there from outside: published",
    Outside.UNVERIFIED: "nobody outside can be asked whether it leads here (a pt relay can): used "
    "for hole punching alone",
    Outside.CLOSED: "the router says so, but lets nobody in: not published",
    Outside.ELSEWHERE: "others see this machine at another address: there is another NAT behind "
    "the router; not published",
    Outside.CARRIER: "the router is itself behind a carrier's NAT: not public. A public IPv4 "
    "address from the provider, IPv6 or a relay helps",
    Outside.PRIVATE: "the router is itself behind another router: not public. Forward the port "
    "there, too, or have it only bridge",
}
_DIALED: Final = {State.REACHABLE: True, State.UNREACHABLE: False}
_Key: TypeAlias = "tuple[Wanted, Address]"


class PortMappings:
    """Keeps the node's ports mapped; `changed` is told when its addresses are others.

    `view` is of the NATs before it; its servers are asked.  `state` says what AutoNAT servers have
    found out.
    """

    def __init__(
        self,
        node: Node,
        view: NatView,
        emit: Callable[[events.Event], None],
        *,
        changed: Callable[[], None],
        state: Callable[[Multiaddr], State] = lambda _: State.UNKNOWN,
    ) -> None:
        self._node = node
        self._view = view
        self._emit = emit
        self._changed = changed
        self._state = state
        self._given = node.announce
        self._told: dict[_Key, tuple[Mapping, Outside]] = {}
        self._looking = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._mapper = PortMapper(
            lambda local: wanted_of(node, local),
            self._wake.set,
            tracer=node.tracer,
            places=lambda: find_places() if _listens(node) else [],
        )

    def start(self) -> None:
        """Begin, in the background."""
        self._mapper.start()
        self._node.on_identified.append(self._met)
        self._task = asyncio.get_running_loop().create_task(self._run())

    def _met(self, connection: Connection) -> None:
        """A peer outside has said where it sees us."""
        unsure = any(found is Outside.UNVERIFIED for _, found in self._told.values())
        if (
            (unsure or self._looking)
            and connection.relay is None
            and connection.remote_addr.is_public
        ):
            self._wake.set()

    def recheck(self) -> None:
        """There is somebody else outside to ask, or an answer of AutoNAT."""
        self._wake.set()

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """Where gateways map to us, public ones, whether they lead here or not."""
        return tuple(
            _multiaddr(each) for each, _ in self._told.values() if each.outer is Outer.PUBLIC
        )

    async def close(self) -> None:
        """Give the mappings back, and have nobody told of them any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        with contextlib.suppress(ValueError):
            self._node.on_identified.remove(self._met)
        self._node.mapped, self._node.announce = (), self._given
        await self._mapper.close()

    async def _run(self) -> None:
        while True:
            self._looking = True
            await self._look()
            self._looking = False
            await asyncio.sleep(PAUSE)
            sure = all(found is not Outside.UNVERIFIED for _, found in self._told.values())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SELDOM if sure else AGAIN):
                    await self._wake.wait()
            self._wake.clear()

    async def _look(self) -> None:
        """Judge every mapping anew, and tell what is another than before."""
        mappings = self._mapper.mappings
        found = await asyncio.gather(*map(self._judge, mappings))
        before = self._told
        self._told = {
            _key(each): (each, outside) for each, outside in zip(mappings, found, strict=True)
        }
        self._apply()
        for key, (mapping, _) in before.items():
            if key not in self._told:
                self._emit(_event(mapping, None))
        for key, (mapping, outside) in self._told.items():
            known = before.get(key)
            if known is None or (known[0].external, known[1]) != (mapping.external, outside):
                self._emit(_event(mapping, outside))

    async def _judge(self, mapping: Mapping) -> Outside:
        dialed = _DIALED.get(self._state(_multiaddr(mapping)))
        if dialed is False:
            return judge(mapping, (), strangers=False)
        protocol = mapping.wanted.protocol
        seen = self._node.observed.seen(protocol)
        strangers: bool | None = None
        if protocol is Protocol.UDP and self._is_shared(mapping.wanted.port):
            servers = list(dict.fromkeys(self._view.servers()))
            more, strangers = await seen_by_servers(self._view.stun, servers, mapping)
            seen += more
        elif protocol is Protocol.TCP and not seen:
            seen = await seen_over_tcp(self._view.servers(), mapping)
        return judge(mapping, seen, strangers=dialed if strangers is None else strangers)

    def _is_shared(self, port: int) -> bool:
        udp = self._node.quic.udp
        return udp is not None and port in {number for _, number in udp.addresses}

    def _apply(self) -> None:
        usable = [mapping for mapping, outside in self._told.values() if outside.usable]
        self._node.mapped = tuple(
            each.external for each in usable if each.wanted.protocol is Protocol.UDP
        )
        verified = [
            _multiaddr(mapping)
            for mapping, outside in self._told.values()
            if outside is Outside.VERIFIED
        ]
        announced = tuple(dict.fromkeys((*self._given, *verified)))
        if announced != self._node.announce:
            self._node.announce = announced
            self._changed()


async def map_meanwhile(
    node: Node,
    view: NatView,
    emit: Callable[[events.Event], None],
    *,
    changed: Callable[[], None],
) -> None:
    """Keep the node's ports mapped until cancelled."""
    mappings = PortMappings(node, view, emit, changed=changed)
    mappings.start()
    try:
        await asyncio.Event().wait()
    finally:
        await mappings.close()


def wanted_of(node: Node, local: str) -> list[Wanted]:
    """The UDP port that QUIC shares and the first TCP port that are open at an address of ours."""
    udp = node.quic.udp
    over_udp = _open_at(local, [] if udp is None else udp.addresses)
    over_tcp = _open_at(local, node.points)
    found = [(Protocol.UDP, each) for each in over_udp[:1]]
    found += [(Protocol.TCP, each) for each in over_tcp[:1]]
    return [Wanted(protocol, port) for protocol, port in found]


def _listens(node: Node) -> bool:
    """Whether anybody but this machine could reach the node."""
    udp = node.quic.udp
    points = [*node.points, *([] if udp is None else udp.addresses)]
    return any(not ipranges.is_loopback(ip_address(host)) for host, _ in points)


def _open_at(local: str, points: Iterable[tuple[str, int]]) -> list[int]:
    places = (local, "::" if ":" in local else "0.0.0.0")
    return [port for host, port in points if port and host in places]


def _key(mapping: Mapping) -> _Key:
    """What is mapped: a port may be, at a gateway of each IP version."""
    return mapping.wanted, mapping.internal


def _multiaddr(mapping: Mapping) -> Multiaddr:
    host, port = mapping.external
    make = Multiaddr.quic if mapping.wanted.protocol is Protocol.UDP else Multiaddr.tcp
    return make(host, port)


def _event(mapping: Mapping, outside: Outside | None) -> events.Mapped:
    return events.Mapped(
        ok=outside is not None,
        service=mapping.service.label,
        protocol=mapping.wanted.protocol.name.lower(),
        internal=_where(mapping.internal),
        external=_where(mapping.external),
        outside="gone" if outside is None else outside.value,
        detail="the router does not map it any more" if outside is None else _WHY[outside],
    )


def _where(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
