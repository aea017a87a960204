"""IP packets as a router sees them: parsed once, rewritten in place (RFC 791, 8200).

Addresses are bytes (4 or 16), since they are compared far more often than they are printed. What a
router does not look at stays as it is. Checksums are updated, not computed anew (RFC 1624), so that
a packet that came in damaged leaves damaged.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Final

__all__ = [
    "ACK",
    "FIN",
    "ICMP",
    "ICMP6",
    "RST",
    "SYN",
    "TCP",
    "UDP",
    "Endpoint",
    "MalformedError",
    "Packet",
    "address_text",
    "checksum",
    "endpoint_text",
]

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ICMP6: Final = 58
FIN: Final = 1
SYN: Final = 2
RST: Final = 4
ACK: Final = 16
Endpoint = tuple[bytes, int]
NAMES: Final = {ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMP6: "icmp6"}
_EXTENSIONS: Final = {0, 43, 60}  # hop-by-hop, routing, destination options
_FRAGMENT: Final = 44
_QUERIES: Final = {ICMP: {0, 8, 13, 14}, ICMP6: {128, 129}}
_ERRORS: Final = {ICMP: {3, 4, 5, 11, 12}, ICMP6: {1, 2, 3, 4}}
_CHECKSUM_AT: Final = {ICMP: 2, TCP: 16, UDP: 6, ICMP6: 2}
_SHORTEST: Final = {ICMP: 8, TCP: 20, UDP: 8, ICMP6: 8}


class MalformedError(ValueError):
    """Not a packet that a router forwards; the message says why."""


def address_text(address: bytes) -> str:
    """Return an address as people write it."""
    return str(IPv4Address(address) if len(address) == 4 else IPv6Address(address))


def endpoint_text(endpoint: Endpoint) -> str:
    """Return an address with its port."""
    address = address_text(endpoint[0])
    return f"[{address}]:{endpoint[1]}" if len(endpoint[0]) == 16 else f"{address}:{endpoint[1]}"


def checksum(data: bytes) -> int:
    """Return the Internet checksum of `data` (RFC 1071)."""
    if len(data) & 1:
        data = data + b"\0"
    # 2^16 = 1 modulo 65535: the ones' complement sum is the remainder of the number.
    return 0xFFFF - int.from_bytes(data, "big") % 0xFFFF


class Packet:
    """One IPv4 or IPv6 packet.

    sport, dport: ports; of an ICMP query, its identifier in both. error: the quoted packet of an
    ICMP error. later: a fragment that is not the first, which has no ports; ident: what joins it
    to the first, None for a packet that is whole.
    """

    __slots__ = (
        "data",
        "dport",
        "error",
        "flags",
        "icmp_type",
        "ident",
        "l4",
        "later",
        "protocol",
        "source",
        "sport",
        "target",
        "v6",
    )

    def __init__(self, data: bytes, *, quoted: bool = False) -> None:
        """Parse `data`; `quoted`: as part of an ICMP error, where it may be cut short.

        Raises: MalformedError.
        """
        self.data = bytearray(data)
        self.sport = self.dport = self.flags = 0
        self.icmp_type = -1
        self.error: Packet | None = None
        self.later = False
        self.ident: tuple[bytes, bytes, int, int] | None = None
        version = data[0] >> 4 if data else 0
        self.v6 = version == 6
        if version == 4:
            self._parse4(quoted)
        elif version == 6:
            self._parse6(quoted)
        else:
            raise MalformedError(f"IP version {version}")
        if not self.later:
            self._parse_transport(quoted)

    def __len__(self) -> int:
        return len(self.data)

    @property
    def ttl(self) -> int:
        """Time to live, hop limit."""
        return self.data[7 if self.v6 else 8]

    @property
    def may_fragment(self) -> bool:
        """Whether a router may cut it: IPv4 without DF."""
        return not self.v6 and not self.data[6] & 0x40

    @property
    def is_query(self) -> bool:
        """Whether it is an ICMP query or its reply (echo)."""
        return self.icmp_type in _QUERIES.get(self.protocol, ())

    @property
    def payload(self) -> bytes:
        """What follows the transport header."""
        if self.protocol == TCP:
            return bytes(self.data[self.l4 + (self.data[self.l4 + 12] >> 4) * 4 :])
        return bytes(self.data[self.l4 + 8 :])

    def __str__(self) -> str:
        source, target = address_text(self.source), address_text(self.target)
        name = NAMES.get(self.protocol, str(self.protocol))
        if self.later:
            return f"{name} {source} > {target} later fragment"
        if self.protocol in (TCP, UDP):
            source = endpoint_text((self.source, self.sport))
            target = endpoint_text((self.target, self.dport))
        text = f"{name} {source} > {target}"
        if self.protocol == TCP:
            text += " " + ("".join(c for i, c in enumerate("FSRPAU") if self.flags >> i & 1) or "-")
        if self.icmp_type >= 0:
            text += f" type {self.icmp_type}"
        if self.error is not None:
            text += f" about ({self.error})"
        return text

    # --- parsing -------------------------------------------------------------------------------

    def _parse4(self, quoted: bool) -> None:
        data = self.data
        if len(data) < 20:
            raise MalformedError("shorter than an IPv4 header")
        self.l4 = (data[0] & 15) * 4
        total = data[2] << 8 | data[3]
        if self.l4 < 20 or total < self.l4 or (not quoted and total > len(data)):
            raise MalformedError("impossible lengths in the IPv4 header")
        del data[total:]
        self.protocol = data[9]
        self.source, self.target = bytes(data[12:16]), bytes(data[16:20])
        fragment = data[6] << 8 | data[7]
        if fragment & 0x3FFF:
            self.later = bool(fragment & 0x1FFF)
            self.ident = (self.source, self.target, self.protocol, data[4] << 8 | data[5])

    def _parse6(self, quoted: bool) -> None:
        data = self.data
        if len(data) < 40:
            raise MalformedError("shorter than an IPv6 header")
        total = 40 + (data[4] << 8 | data[5])
        if not quoted and total > len(data):
            raise MalformedError("impossible length in the IPv6 header")
        del data[total:]
        self.source, self.target = bytes(data[8:24]), bytes(data[24:40])
        kind, at = data[6], 40
        while kind in _EXTENSIONS or kind == _FRAGMENT:
            if len(data) < at + 8:
                raise MalformedError("an extension header is cut short")
            if kind == _FRAGMENT:
                offset = data[at + 2] << 8 | data[at + 3]
                if offset & 0xFFF9:
                    self.later = bool(offset & 0xFFF8)
                    ident = int.from_bytes(data[at + 4 : at + 8], "big")
                    self.ident = (self.source, self.target, data[at], ident)
                kind, at = data[at], at + 8
            else:
                kind, at = data[at], at + 8 + data[at + 1] * 8
            if self.later:
                break
        self.protocol, self.l4 = kind, at

    def _parse_transport(self, quoted: bool) -> None:
        data, at, protocol = self.data, self.l4, self.protocol
        shortest = _SHORTEST.get(protocol)
        if shortest is None:
            return
        if len(data) < at + (8 if quoted else shortest):
            raise MalformedError(f"the {NAMES[protocol]} header is cut short")
        if protocol in (TCP, UDP):
            self.sport, self.dport = data[at] << 8 | data[at + 1], data[at + 2] << 8 | data[at + 3]
            if protocol == TCP and not quoted:
                self.flags = data[at + 13]
                if (data[at + 12] >> 4) * 4 < 20:
                    raise MalformedError("impossible length in the TCP header")
            return
        self.icmp_type = data[at]
        if self.icmp_type in _QUERIES[protocol]:
            self.sport = self.dport = data[at + 4] << 8 | data[at + 5]
        elif self.icmp_type in _ERRORS[protocol]:
            if quoted:
                raise MalformedError("an ICMP error about an ICMP error")
            self.error = Packet(bytes(data[at + 8 :]), quoted=True)

    # --- rewriting -----------------------------------------------------------------------------

    def hop(self, routers: int = 1) -> None:
        """Pass so many routers: decrement the time to live, which is greater."""
        data = self.data
        if self.v6:
            data[7] -= routers
            return
        data[8] -= routers
        self._adjust(10, routers << 8, 0)

    def set_source(self, address: bytes, port: int) -> None:
        """Rewrite the source address and, if the packet has it, the source port."""
        self._rewrite(address, port, 8 if self.v6 else 12, 0)
        self.source, self.sport = address, port
        if self.is_query and not self.later:
            self.dport = port

    def set_target(self, address: bytes, port: int) -> None:
        """Rewrite the destination address and, if the packet has it, the destination port."""
        self._rewrite(address, port, 24 if self.v6 else 16, 2)
        self.target, self.dport = address, port
        if self.is_query and not self.later:
            self.sport = port

    def _rewrite(self, address: bytes, port: int, at: int, port_at: int) -> None:
        data, size = self.data, len(address)
        old = int.from_bytes(data[at : at + size], "big") % 0xFFFF
        new = int.from_bytes(address, "big") % 0xFFFF
        data[at : at + size] = address
        if not self.v6:
            self._adjust(10, old, new)
        if self.later or self.protocol not in _CHECKSUM_AT:
            return
        if self.protocol == ICMP:
            old = new = 0  # its checksum does not cover the addresses
        if self.protocol in (TCP, UDP) or self.is_query:
            where = self.l4 + (4 if self.is_query else port_at)
            old += data[where] << 8 | data[where + 1]
            new += port
            data[where], data[where + 1] = port >> 8, port & 0xFF
        check = self.l4 + _CHECKSUM_AT[self.protocol]
        if check + 2 > len(data):
            return  # a quoted packet, cut short
        if self.protocol == UDP and not data[check] and not data[check + 1]:
            return  # the sender computed none
        self._adjust(check, old, new)
        if self.protocol == UDP and not data[check] and not data[check + 1]:
            data[check] = data[check + 1] = 0xFF

    def _adjust(self, at: int, old: int, new: int) -> None:
        """Update the checksum at `at` for words of the sum `old` that became `new`."""
        data = self.data
        value = ((data[at] << 8 | data[at + 1]) + old - new) % 0xFFFF
        data[at], data[at + 1] = value >> 8, value & 0xFF

    def store_error(self) -> None:
        """Write the rewritten quoted packet back into this ICMP error."""
        if self.error is None:
            raise ValueError("not an ICMP error")
        data, at = self.data, self.l4
        quoted = self.error.data
        data[at + 8 : at + 8 + len(quoted)] = quoted
        data[at + 2 : at + 4] = b"\0\0"
        covered = bytes(data[at:])
        if self.v6:
            covered = _pseudo_header(self.source, self.target, ICMP6, len(covered)) + covered
        data[at + 2 : at + 4] = checksum(covered).to_bytes(2, "big")


def _pseudo_header(source: bytes, target: bytes, protocol: int, size: int) -> bytes:
    if len(source) == 4:
        return source + target + bytes((0, protocol)) + size.to_bytes(2, "big")
    return source + target + size.to_bytes(4, "big") + bytes((0, 0, 0, protocol))
