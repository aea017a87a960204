"""The network of a plan: links, NATs and the internet between the hosts, as one machine.

world = World(plan, rng, note)
world.send("a", data, now)                  # host a's device gave a packet
for host, data in world.advance(now): …     # what arrives
world.next_due()                            # when to call advance again
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any, Final, TypeVar

from pt.lab.model import portmap
from pt.lab.model.box import Box
from pt.lab.model.builder import Reason, echo_reply, fragments, icmp_error, may_answer, udp
from pt.lab.model.packet import ICMP, ICMP6, UDP, MalformedError, Packet, address_text
from pt.lab.model.pipe import Pipe, Randomness
from pt.lab.model.plan import CORE, HostPlan, NatPlan, Network, Plan
from pt.lab.model.spec import LinkSpec, NatSpec

__all__ = ["UnknownError", "World"]

MAX_IN_FLIGHT: Final = 200_000
"""Packets on all links together; more are dropped (a queue's bound is its `queue=`)."""

_Found = TypeVar("_Found")
Note = Callable[[str, float, dict[str, Any]], None]


class UnknownError(LookupError):
    """There is no such host, NAT or link; the message lists those there are."""


class _Attachment:
    """Something on a network: a host, or a NAT's outside. `up` leads to the network."""

    __slots__ = ("down", "hops", "name", "network", "owner", "up")

    def __init__(self, name: str, network: _Net, up: Pipe, down: Pipe, hops: int) -> None:
        self.name = name
        self.network = network
        self.up = up
        self.down = down
        self.hops = hops
        self.owner: HostPlan | _Middle | None = None


class _Net:
    """A network: who has which address, and who leads out of it."""

    __slots__ = ("gateway4", "gateway6", "is_core", "name", "routers", "table")

    def __init__(self, plan: Network) -> None:
        self.name = plan.name
        self.is_core = plan.name == CORE
        self.table: dict[bytes, _Attachment] = {}
        self.gateway4: _Middle | None = None
        self.gateway6: _Middle | None = None
        self.routers = {ip_address(text).packed for text in (plan.router, plan.router6) if text}

    def router(self, *, v6: bool) -> bytes:
        """Return the router's address of a family."""
        return next(each for each in self.routers if (len(each) == 16) == v6)


class _Middle:
    """A box in its place."""

    __slots__ = ("box", "inside", "name", "outside")

    def __init__(self, name: str, box: Box, inside: _Net, outside: _Attachment) -> None:
        self.name = name
        self.box = box
        self.inside = inside
        self.outside = outside


class World:
    """All networks of a plan. `tap` is given every packet that crosses the internet's middle."""

    def __init__(
        self,
        plan: Plan,
        rng: Callable[[str], Randomness],
        note: Note | None = None,
        tap: Callable[[float, bytes], None] | None = None,
        kind: Callable[[NatSpec], type[Box]] = lambda _: Box,
    ) -> None:
        self._rng = rng
        self._note = note
        self._tap = tap
        self._kind = kind
        self._nets = {each.name: _Net(each) for each in plan.networks}
        self._links: dict[str, list[_Attachment]] = {}
        self._hosts: dict[str, _Attachment] = {}
        self._middles: dict[str, _Middle] = {}
        self._flying: list[tuple[float, int, bool, _Attachment, Packet]] = []
        self._order = 0
        self._arrived: list[tuple[str, bytes]] = []
        self.drops: Counter[tuple[str, str]] = Counter()
        """Packets that did not arrive, by place and reason."""
        self._links_plan = plan.links
        for host in plan.hosts:
            self._add_host(host)
        for nat in plan.nats:
            self._add_nat(nat)

    # --- building ------------------------------------------------------------------------------

    def _attach(self, name: str, network: str, link: str) -> _Attachment:
        spec = self._links_plan[link]
        up, down = (
            Pipe(spec.shape, self._rng(f"{name}/{direction}")) for direction in ("up", "down")
        )
        attachment = _Attachment(name, self._nets[network], up, down, spec.hops)
        self._links.setdefault(link, []).append(attachment)
        return attachment

    def _add_host(self, host: HostPlan) -> None:
        attachment = self._attach(host.name, host.at.network, host.at.link)
        attachment.owner = host
        for text in host.addresses:
            attachment.network.table[ip_address(text).packed] = attachment
        self._hosts[host.name] = attachment

    def _add_nat(self, nat: NatPlan) -> None:
        outside = self._attach(nat.name, nat.at.network, nat.at.link)
        inside = self._nets[nat.inside]
        addresses = [ip_address(text).packed for text in nat.addresses]
        box = self._box(nat.name, nat.spec, addresses)
        middle = outside.owner = _Middle(nat.name, box, inside, outside)
        self._middles[nat.name] = middle
        for address in addresses:
            outside.network.table[address] = outside
        if nat.family == 6:
            inside.gateway6 = middle
        else:
            inside.gateway4 = middle

    def _box(self, name: str, spec: NatSpec, addresses: list[bytes]) -> Box:
        def note(event: str, now: float, facts: dict[str, Any]) -> None:
            if self._note is not None:
                self._note(event, now, {"at": name, **facts})

        outer = addresses if spec.translates else []
        return self._kind(spec)(
            spec, outer, self._rng(name), note if self._note is not None else None
        )

    # --- packets -------------------------------------------------------------------------------

    def send(self, host: str, data: bytes, now: float) -> None:
        """Take a packet from a host's device."""
        attachment = self._hosts[host]
        try:
            packet = Packet(data)
        except MalformedError as error:
            self._drop(host, f"malformed: {error}", None, now)
            return
        if attachment.network.table.get(packet.source) is not attachment:
            self._drop(host, "source address is not the host's", packet, now)
        elif packet.target[0] == 0xFF if packet.v6 else packet.target[0] >= 224:
            self._multicast(attachment, packet, now)
        else:
            self._up(attachment, packet, now)

    def advance(self, now: float) -> list[tuple[str, bytes]]:
        """Move what is due; return what arrived at hosts since the last call."""
        flying = self._flying
        while flying and flying[0][0] <= now:
            due, _, upward, attachment, packet = heapq.heappop(flying)
            if upward:
                self._route(attachment.network, attachment, packet, due)
            else:
                self._arrive(attachment, packet, due)
        arrived, self._arrived = self._arrived, []
        return arrived

    def next_due(self) -> float | None:
        """Return when the next packet moves."""
        return self._flying[0][0] if self._flying else None

    def _multicast(self, source: _Attachment, packet: Packet, now: float) -> None:
        if source.network.is_core:
            self._drop(source.name, "multicast on the internet", packet, now)
            return
        for name, attachment in self._hosts.items():
            if attachment.network is source.network and attachment is not source:
                self._arrived.append((name, bytes(packet.data)))

    def _up(self, attachment: _Attachment, packet: Packet, now: float) -> None:
        self._travel(attachment, attachment.up, packet, now, upward=True)

    def _down(self, attachment: _Attachment, packet: Packet, now: float) -> None:
        self._travel(attachment, attachment.down, packet, now, upward=False)

    def _travel(
        self, attachment: _Attachment, pipe: Pipe, packet: Packet, now: float, *, upward: bool
    ) -> None:
        mtu = pipe.shape.mtu
        if mtu and len(packet.data) > mtu:
            self._too_big(attachment, packet, now, mtu, upward=upward)
            return
        due = pipe.offer(len(packet.data), now)
        if due is None:
            self._drop(attachment.name, "cut" if pipe.cut else "lost on the link", packet, now)
            return
        copies = pipe.copies()
        if due <= now and copies == 1 and not self._flying:
            if upward:
                self._route(attachment.network, attachment, packet, now)
            else:
                self._arrive(attachment, packet, now)
            return
        if len(self._flying) >= MAX_IN_FLIGHT:
            self._drop(attachment.name, "too many packets in flight", packet, now)
            return
        self._fly(due, attachment, packet, upward=upward)
        if copies > 1:
            self._fly(due, attachment, Packet(bytes(packet.data)), upward=upward)

    def _fly(self, due: float, attachment: _Attachment, packet: Packet, *, upward: bool) -> None:
        self._order += 1
        heapq.heappush(self._flying, (due, self._order, upward, attachment, packet))

    def _too_big(
        self, attachment: _Attachment, packet: Packet, now: float, mtu: int, *, upward: bool
    ) -> None:
        if packet.may_fragment:
            pipe = attachment.up if upward else attachment.down
            for piece in fragments(packet, mtu):
                self._travel(attachment, pipe, piece, now, upward=upward)
            return
        self._drop(attachment.name, "too big", packet, now)
        if not may_answer(packet):
            return
        core = self._nets[CORE]
        answer = icmp_error(packet, Reason.TOO_BIG, core.router(v6=packet.v6), mtu)
        if upward:
            self._arrive(attachment, answer, now)
        else:
            self._route(core, attachment, answer, now)

    def _route(self, net: _Net, came: _Attachment, packet: Packet, now: float) -> None:
        if net.is_core and self._tap is not None:
            self._tap(now, bytes(packet.data))
        target = net.table.get(packet.target)
        if target is not None:
            if net.is_core and came is not target:
                hops = came.hops + target.hops
                if packet.ttl <= hops:
                    self._expired(net, came, packet, now)
                    return
                packet.hop(hops)
            self._down(target, packet, now)
            return
        if packet.target in net.routers:
            self._ask_router(net, came, packet, now)
            return
        middle = net.gateway6 if packet.v6 else net.gateway4
        if middle is None:
            self._drop(net.name, "no route", packet, now)
            return
        if packet.ttl <= 1:
            self._expired(net, came, packet, now)
            return
        packet.hop()
        verdict = middle.box.outbound(packet, now)
        if verdict.drop:
            self._drop(middle.name, verdict.drop, packet, now)
            if verdict.reply is not None:
                self._route(net, came, verdict.reply, now)
        elif verdict.back:
            self._route(net, came, packet, now)
        else:
            self._up(middle.outside, packet, now)

    def _arrive(self, attachment: _Attachment, packet: Packet, now: float) -> None:
        owner = attachment.owner
        if not isinstance(owner, _Middle):
            self._arrived.append((attachment.name, bytes(packet.data)))
            return
        if packet.ttl <= 1:
            self._expired(attachment.network, attachment, packet, now)
            return
        packet.hop()
        verdict = owner.box.inbound(packet, now)
        if verdict.drop:
            self._drop(owner.name, verdict.drop, packet, now)
            if verdict.reply is not None:
                self._up(attachment, verdict.reply, now)
            return
        self._route(owner.inside, attachment, packet, now)

    def _expired(self, net: _Net, came: _Attachment, packet: Packet, now: float) -> None:
        self._drop(net.name, "time to live is over", packet, now)
        if not may_answer(packet):
            return
        answer = icmp_error(packet, Reason.TTL_EXCEEDED, net.router(v6=packet.v6))
        back = net.table.get(packet.source)
        if back is not None:
            self._down(back, answer, now)
        elif not net.is_core:
            self._route(net, came, answer, now)

    def _ask_router(self, net: _Net, came: _Attachment, packet: Packet, now: float) -> None:
        middle = net.gateway6 if packet.v6 else net.gateway4
        if packet.protocol in (ICMP, ICMP6) and packet.icmp_type in (8, 128):
            self._route(net, came, echo_reply(packet), now)
        elif (
            middle is not None
            and (packet.protocol, packet.dport) == (UDP, portmap.PORT)
            and middle.box.spec.pmp != "off"
        ):
            self._grant(net, came, middle.box, packet, now)
        else:
            self._drop(net.name, "the router offers no service", packet, now)

    def _grant(self, net: _Net, came: _Attachment, box: Box, packet: Packet, now: float) -> None:
        """Let a router answer a request for a port mapping."""
        box.booted = now if box.booted is None else box.booted
        reply = portmap.answer(
            packet.payload,
            packet.source,
            box.addresses[0],
            int(now - box.booted),
            lambda protocol, inner, port, lasts: box.lease(protocol, inner, port, lasts, now),
            speaks=box.spec.pmp,
        )
        if reply is None:
            self._drop(net.name, "not a request for a port mapping", packet, now)
            return
        ends = ((packet.target, packet.dport), (packet.source, packet.sport))
        self._route(net, came, udp(*ends, reply), now)

    def _drop(self, place: str, why: str, packet: Packet | None, now: float) -> None:
        self.drops[place, why] += 1
        if self._note is not None:
            self._note("drop", now, {"at": place, "why": why, "packet": str(packet or "")})

    # --- control -------------------------------------------------------------------------------

    @property
    def nats(self) -> tuple[str, ...]:
        """Names of all NATs and firewalls."""
        return tuple(self._middles)

    def mappings(self, now: float) -> dict[str, list[dict[str, Any]]]:
        """Return what each NAT remembers."""
        return {name: middle.box.mappings(now) for name, middle in self._middles.items()}

    def expire(self, now: float) -> None:
        """Let bindings time out on time, for the trace; packets do so by themselves."""
        for middle in self._middles.values():
            middle.box.expire(now)

    def flush(self, name: str, now: float, *, renumber: bool = False) -> tuple[str, ...]:
        """Reboot a NAT; `renumber`: it comes back with other addresses. Return its addresses."""
        middle = _find(self._middles, name, "NAT")
        addresses = middle.box.addresses
        if renumber:
            table = middle.outside.network.table
            for address in addresses:
                del table[address]
            addresses = tuple(_next_free(table, address) for address in addresses)
            table.update(dict.fromkeys(addresses, middle.outside))
        middle.box.flush(now, addresses)
        if self._note is not None:
            facts = {"at": name, "addresses": [address_text(each) for each in addresses]}
            self._note("reboot", now, facts)
        return tuple(address_text(each) for each in addresses)

    def change_nat(self, name: str, spec: NatSpec, now: float) -> None:
        """Let a NAT behave otherwise from now on; it forgets what it knew."""
        middle = _find(self._middles, name, "NAT")
        middle.box.flush(now)
        middle.box = self._box(name, spec, list(middle.box.addresses))

    def set_link(self, name: str, spec: LinkSpec) -> None:
        """Give a link another shape; packets on their way keep their arrival time."""
        for attachment in _find(self._links, name, "link"):
            attachment.hops = spec.hops
            for pipe in (attachment.up, attachment.down):
                pipe.shape = spec.shape

    def cut(self, name: str, *, cut: bool) -> None:
        """Let a link swallow everything, or no longer."""
        for attachment in _find(self._links, name, "link"):
            attachment.up.cut = attachment.down.cut = cut

    def stats(self) -> dict[str, Any]:
        """Return counters: of each link and direction, and of drops by place and reason."""
        links = {
            attachment.name: {"up": attachment.up.stats(), "down": attachment.down.stats()}
            for attachments in self._links.values()
            for attachment in attachments
        }
        drops: dict[str, dict[str, int]] = {}
        for (place, why), count in sorted(self.drops.items()):
            drops.setdefault(place, {})[why] = count
        return {"links": links, "drops": drops}


def _find(table: Mapping[str, _Found], name: str, kind: str) -> _Found:
    if name not in table:
        raise UnknownError(f"no {kind} {name!r}: there are {', '.join(sorted(table))}")
    return table[name]


def _next_free(table: dict[bytes, _Attachment], address: bytes) -> bytes:
    """Return the next address of the same /24 that nobody has."""
    for step in range(1, 254):
        candidate = address[:3] + bytes(((address[3] + step - 1) % 254 + 1,))
        if candidate not in table and candidate != address:
            return candidate
    raise UnknownError("no free address in the NAT's network")
