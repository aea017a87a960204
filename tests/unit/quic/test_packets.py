from __future__ import annotations

import os

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import (
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from hypothesis import given
from hypothesis import strategies as st

from pt.quic import packets
from pt.quic.packets import Kind, parse_header, put_varint, read_varint

# RFC 9001, appendix A.4
RETRY = bytes.fromhex("ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba")
# RFC 9001, appendix A.5: ChaCha20 short header packet
SHORT = bytes.fromhex("4cfe4189655e5cd55c41f69080575d7999c25a5bfb")


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (151288809941952652, "c2197c5eff14e88c"),
        (494878333, "9d7f3e7d"),
        (15293, "7bbd"),
        (37, "25"),
    ],
)
def test_integers_of_the_rfc(value: int, wire: str) -> None:
    assert put_varint(value) == bytes.fromhex(wire)
    assert read_varint(bytes.fromhex(wire), 0) == (value, len(wire) // 2)


@given(st.integers(0, 2**62 - 1))
def test_integers_round_trip(value: int) -> None:
    wire = put_varint(value)
    assert read_varint(b"x" + wire + b"y", 1) == (value, 1 + len(wire))
    with pytest.raises(IndexError):
        read_varint(wire[:-1], 0)


def test_integers_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        put_varint(2**62)


def test_the_rfcs_retry() -> None:
    header = parse_header(RETRY)
    assert header is not None
    assert header.kind is Kind.RETRY
    assert header.source.hex() == "f067a5502a4262b5"
    assert header.token == b"token"
    assert packets.retry_is_valid(RETRY, bytes.fromhex("8394c8f03e515708"))
    assert not packets.retry_is_valid(RETRY, bytes.fromhex("8394c8f03e515709"))
    assert not packets.retry_is_valid(RETRY[:-1] + b"\x00", bytes.fromhex("8394c8f03e515708"))


@given(st.binary(max_size=20), st.binary(max_size=20), st.binary(min_size=1, max_size=100))
def test_retries_are_aioquics(destination: bytes, source: bytes, token: bytes) -> None:
    ours = packets.retry(destination, source, b"original", token)
    theirs = encode_quic_retry(
        version=1,
        source_cid=source,
        destination_cid=destination,
        original_destination_cid=b"original",
        retry_token=token,
        unused=0,
    )
    assert ours[1:-16] == theirs[1:-16]
    assert packets.retry_is_valid(ours, b"original")
    assert packets.retry_is_valid(theirs, b"original")


def test_version_negotiation_is_aioquics() -> None:
    ours = packets.version_negotiation(b"client", b"server!!", b"\x00\x12\x34\x56\x78")
    theirs = encode_quic_version_negotiation(
        source_cid=b"server!!", destination_cid=b"client", supported_versions=[1, 0x1A3A5A7A]
    )
    assert ours[1:] == theirs[1:]
    header = parse_header(ours)
    assert header is not None
    assert header.kind is Kind.VERSION_NEGOTIATION
    assert (header.destination, header.source) == (b"client", b"server!!")


def long_packet(kind: int, *, token: bytes = b"", length: int = 50, version: int = 1) -> bytes:
    packet = bytes([0xC0 | kind << 4]) + version.to_bytes(4, "big")
    packet += b"\x08destinat\x05sourc"
    if kind == 0:
        packet += put_varint(len(token)) + token
    return packet + put_varint(length) + bytes(length)


@pytest.mark.parametrize("kind", [Kind.INITIAL, Kind.ZERO_RTT, Kind.HANDSHAKE])
def test_long_headers(kind: Kind) -> None:
    token = b"T" * 70 if kind is Kind.INITIAL else b""
    packet = long_packet(kind.value, token=token)
    header = parse_header(packet + b"more")
    assert header == (kind, b"destinat", b"sourc", 1, token, len(packet))
    theirs = pull_quic_header(Buffer(data=packet + b"more"), host_cid_length=8)
    assert (theirs.destination_cid, theirs.source_cid, theirs.token, theirs.packet_length) == (
        b"destinat",
        b"sourc",
        token,
        len(packet),
    )


def test_short_headers() -> None:
    header = parse_header(b"\x45" + b"ABCDEFGH" + bytes(30))
    assert header is not None
    assert (header.kind, header.destination, header.end) == (Kind.SHORT, b"ABCDEFGH", 39)
    assert parse_header(SHORT) is not None
    assert parse_header(b"\x45ABCDEFG") is None
    assert parse_header(b"\x05ABCDEFGHI") is None, "the fixed bit: STUN has it clear"


def test_stun_is_not_quic() -> None:
    binding_request = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)
    assert parse_header(binding_request) is None


def test_other_versions_show_their_ids() -> None:
    header = parse_header(long_packet(0, version=0xBABABABA))
    assert header is not None
    assert (header.kind, header.destination) == (Kind.OTHER_VERSION, b"destinat")


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\xc0",
        b"\xc0\x00\x00\x00\x01",
        b"\xc0\x00\x00\x00\x01\x08short",
        b"\xc0\x00\x00\x00\x01\x15" + bytes(60),  # an id of 21 bytes
        b"\x80\x00\x00\x00\x01\x08destinat\x00\x00\x14" + bytes(20),  # no fixed bit
        long_packet(0)[:-1],
        long_packet(0, length=19),  # not even a number and a tag
        b"\xf0\x00\x00\x00\x01\x00\x00" + bytes(16),  # a Retry without token
    ],
)
def test_what_is_no_packet(bad: bytes) -> None:
    assert parse_header(bad) is None


@given(st.binary(max_size=200), st.integers(0, 210))
def test_anything_can_be_asked(data: bytes, at: int) -> None:
    header = parse_header(data, at)
    assert header is None or header.end <= len(data)
    parts = packets.first_packets(data)
    assert data.startswith(b"".join(parts))


def test_coalesced_packets_are_split() -> None:
    one, two, three = long_packet(0), long_packet(2, length=40), b"\x45ABCDEFGH" + bytes(30)
    assert packets.first_packets(one + two + three) == [one, two, three]
    assert packets.first_packets(one + bytes(300)) == [one], "padding behind"
    assert packets.first_packets(three) == [three]


def test_a_stateless_reset_looks_like_a_packet_and_is_shorter_than_its_cause() -> None:
    key, cid = b"k" * 32, b"ABCDEFGH"
    token = packets.reset_token(key, cid)
    assert len(token) == 16
    assert token != packets.reset_token(key, b"ABCDEFGI")
    for size in (22, 30, 44, 1472):
        reset = packets.stateless_reset(key, size, cid, os.urandom(42))
        assert reset is not None
        assert 21 <= len(reset) < size
        assert reset[0] & 0xC0 == 0x40
        assert reset.endswith(token)
    assert packets.stateless_reset(key, 21, cid, os.urandom(42)) is None
