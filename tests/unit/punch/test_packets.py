from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.punch.packets import (
    FIRST_BYTE,
    SIZE,
    Packet,
    PacketType,
    ReplayWindow,
    Sealer,
    is_probe,
    tag_of,
)

SECRET = bytes(range(32))
NONCES = (b"c" * 16, b"r" * 16)
CONTROLLING = Sealer(SECRET, NONCES, controlling=True)
OTHER = Sealer(SECRET, NONCES, controlling=False)

U32 = st.integers(0, 2**32 - 1)
PACKETS = st.builds(
    Packet,
    type=st.sampled_from(PacketType),
    counter=U32,
    clock=U32,
    path=U32,
    echo=U32,
    observed=st.none() | st.tuples(st.ip_addresses().map(str), st.integers(0, 65535)),
)


@given(PACKETS)
def test_what_one_side_seals_the_other_opens(packet: Packet) -> None:
    for writer, reader in ((CONTROLLING, OTHER), (OTHER, CONTROLLING)):
        data = writer.seal(packet)
        assert len(data) == SIZE
        assert is_probe(data)
        assert tag_of(data) == reader.tag
        assert reader.open(data) == packet


def test_golden_bytes() -> None:
    packet = Packet(
        type=PacketType.PONG,
        counter=1,
        clock=2,
        path=3,
        echo=4,
        observed=("11.1.0.1", 4001),
    )
    assert CONTROLLING.seal(packet).hex() == (
        "0d11cc456e42a084b602000000010000000200000003000000040400c3e4"
        "c7446e43a084b602cc456e42a084b6029e3a1bbcdc81915b0c31ff70b7194bf2"
    )


def test_own_packets_are_nobodys() -> None:
    data = CONTROLLING.seal(Packet(type=PacketType.PING, counter=1))
    assert CONTROLLING.open(data) is None


@pytest.mark.parametrize("at", range(SIZE))
def test_every_byte_is_authenticated(at: int) -> None:
    data = bytearray(CONTROLLING.seal(Packet(type=PacketType.PING, counter=1)))
    data[at] ^= 1
    assert OTHER.open(bytes(data)) is None


@given(st.binary(max_size=80))
def test_noise_is_nobodys(data: bytes) -> None:
    assert OTHER.open(data) is None


def test_other_lengths_are_nobodys() -> None:
    data = CONTROLLING.seal(Packet(type=PacketType.PING, counter=1))
    assert OTHER.open(data[:-1]) is None
    assert OTHER.open(data + b"\0") is None
    assert not is_probe(data[:-1])


def test_another_attempt_has_other_keys() -> None:
    later = Sealer(SECRET, (b"d" * 16, NONCES[1]), controlling=True)
    data = later.seal(Packet(type=PacketType.PING, counter=1))
    assert tag_of(data) != OTHER.tag
    forged = data[:2] + OTHER.tag + data[10:]
    assert OTHER.open(forged) is None


def test_the_first_byte_is_of_no_other_protocol() -> None:
    assert FIRST_BYTE not in range(4)  # STUN
    assert FIRST_BYTE not in range(20, 256)  # DTLS, TURN channels, QUIC, RTP
    assert FIRST_BYTE & 0xC0 == 0


class TestReplayWindow:
    def test_each_counter_once_in_any_order(self) -> None:
        window = ReplayWindow()
        order = [1, 3, 2, 10, 4, 9]
        assert all(window.accept(counter) for counter in order)
        assert not any(window.accept(counter) for counter in order)

    def test_what_is_far_behind_is_old(self) -> None:
        window = ReplayWindow()
        assert window.accept(ReplayWindow.SPAN + 10)
        assert not window.accept(10)
        assert window.accept(11)

    def test_a_long_leap_forgets(self) -> None:
        window = ReplayWindow()
        assert window.accept(5)
        assert window.accept(5 + 3 * ReplayWindow.SPAN)
        assert not window.accept(5)
        assert not window.accept(5 + 3 * ReplayWindow.SPAN)

    def test_zero_is_no_counter(self) -> None:
        assert not ReplayWindow().accept(0)

    @given(st.lists(st.integers(1, 20000), max_size=60))
    def test_never_twice(self, counters: list[int]) -> None:
        window = ReplayWindow()
        accepted = [counter for counter in counters if window.accept(counter)]
        assert len(accepted) == len(set(accepted))
