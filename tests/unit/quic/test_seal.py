from __future__ import annotations

import pytest
from aioquic.quic.crypto import CryptoPair
from hypothesis import given
from hypothesis import strategies as st

from pt.quic.seal import PacketKey, full_number
from pt.quic.tls import Suite

SUITES = list(Suite)[:3]
each = pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)


def secret(suite: Suite) -> bytes:
    return b"s" * (48 if suite is Suite.AES_256_GCM_SHA384 else 32)


def theirs(suite: Suite) -> CryptoPair:
    pair = CryptoPair()
    pair.recv.setup(cipher_suite=suite, secret=secret(suite), version=1)
    pair.send.setup(cipher_suite=suite, secret=secret(suite), version=1)
    return pair


def test_the_rfcs_chacha_packet() -> None:
    """RFC 9001, appendix A.5: packet 654360564, a PING."""
    key = PacketKey(
        Suite.CHACHA20_POLY1305_SHA256,
        bytes.fromhex("9ac312a7f877468ebe69422748ad00a15443f18203a07d6060f688f30f21632b"),
    )
    packet = bytes.fromhex("4cfe4189655e5cd55c41f69080575d7999c25a5bfb")
    assert key.number(packet, 0, 654360564) == 654360564
    assert key.open(packet, 0, 654360564) == b"\x01"


@each
def test_aioquic_opens_what_we_seal(suite: Suite) -> None:
    key = PacketKey(suite, secret(suite))
    packet = key.seal(b"destinat", 70_000, b"\x01" + bytes(30))
    header, payload, number = theirs(suite).decrypt_packet(packet, 9, 69_000)
    assert (payload, number) == (b"\x01" + bytes(30), 70_000)
    assert header[1:9] == b"destinat"


@each
def test_we_open_what_aioquic_seals(suite: Suite) -> None:
    key = PacketKey(suite, secret(suite))
    header = b"\x41destinat" + (70_000 & 0xFFFF).to_bytes(2, "big")
    packet = theirs(suite).encrypt_packet(header, b"\x01" + bytes(30), 70_000)
    assert key.number(packet, 8, 69_990) == 70_000
    assert key.open(packet, 8, 69_990) == b"\x01" + bytes(30)


@each
def test_key_updates(suite: Suite) -> None:
    key, pair = PacketKey(suite, secret(suite)), theirs(suite)
    for phase in (1, 0, 1):
        key.update()
        pair.update_key()
        assert key.phase == pair.key_phase == phase
        packet = key.seal(b"destinat", 5, b"\x01" + bytes(30))
        assert pair.decrypt_packet(packet, 9, 5)[1] == b"\x01" + bytes(30)
        assert key.open(packet, 8, 5) == b"\x01" + bytes(30)


def test_what_does_not_open() -> None:
    suite = SUITES[0]
    key = PacketKey(suite, secret(suite))
    packet = key.seal(b"destinat", 5, b"\x01" + bytes(30))
    assert key.open(packet[:-1], 8, 5) is None
    assert key.open(packet[:20], 8, 5) is None
    assert key.open(b"\xc0" + packet[1:], 8, 5) is None
    assert key.number(packet[:20], 8, 5) is None
    key.update()
    assert key.open(packet, 8, 5) is None
    assert key.number(packet, 8, 5) == 5, "header protection stays"


def test_the_rfcs_example_of_numbers() -> None:
    assert full_number(0x9B32, 16, 0xA82F30EA + 1) == 0xA82F9B32


@given(st.integers(0, 2**40), st.integers(-(2**14), 2**14))
def test_numbers_near_the_expected_one_are_found(expected: int, off: int) -> None:
    number = max(0, expected + off)
    assert full_number(number & 0xFFFF, 16, expected) == number
