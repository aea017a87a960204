"""Packets that routers make: datagrams, ICMP errors, TCP resets, echo replies, fragments."""

from __future__ import annotations

from typing import Final

from pt.lab.model.packet import (
    ACK,
    FIN,
    ICMP,
    ICMP6,
    RST,
    SYN,
    TCP,
    UDP,
    Endpoint,
    Packet,
    checksum,
)

__all__ = [
    "Reason",
    "echo",
    "echo_reply",
    "fragments",
    "icmp_error",
    "may_answer",
    "tcp",
    "tcp_reset",
    "udp",
]

TTL: Final = 64
QUOTED4: Final = 548  # RFC 1812: an ICMP error is at most 576 bytes
QUOTED6: Final = 1232  # RFC 4443: at most 1280 bytes


class Reason:
    """ICMP types and codes by what they say: (IPv4), (IPv6)."""

    TTL_EXCEEDED: Final = ((11, 0), (3, 0))
    NO_ROUTE: Final = ((3, 0), (1, 0))
    PORT: Final = ((3, 3), (1, 4))
    PROHIBITED: Final = ((3, 13), (1, 1))
    TOO_BIG: Final = ((3, 4), (2, 0))


def _ip(source: bytes, target: bytes, protocol: int, body: bytes, ttl: int) -> bytes:
    if len(source) == 16:
        head = b"\x60\0\0\0" + len(body).to_bytes(2, "big") + bytes((protocol, ttl))
        return head + source + target + body
    head = b"\x45\0" + (20 + len(body)).to_bytes(2, "big") + b"\0\0\x40\0" + bytes((ttl, protocol))
    check = checksum(head + source + target).to_bytes(2, "big")
    return head + check + source + target + body


def _sealed(source: bytes, target: bytes, protocol: int, body: bytes, at: int) -> bytes:
    """Return `body` with its checksum at `at`."""
    size = len(body).to_bytes(4, "big")
    pseudo = b"" if protocol == ICMP else source + target + size + bytes((0, 0, 0, protocol))
    value = checksum(pseudo + body) or 0xFFFF
    return body[:at] + value.to_bytes(2, "big") + body[at + 2 :]


def udp(source: Endpoint, target: Endpoint, payload: bytes = b"", *, ttl: int = TTL) -> Packet:
    """Return a datagram."""
    head = source[1].to_bytes(2, "big") + target[1].to_bytes(2, "big")
    body = head + (8 + len(payload)).to_bytes(2, "big") + b"\0\0" + payload
    sealed = _sealed(source[0], target[0], UDP, body, 6)
    return Packet(_ip(source[0], target[0], UDP, sealed, ttl))


def tcp(
    source: Endpoint,
    target: Endpoint,
    flags: int,
    *,
    sequence: int = 0,
    acknowledged: int = 0,
    ttl: int = TTL,
) -> Packet:
    """Return a segment without data."""
    body = source[1].to_bytes(2, "big") + target[1].to_bytes(2, "big")
    body += sequence.to_bytes(4, "big") + acknowledged.to_bytes(4, "big")
    body += bytes((0x50, flags)) + bytes(6)
    sealed = _sealed(source[0], target[0], TCP, body, 16)
    return Packet(_ip(source[0], target[0], TCP, sealed, ttl))


def echo(source: bytes, target: bytes, ident: int, *, ttl: int = TTL) -> Packet:
    """Return an echo request."""
    protocol = ICMP6 if len(source) == 16 else ICMP
    body = bytes((128 if protocol == ICMP6 else 8, 0, 0, 0)) + ident.to_bytes(2, "big") + bytes(10)
    return Packet(_ip(source, target, protocol, _sealed(source, target, protocol, body, 2), ttl))


def tcp_reset(segment: Packet) -> Packet | None:
    """Return the reset that answers `segment` (RFC 9293, 3.5.2), None for a reset."""
    if segment.flags & RST:
        return None
    data, at = segment.data, segment.l4
    ends = ((segment.target, segment.dport), (segment.source, segment.sport))
    if segment.flags & ACK:
        return tcp(*ends, RST, sequence=int.from_bytes(data[at + 8 : at + 12], "big"))
    sequence = int.from_bytes(data[at + 4 : at + 8], "big") + len(segment.payload)
    sequence += bool(segment.flags & SYN) + bool(segment.flags & FIN)
    return tcp(*ends, RST | ACK, acknowledged=sequence & 0xFFFFFFFF)


def may_answer(packet: Packet) -> bool:
    """Whether an ICMP error may be sent about `packet` (RFC 1122, 3.2.2; RFC 4443, 2.4)."""
    multicast = packet.target[0] == 0xFF if packet.v6 else packet.target[0] >= 224
    return packet.error is None and not packet.later and not multicast and any(packet.source)


def icmp_error(
    packet: Packet, reason: tuple[tuple[int, int], tuple[int, int]], router: bytes, rest: int = 0
) -> Packet:
    """Return the ICMP error about `packet`; `rest` is its second word (the MTU of TOO_BIG)."""
    kind, code = reason[packet.v6]
    quoted = bytes(packet.data[: QUOTED6 if packet.v6 else QUOTED4])
    body = bytes((kind, code, 0, 0)) + rest.to_bytes(4, "big") + quoted
    protocol = ICMP6 if packet.v6 else ICMP
    sealed = _sealed(router, packet.source, protocol, body, 2)
    return Packet(_ip(router, packet.source, protocol, sealed, TTL))


def echo_reply(request: Packet) -> Packet:
    """Return the answer to an echo request."""
    protocol = request.protocol
    body = bytes((0 if protocol == ICMP else 129, 0, 0, 0)) + bytes(request.data[request.l4 + 4 :])
    sealed = _sealed(request.target, request.source, protocol, body, 2)
    return Packet(_ip(request.target, request.source, protocol, sealed, TTL))


def fragments(packet: Packet, mtu: int) -> list[Packet]:
    """Cut an IPv4 packet into pieces of at most `mtu` bytes (RFC 791)."""
    data, head = packet.data, (packet.data[0] & 15) * 4
    step = (mtu - head) // 8 * 8
    if packet.v6 or step <= 0:
        raise ValueError("an IPv4 packet and a sensible MTU")
    flags = data[6] << 8 | data[7]
    pieces = []
    for start in range(head, len(data), step):
        body = data[start : start + step]
        more = 0x2000 if start + step < len(data) else flags & 0x2000
        offset = (flags & 0x1FFF) + (start - head) // 8
        piece = data[:head] + body
        piece[2:4] = len(piece).to_bytes(2, "big")
        piece[6:8] = (flags & 0xC000 | more | offset).to_bytes(2, "big")
        piece[10:12] = b"\0\0"
        piece[10:12] = checksum(bytes(piece[:head])).to_bytes(2, "big")
        pieces.append(Packet(bytes(piece)))
    return pieces
