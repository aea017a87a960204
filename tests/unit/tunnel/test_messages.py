from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import RemoteProtocolError
from pt.tunnel.core import messages as wire
from pt.tunnel.core.messages import Code, Control, ControlReader

NUMBERS = st.integers(0, 2**32 - 1)
OFFSETS = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(
    ("packed", "expected"),
    [
        (wire.OPEN.pack(wire.OPEN_KIND, 0, 7, 22), "01 00 00000007 0016"),
        (wire.RESUME.pack(wire.RESUME_KIND, 0, 7, 1 << 40), "02 00 00000007 0000010000000000"),
        (wire.ATTACH.pack(wire.ATTACH_KIND, b"i" * 16, b"p" * 32), "03" + "69" * 16 + "70" * 32),
        (wire.ATTACH_ANSWER.pack(0, b"p" * 32), "00" + "70" * 32),
        (wire.encode_answer(Code.OK, 5), "00 00 0000000000000005"),
        (wire.encode_answer(Code.REFUSED, 0, "no"), "01 02 0000000000000000 6e6f"),
        (wire.control(Control.LIVE_END), "0001 03"),
        (wire.control(Control.BYE, b"ok"), "0003 05 6f6b"),
        (wire.ports([22, 8080]), "0005 04 0016 1f90"),
        (b"".join(wire.acks([(7, 9)])), "000d 01 00000007 0000000000000009"),
        (b"".join(wire.ids(Control.LIVE, [1, 2])), "0009 02 00000001 00000002"),
    ],
)
def test_layout(packed: bytes, expected: str) -> None:
    assert packed == bytes.fromhex(expected)


def test_wire_codes_never_change() -> None:
    assert [code.value for code in Code] == list(range(10))
    assert [kind.value for kind in Control] == [1, 2, 3, 4, 5, 6, 7]
    assert (wire.SESSION_KIND, wire.OPEN_KIND, wire.RESUME_KIND, wire.ATTACH_KIND) == (0, 1, 2, 3)


@given(st.text(max_size=400))
def test_a_long_reason_is_cut(reason: str) -> None:
    packed = wire.encode_answer(Code.FAILED, 3, reason)
    code, length, received = wire.ANSWER.unpack_from(packed)
    assert (code, received) == (Code.FAILED, 3)
    assert len(packed) == wire.ANSWER.size + length
    assert length <= wire.MAX_REASON
    assert reason.encode().startswith(packed[wire.ANSWER.size :])


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(bounds)]


@given(
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=60)), max_size=20),
    st.lists(st.integers(0, 900), max_size=30),
)
def test_any_split_gives_the_same_messages(said: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(wire._HEAD.pack(len(body) + 1, kind) + body for kind, body in said)
    reader = ControlReader()
    found = [message for part in cut(data, cuts) for message in reader.receive_data(part)]
    assert found == said


@given(st.lists(st.tuples(NUMBERS, OFFSETS), max_size=4000))
def test_acks_round_trip_in_bounded_messages(entries: list[tuple[int, int]]) -> None:
    reader = ControlReader()
    found = []
    for message in wire.acks(entries):
        assert len(message) <= wire.MAX_CONTROL + 2
        for kind, body in reader.receive_data(message):
            assert kind == Control.ACK
            found += wire.read_acks(body)
    assert found == entries


@pytest.mark.parametrize("count", [0, 1, 1365, 1366, 20_000])
def test_ids_round_trip_in_bounded_messages(count: int) -> None:
    reader = ControlReader()
    found = []
    for message in wire.ids(Control.LIVE, range(count)):
        assert len(message) <= wire.MAX_CONTROL + 2
        for _, body in reader.receive_data(message):
            found += wire.read_ids(body)
    assert found == list(range(count))


@given(st.lists(st.integers(0, 65535), max_size=64))
def test_ports_round_trip(offered: list[int]) -> None:
    ((kind, body),) = ControlReader().receive_data(wire.ports(offered))
    assert kind == Control.OFFER
    assert wire.read_ports(body) == tuple(offered)


@pytest.mark.parametrize(
    ("read", "size"), [(wire.read_acks, 12), (wire.read_ids, 4), (wire.read_ports, 2)]
)
def test_a_cut_off_list_is_refused(read, size: int) -> None:
    for length in range(1, 3 * size):
        if length % size:
            with pytest.raises(RemoteProtocolError):
                list(read(bytes(length)))


@pytest.mark.parametrize("length", [0, wire.MAX_CONTROL + 1, 0xFFFF])
def test_a_message_out_of_bounds_is_refused_before_it_arrives(length: int) -> None:
    reader = ControlReader()
    good = wire.control(Control.BYE, b"x")
    with pytest.raises(RemoteProtocolError):
        list(reader.receive_data(good + length.to_bytes(2, "big") + b"\1"))


def test_the_longest_message_passes() -> None:
    body = bytes(wire.MAX_CONTROL - 1)
    assert list(ControlReader().receive_data(wire.control(Control.BYE, body))) == [
        (Control.BYE, body)
    ]


@given(st.lists(st.binary(max_size=300), max_size=24))
def test_addresses_come_back_and_are_few(raws: list[bytes]) -> None:
    ((kind, body),) = ControlReader().receive_data(wire.addresses(raws))
    assert kind == Control.ADDRESSES
    assert wire.read_addresses(body) == raws[: wire.MAX_ADDRESSES]


@pytest.mark.parametrize("body", [b"\x00", b"\x00\x05abcd", b"\x00\x01a\x00"])
def test_cut_addresses_are_an_error(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="cut off"):
        wire.read_addresses(body)
