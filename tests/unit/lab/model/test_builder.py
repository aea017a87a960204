"""What routers say is well formed, and said only where the RFCs let them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from pt.lab.model.builder import (
    Reason,
    echo,
    echo_reply,
    fragments,
    icmp_error,
    may_answer,
    tcp,
    tcp_reset,
    udp,
)
from pt.lab.model.packet import ACK, FIN, RST, SYN, Packet
from tests.unit.lab.model.test_packet import A6, B6, A, B, is_intact


@pytest.mark.parametrize(("a", "b"), [(A, B), (A6, B6)])
def test_all_are_intact(a, b) -> None:
    ping = echo(a, b, 7)
    for packet in (
        udp((a, 1), (b, 2), b"x"),
        tcp((a, 1), (b, 2), SYN),
        ping,
        echo_reply(ping),
        icmp_error(udp((a, 1), (b, 2), bytes(2000)), Reason.TOO_BIG, b, 1300),
    ):
        assert is_intact(Packet(bytes(packet.data)))
    assert (echo_reply(ping).sport, echo_reply(ping).source) == (7, b)


def test_a_reset_answers_what_the_sender_expects() -> None:
    answer = tcp_reset(tcp((A, 1), (B, 2), SYN, sequence=41))
    assert answer is not None
    assert answer.flags == RST | ACK
    assert int.from_bytes(answer.data[28:32], "big") == 42
    assert (answer.source, answer.sport, answer.target, answer.dport) == (B, 2, A, 1)
    answer = tcp_reset(tcp((A, 1), (B, 2), ACK | FIN, acknowledged=99))
    assert answer is not None
    assert answer.flags == RST
    assert int.from_bytes(answer.data[24:28], "big") == 99
    assert tcp_reset(tcp((A, 1), (B, 2), RST)) is None


def test_errors_are_not_answered_with_errors() -> None:
    datagram = udp((A, 1), (B, 2))
    assert may_answer(datagram)
    assert not may_answer(icmp_error(datagram, Reason.PORT, B))
    assert not may_answer(udp((A, 1), (ip_address("224.0.0.251").packed, 2)))
    assert not may_answer(udp((bytes(4), 1), (B, 2)))
    pieces = fragments(udp((A, 1), (B, 2), bytes(3000)), 1500)
    assert [may_answer(piece) for piece in pieces] == [True, False, False]


def test_errors_are_short() -> None:
    assert len(icmp_error(udp((A, 1), (B, 2), bytes(1400)), Reason.PORT, B)) == 576
    assert len(icmp_error(udp((A6, 1), (B6, 2), bytes(1400)), Reason.PORT, B6)) == 1280


def test_fragments_are_the_packet() -> None:
    packet = udp((A, 1), (B, 2), bytes(range(256)) * 10)
    pieces = fragments(packet, 1000)
    assert max(len(piece) for piece in pieces) <= 1000
    assert [piece.later for piece in pieces] == [False, True, True]
    assert len({piece.ident for piece in pieces}) == 1
    assert b"".join(bytes(piece.data[20:]) for piece in pieces) == bytes(packet.data[20:])
    offsets = [(piece.data[6] << 8 | piece.data[7]) & 0x1FFF for piece in pieces]
    assert offsets == [0, 976 // 8, 2 * 976 // 8]
    again = [part for piece in pieces for part in fragments(piece, 576)]
    assert b"".join(bytes(piece.data[20:]) for piece in again) == bytes(packet.data[20:])
    assert not again[-1].data[6] & 0x20
    with pytest.raises(ValueError, match="IPv4"):
        fragments(udp((A6, 1), (B6, 2)), 1280)
