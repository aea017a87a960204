"""A NAT or stateful firewall: what becomes of a packet that comes from its inside or its outside.

Endpoint-independent, address-dependent, or address- and port-dependent (RFC 4787) in mapping and in
filtering, each by itself; UDP, TCP (RFC 5382) and ICMP queries; ICMP errors are translated with the
packet that they quote (RFC 5508). A firewall is a NAT whose outer endpoints are the inner ones.

A hard mapping with open filtering is as real ones are: a packet let in from a new remote endpoint
belongs to the binding that it came by, and so does what is sent back.

A NAT of another make is a subclass that has its own `key`, `admits` or `allocate` (docs/lab.md).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, NamedTuple

from pt.lab.model.bindings import Binding, Table
from pt.lab.model.builder import Reason, icmp_error, may_answer, tcp_reset
from pt.lab.model.packet import ACK, NAMES, RST, SYN, TCP, UDP, Endpoint, Packet, endpoint_text
from pt.lab.model.pipe import Randomness
from pt.lab.model.ports import Allocator
from pt.lab.model.spec import NatSpec

__all__ = ["Box", "Verdict"]

MAX_OCCUPIED: Final = 65536
"""Ports that the router itself holds towards somebody (input=accept); the oldest goes."""
MAX_FRAGMENTED: Final = 1024
"""Packets whose first fragment passed; the oldest goes."""
FRAGMENT_LIFETIME: Final = 30.0
SHOWN: Final = 1000

Note = Callable[[str, float, dict[str, Any]], None]


class Verdict(NamedTuple):
    """What becomes of a packet, which has been rewritten in place unless `drop` says why not.

    back: it goes to the inside again (hairpin). reply: a packet to whoever sent it.
    """

    drop: str = ""
    back: bool = False
    reply: Packet | None = None


PASS: Final = Verdict()
BACK: Final = Verdict(back=True)


class Box:
    """One middlebox with its outer `addresses`; `note` hears of bindings that come and go."""

    def __init__(
        self,
        spec: NatSpec,
        addresses: Sequence[bytes],
        rng: Randomness,
        note: Note | None = None,
    ) -> None:
        self.spec = spec
        self.addresses = tuple(addresses)
        self.booted: float | None = None
        """When it came up: the epoch of its answers counts from there. None until the first one."""
        self._rng = rng
        self._note = note
        self._table = Table(spec, self._ended)
        self._allocators: dict[tuple[int, bytes], Allocator] = {}
        self._paired: dict[bytes, bytes] = {}
        self._occupied: dict[tuple[int, Endpoint, Endpoint], float] = {}
        self._fragmented: dict[Hashable, tuple[bytes, bool, float]] = {}

    # --- packets -------------------------------------------------------------------------------

    def outbound(self, packet: Packet, now: float) -> Verdict:
        """Take a packet from the inside."""
        if self.spec.kind == "public":
            return PASS
        self._table.expire(now)
        if packet.error is not None:
            return self._error_out(packet)
        if packet.ident is not None and (packet.later or not self.spec.frag):
            return self._fragment(packet, now)
        if forbidden := self._forbidden(packet):
            return Verdict(forbidden, reply=self._answer(packet, now, Reason.PROHIBITED))
        spec, protocol = self.spec, packet.protocol
        internal = (packet.source, packet.sport)
        remote = (packet.target, 0 if packet.is_query else packet.dport)
        hairpin = packet.target in self.addresses
        if hairpin and spec.hairpin == "off":
            return Verdict("hairpin is off")
        binding, why = self._binding(packet, internal, remote, now)
        if binding is None:
            return Verdict(why)
        session = binding.session(remote)
        session.sent = True
        if protocol == TCP:
            session.segment(packet.flags, outbound=True)
        self._table.refresh(binding, remote, session, now)
        ident = packet.ident
        if not hairpin or spec.hairpin == "on":
            packet.set_source(*binding.external)
        if hairpin:
            verdict = self.inbound(packet, now)
            return BACK if not verdict.drop else verdict
        self._remember_fragment(ident, packet.source, now, is_source=True)
        return PASS

    def inbound(self, packet: Packet, now: float) -> Verdict:
        """Take a packet from the outside."""
        if self.spec.kind == "public":
            return PASS
        self._table.expire(now)
        if packet.error is not None:
            return self._error_in(packet)
        if packet.ident is not None and (packet.later or not self.spec.frag):
            return self._fragment(packet, now)
        spec, protocol = self.spec, packet.protocol
        external = (packet.target, packet.dport)
        remote = (packet.source, 0 if packet.is_query else packet.sport)
        found = self._table.at(protocol, external)
        if not found:
            return self._unsolicited(packet, external, remote, now, "no mapping")
        allowed = (e for e in found if e.open_until > now or self.admits(e, remote, now))
        binding = next(allowed, None)
        if binding is None:
            return self._unsolicited(packet, external, remote, now, "filtered")
        known = remote in binding.sessions
        session = binding.session(remote)
        if protocol == TCP:
            if packet.flags & (SYN | ACK) == SYN and session.opening and not spec.simopen:
                return Verdict("simultaneous open is off")
            session.segment(packet.flags, outbound=False)
        if not known:
            self._table.alias(self.key(protocol, binding.internal, remote), binding)
        session.replied = session.replied or session.sent
        if spec.refresh == "both":
            self._table.refresh(binding, remote, session, now)
        elif not known:
            session.expires = binding.expires
        ident = packet.ident
        packet.set_target(*binding.internal)
        self._remember_fragment(ident, packet.target, now, is_source=False)
        return PASS

    def lease(
        self, protocol: int, internal: Endpoint, wanted: int, lifetime: float, now: float
    ) -> int | None:
        """Map a port for an inside host that asks for it, and let anybody in; 0 s ends that.

        Return the outer port, None if there is none left.
        """
        self._table.expire(now)
        key = (protocol, internal, "leased")
        binding = self._table.find(key)
        if binding is None and not lifetime:
            return 0
        if (
            binding is None and self.spec.mapping == "eim"
        ):  # what stands is granted (RFC 6887, 11.3)
            binding = self._table.find(self.key(protocol, internal, (b"", 0)))
            if binding is not None:
                self._table.alias(key, binding)
        if binding is None:
            address = self._outer_address(internal[0])
            external = (address, wanted or internal[1])
            if self._table.at(protocol, external):
                port = self._allocator(protocol, address).elsewhere(
                    lambda port: bool(self._table.at(protocol, (address, port)))
                )
                if port is None:
                    return None
                external = (address, port)
            binding = Binding(protocol, internal, external, now)
            self._table.add(key, binding)
            if self.spec.mapping == "eim":
                self._table.alias(self.key(protocol, internal, (b"", 0)), binding)
            if self._note is not None:
                self._note("map", now, {**self._facts(binding), "remote": "any"})
        self._table.lease(binding, now + lifetime)
        return binding.external[1]

    # --- what makes a NAT what it is -----------------------------------------------------------

    def key(self, protocol: int, internal: Endpoint, remote: Endpoint) -> Hashable:
        """Return what packets of one binding have in common."""
        match self.spec.mapping:
            case "eim":
                return protocol, internal
            case "adm":
                return protocol, internal, remote[0]
            case "apdm":
                return protocol, internal, remote

    def _binding(
        self, packet: Packet, internal: Endpoint, remote: Endpoint, now: float
    ) -> tuple[Binding | None, str]:
        protocol = packet.protocol
        key = self.key(protocol, internal, remote)
        binding = self._table.find(key)
        if binding is not None and not self._is_occupied(protocol, binding.external, remote, now):
            return binding, ""
        if protocol == TCP and packet.flags & (SYN | RST) != SYN:
            return None, "no such connection"
        moved = binding is not None
        if moved:  # the router holds this port towards this peer: the flow gets another
            key = (protocol, internal, remote, "moved")
            binding = self._table.find(key)
            if binding is not None:
                return binding, ""
        if self.spec.maximum and self._table.held[internal[0]] >= self.spec.maximum:
            return None, "quota"
        if self._table.full:
            return None, "table is full"
        external = self.allocate(protocol, internal, remote, now, moved=moved)
        if external is None:
            return None, "no free port"
        binding = Binding(protocol, internal, external, now)
        self._table.add(key, binding)
        if self._note is not None:
            self._note("map", now, {**self._facts(binding), "remote": endpoint_text(remote)})
        return binding, ""

    def allocate(
        self, protocol: int, internal: Endpoint, remote: Endpoint, now: float, *, moved: bool
    ) -> Endpoint | None:
        """Return an outer endpoint for a new binding; `moved`: the usual one is occupied."""
        if not self.spec.translates:
            return internal
        address = self._outer_address(internal[0])
        allocator = self._allocator(protocol, address)
        allocator.others(now)

        def taken(port: int) -> bool:
            external = (address, port)
            if self._is_occupied(protocol, external, remote, now):
                return True
            others = self._table.at(protocol, external)
            if self.spec.overload:
                return any(remote in other.sessions for other in others)
            return bool(others)

        if moved:
            port = allocator.elsewhere(taken)
        else:
            port = allocator.choose(internal[0], internal[1], taken)
        return None if port is None else (address, port)

    def _allocator(self, protocol: int, address: bytes) -> Allocator:
        found = self._allocators.get((protocol, address))
        if found is None:
            found = self._allocators[protocol, address] = Allocator(self.spec, self._rng)
        return found

    def _outer_address(self, inside: bytes) -> bytes:
        if self.spec.pooling == "arbitrary":
            return self.addresses[self._rng.randrange(0, len(self.addresses))]
        if inside not in self._paired:
            self._paired[inside] = self.addresses[len(self._paired) % len(self.addresses)]
        return self._paired[inside]

    def admits(self, binding: Binding, remote: Endpoint, now: float) -> bool:
        """Whether `remote` may send in by a binding."""
        match self.spec.filtering:
            case "eif":
                # Of several bindings that share a port, only its own remote endpoint has each.
                return not self.spec.overload or remote in binding.sessions
            case "adf":
                return binding.hosts.get(remote[0], 0.0) > now
            case "apdf":
                session = binding.sessions.get(remote)
                return session is not None and session.sent and session.expires > now

    # --- what does not pass --------------------------------------------------------------------

    def _forbidden(self, packet: Packet) -> str:
        if packet.protocol not in (UDP, TCP) and not packet.is_query:
            return "protocol is not translated"
        allowed = None
        if packet.protocol == UDP:
            allowed = self.spec.udp
        elif packet.protocol == TCP:
            allowed = self.spec.tcp
        if allowed is None or packet.dport in allowed:
            return ""
        return f"{NAMES[packet.protocol]} is blocked"

    def _unsolicited(
        self, packet: Packet, external: Endpoint, remote: Endpoint, now: float, why: str
    ) -> Verdict:
        if self.spec.input == "accept" and self.spec.translates and packet.protocol in (UDP, TCP):
            if len(self._occupied) >= MAX_OCCUPIED:
                del self._occupied[next(iter(self._occupied))]
            self._occupied[packet.protocol, external, remote] = now + self.spec.new
        return Verdict(why, reply=self._answer(packet, now, Reason.PORT))

    def _answer(
        self, packet: Packet, now: float, reason: tuple[tuple[int, int], tuple[int, int]]
    ) -> Packet | None:
        if self.spec.unsolicited == "drop":
            return None
        if packet.protocol == TCP:
            return tcp_reset(packet)
        if not may_answer(packet):
            return None
        return icmp_error(packet, reason, self.addresses[0] if self.addresses else packet.target)

    def _is_occupied(self, protocol: int, external: Endpoint, remote: Endpoint, now: float) -> bool:
        return bool(self._occupied) and self._occupied.get((protocol, external, remote), 0.0) > now

    # --- ICMP errors and fragments -------------------------------------------------------------

    def _error_in(self, packet: Packet) -> Verdict:
        quoted = packet.error
        if quoted is None or quoted.later:
            return Verdict("icmp error about nothing known")
        external = (quoted.source, quoted.sport)
        remote = (quoted.target, 0 if quoted.is_query else quoted.dport)
        for binding in self._table.at(quoted.protocol, external):
            if remote in binding.sessions:
                quoted.set_source(*binding.internal)
                packet.set_target(binding.internal[0], 0)
                packet.store_error()
                return PASS
        return Verdict("icmp error about nothing known")

    def _error_out(self, packet: Packet) -> Verdict:
        quoted = packet.error
        if quoted is None or quoted.later:
            return Verdict("icmp error about nothing known")
        internal = (quoted.target, quoted.dport)
        remote = (quoted.source, 0 if quoted.is_query else quoted.sport)
        binding = self._table.find(self.key(quoted.protocol, internal, remote))
        if binding is None or remote not in binding.sessions:
            return Verdict("icmp error about nothing known")
        quoted.set_target(*binding.external)
        if self.spec.translates:
            packet.set_source(binding.external[0], 0)
        packet.store_error()
        return PASS

    def _remember_fragment(
        self, ident: Hashable, address: bytes, now: float, *, is_source: bool
    ) -> None:
        if ident is None:
            return
        if len(self._fragmented) >= MAX_FRAGMENTED:
            del self._fragmented[next(iter(self._fragmented))]
        self._fragmented[ident] = (address, is_source, now + FRAGMENT_LIFETIME)

    def _fragment(self, packet: Packet, now: float) -> Verdict:
        if not self.spec.frag:
            return Verdict("fragment")
        address, is_source, until = self._fragmented.get(packet.ident, (b"", False, 0.0))
        if until <= now:
            return Verdict("fragment before its first")
        if is_source:
            packet.set_source(address, 0)
        else:
            packet.set_target(address, 0)
        return PASS

    # --- control -------------------------------------------------------------------------------

    def flush(self, now: float, addresses: Sequence[bytes] | None = None) -> None:
        """Reboot: forget everything, and come back with other outer addresses if given."""
        self._table.clear(now)
        self.booted = now
        self._allocators.clear()
        self._paired.clear()
        self._occupied.clear()
        self._fragmented.clear()
        if addresses is not None:
            self.addresses = tuple(addresses)

    def expire(self, now: float) -> None:
        """Drop what has timed out; packets do so, too."""
        self._table.expire(now)

    def next_due(self) -> float | None:
        """Return when `expire` may have something to do."""
        return self._table.next_due()

    def mappings(self, now: float) -> list[dict[str, Any]]:
        """Return what is known, for people: at most `SHOWN` bindings."""
        self._table.expire(now)
        return [
            {
                **self._facts(each),
                "age": round(now - each.born, 3),
                "left": round(each.expires - now, 3),
                "remotes": [endpoint_text(remote) for remote in list(each.sessions)[:16]],
                "sessions": len(each.sessions),
            }
            for each in itertools.islice(self._table, SHOWN)
        ]

    def _ended(self, binding: Binding, why: str, now: float) -> None:
        if self._note is not None:
            self._note("unmap", now, {**self._facts(binding), "why": why})

    @staticmethod
    def _facts(binding: Binding) -> dict[str, Any]:
        return {
            "protocol": NAMES.get(binding.protocol, str(binding.protocol)),
            "internal": endpoint_text(binding.internal),
            "external": endpoint_text(binding.external),
        }
