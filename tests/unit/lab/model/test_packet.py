"""Packets survive rewriting with right checksums, and nothing malformed is taken for one."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.lab.model.builder import Reason, echo, icmp_error, tcp, udp
from pt.lab.model.packet import (
    ICMP,
    SYN,
    TCP,
    UDP,
    MalformedError,
    Packet,
    address_text,
    checksum,
    endpoint_text,
)

A, B, C = (ip_address(text).packed for text in ("192.168.1.10", "11.1.0.1", "11.100.0.1"))
A6, B6, C6 = (ip_address(f"2a00:6000::{n}").packed for n in (1, 2, 3))
addresses4 = st.binary(min_size=4, max_size=4)
addresses6 = st.binary(min_size=16, max_size=16)
ports = st.integers(0, 65535)


def is_intact(packet: Packet) -> bool:
    """Whether the checksums of header and transport are right."""
    data, at = bytes(packet.data), packet.l4
    if not packet.v6 and checksum(data[:at]) not in (0, 0xFFFF):
        return False
    body = data[at:]
    pseudo = packet.source + packet.target
    pseudo += len(body).to_bytes(4, "big") + packet.protocol.to_bytes(4, "big")
    if packet.protocol == ICMP:
        pseudo = b""
    return checksum(pseudo + body) in (0, 0xFFFF)


@given(
    st.sampled_from([udp, tcp]),
    st.one_of(
        st.tuples(addresses4, addresses4, addresses4), st.tuples(addresses6, addresses6, addresses6)
    ),
    st.tuples(ports, ports, ports),
    st.binary(max_size=64),
)
def test_rewriting_keeps_the_checksums_right(kind, addresses, numbers, payload) -> None:
    source, target, other = addresses
    if kind is udp:
        packet = udp((source, numbers[0]), (target, numbers[1]), payload)
    else:
        packet = tcp((source, numbers[0]), (target, numbers[1]), SYN)
    packet.set_source(other, numbers[2])
    packet.hop(3)
    again = Packet(bytes(packet.data))
    assert (again.source, again.sport) == (other, numbers[2])
    assert (again.target, again.dport, again.ttl) == (target, numbers[1], 61)
    assert is_intact(again)
    packet.set_target(source, numbers[0])
    again = Packet(bytes(packet.data))
    assert (again.target, again.dport) == (source, numbers[0])
    assert is_intact(again)


def test_a_datagram_without_checksum_stays_without() -> None:
    packet = udp((A, 1000), (B, 2000), b"x")
    packet.data[26:28] = b"\0\0"
    packet.set_source(C, 3000)
    assert packet.data[26:28] == b"\0\0"


def test_damage_is_not_repaired() -> None:
    packet = udp((A, 1000), (B, 2000), b"abcd")
    packet.data[-1] ^= 1
    packet.set_source(C, 3000)
    assert not is_intact(packet)


@pytest.mark.parametrize(("source", "target", "other"), [(A, B, C), (A6, B6, C6)])
def test_an_echo_is_rewritten_by_its_identifier(source, target, other) -> None:
    packet = echo(source, target, 77)
    assert (packet.sport, packet.dport, packet.is_query) == (77, 77, True)
    packet.set_source(other, 99)
    again = Packet(bytes(packet.data))
    assert (again.sport, again.source) == (99, other)
    assert is_intact(again)


@pytest.mark.parametrize(("source", "target", "other"), [(A, B, C), (A6, B6, C6)])
def test_an_error_is_rewritten_with_what_it_quotes(source, target, other) -> None:
    original = udp((other, 3000), (target, 2000), b"hello")
    error = icmp_error(original, Reason.TTL_EXCEEDED, target)
    assert error.error is not None
    error.error.set_source(source, 1000)
    error.set_target(source, 0)
    error.store_error()
    again = Packet(bytes(error.data))
    assert again.target == source
    assert is_intact(again)
    assert again.error is not None
    assert (again.error.source, again.error.sport, again.error.dport) == (source, 1000, 2000)
    assert is_intact(again.error)


def test_storing_an_error_needs_one() -> None:
    with pytest.raises(ValueError, match="not an ICMP error"):
        udp((A, 1), (B, 2)).store_error()


@given(st.binary(max_size=120))
def test_any_bytes_are_a_packet_or_malformed(data) -> None:
    try:
        packet = Packet(data)
    except MalformedError:
        return
    assert str(packet)
    packet.set_source(packet.target, 9)
    packet.set_target(packet.source, 9)


@given(
    st.sampled_from([udp((A, 1), (B, 2), b"abc"), tcp((A6, 1), (B6, 2), SYN), echo(A, B, 3)]),
    st.data(),
)
def test_a_damaged_packet_is_a_packet_or_malformed(packet, data) -> None:
    raw = bytearray(packet.data)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))) :]
    try:
        again = Packet(bytes(raw))
    except MalformedError:
        return
    again.set_source(again.target, 9)
    assert str(again)


def test_trailing_bytes_are_not_part_of_it() -> None:
    packet = udp((A, 1), (B, 2), b"abc")
    assert bytes(Packet(bytes(packet.data) + b"padding").data) == bytes(packet.data)


def test_texts() -> None:
    assert address_text(A) == "192.168.1.10"
    assert endpoint_text((A6, 5)) == "[2a00:6000::1]:5"
    assert str(udp((A, 1), (B, 2))) == "udp 192.168.1.10:1 > 11.1.0.1:2"
    assert str(tcp((A, 1), (B, 2), SYN)).endswith("11.1.0.1:2 S")
    assert "about (udp" in str(icmp_error(udp((A, 1), (B, 2)), Reason.PORT, B))
    assert {udp((A, 1), (B, 2)).protocol, tcp((A, 1), (B, 2), 0).protocol} == {UDP, TCP}
