"""Messages of kad-dht: Go's bytes, lenience, bounds, a reader that loses nothing it needs."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import LocalProtocolError
from pt.identity.peer_id import PeerId
from pt.kad.messages import (
    MAX_ADDRESSES,
    MAX_MESSAGE,
    MAX_PEERS,
    MAX_SAID,
    KadMessageError,
    Message,
    MessageReader,
    MessageType,
    PeerInfo,
    Record,
)
from pt.wire import protobuf, uvarint
from pt.wire.multiaddr import Multiaddr
from tests.unit.kad.peers import KEY, peer, peer_id
from tests.vectors import load

GOLDEN = {name: bytes.fromhex(text) for name, text in load("libp2p/messages.json").items()}
ID0 = PeerId.parse(load("libp2p/identities.json")["keys"][0]["peer_id"])
CIRCUIT = Multiaddr.parse(f"/ip4/11.0.1.2/tcp/4001/p2p/{ID0}/p2p-circuit")

SAID = {
    "kad-FIND_NODE(self)": Message(MessageType.FIND_NODE, ID0.raw),
    "kad-GET_PROVIDERS": Message(MessageType.GET_PROVIDERS, KEY),
    "kad-ADD_PROVIDER": Message(
        MessageType.ADD_PROVIDER, KEY, providers=(PeerInfo(ID0, (CIRCUIT,)),)
    ),
}

PEERS = st.lists(
    st.builds(
        PeerInfo,
        st.integers(0, 2**256 - 1).map(peer_id),
        st.lists(
            st.builds(Multiaddr.tcp, st.ip_addresses().map(str), st.integers(0, 65535)),
            max_size=3,
            unique=True,
        ).map(tuple),
    ),
    max_size=5,
    unique_by=lambda info: info.id,
).map(tuple)
MESSAGES = st.builds(
    Message,
    st.sampled_from(MessageType) | st.integers(6, 2**31),
    st.binary(max_size=80),
    st.none() | st.builds(Record, st.binary(max_size=80), st.binary(max_size=200)),
    PEERS,
    PEERS,
)


@pytest.mark.parametrize("name", SAID)
def test_gos_bytes(name: str) -> None:
    assert SAID[name].encode() == uvarint.prefix(GOLDEN[name])
    assert Message.decode(GOLDEN[name]) == SAID[name]


def test_put_value_is_type_zero_which_is_not_written() -> None:
    said = Message(MessageType.PUT_VALUE, b"k", Record(b"k", b"v"))
    assert said.encode().hex() == "0d" + "12016b" + "1a06" + "0a016b" + "120176" + "5001"
    assert Message.decode(said.encode()[1:]).type is MessageType.PUT_VALUE


@given(MESSAGES)
def test_round_trip(said: Message) -> None:
    raw = said.encode()
    size, start = uvarint.decode(raw)
    assert len(raw) == start + size
    back = Message.decode(raw[start:])
    assert back == said
    assert back.size == len(raw)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    with contextlib.suppress(KadMessageError):
        Message.decode(data)


def test_unknown_fields_are_skipped() -> None:
    raw = protobuf.put_uint(77, 5) + GOLDEN["kad-GET_PROVIDERS"] + protobuf.put_bytes(78, b"x")
    assert Message.decode(raw) == SAID["kad-GET_PROVIDERS"]


def test_what_cannot_be_read_costs_itself_alone() -> None:
    good = peer(1, "/ip4/130.1.0.1/tcp/1")
    odd = (
        protobuf.put_bytes(1, good.id.raw)
        + protobuf.put_bytes(2, b"\xff\xff\xff")  # a transport unknown here
        + protobuf.put_bytes(2, b"")
        + protobuf.put_bytes(2, good.addresses[0].encode())
        + protobuf.put_uint(3, 1)
    )
    nobody = protobuf.put_bytes(1, b"\x55\x01a")
    cut = protobuf.put_bytes(1, peer_id(9).raw) + b"\x12\x09a"
    raw = b"".join(protobuf.put_bytes(8, one) for one in (nobody, odd, cut, peer(2).encode()))
    assert Message.decode(raw).closer == (good, peer(2))


def test_a_peers_own_id_is_taken_off_and_a_foreign_one_drops_the_address() -> None:
    bare, own = "/ip4/130.1.0.1/tcp/1", f"/ip4/130.1.0.2/tcp/1/p2p/{peer_id(1)}"
    foreign = f"/ip4/130.1.0.3/tcp/1/p2p/{peer_id(2)}"
    alone = f"/p2p/{peer_id(1)}"
    circuit = f"/ip4/130.1.0.4/tcp/1/p2p/{peer_id(2)}/p2p-circuit"
    said = peer(1, bare, own, foreign, alone, circuit, bare)
    read = PeerInfo.decode(said.encode())
    assert [str(each) for each in read.addresses] == [bare, "/ip4/130.1.0.2/tcp/1", circuit]


def test_lists_are_bounded() -> None:
    many = tuple(peer(number) for number in range(MAX_PEERS + 5))
    read = Message.decode(b"".join(protobuf.put_bytes(8, each.encode()) for each in many))
    assert read.closer == many[:MAX_PEERS]
    addresses = [f"/ip4/130.1.0.1/tcp/{port}" for port in range(MAX_ADDRESSES + 5)]
    assert len(PeerInfo.decode(peer(1, *addresses).encode()).addresses) == MAX_ADDRESSES


def test_a_peer_that_is_said_twice_is_one() -> None:
    twice = Message(MessageType.FIND_NODE, closer=(peer(1), peer(1)))
    assert Message.decode(twice.encode()[1:]).closer == (peer(1),)


@given(MESSAGES, st.lists(st.integers(1, 50), max_size=20))
def test_the_reader_takes_any_split(said: Message, sizes: list[int]) -> None:
    raw = said.encode()
    reader = MessageReader()
    for size in sizes:
        if len(raw) <= size:
            break
        assert reader.receive_data(raw[:size]) is None
        raw = raw[size:]
    assert reader.receive_data(raw + b"more") == said
    assert not reader.cut


def test_of_a_long_reply_the_beginning_is_read() -> None:
    """Somebody may fill a server with providers of a key: the closer peers come first."""
    value = Record(KEY, bytes(1000))
    crowd = [protobuf.put_bytes(9, peer(number).encode()) for number in range(2000)]
    body = Message(MessageType.GET_PROVIDERS, KEY, value, (peer(5),)).encode()[2:-2]
    body += b"".join(crowd)
    assert len(body) > MAX_MESSAGE
    reader = MessageReader()
    raw = uvarint.prefix(body)
    assert reader.receive_data(raw[:60_000]) is None
    read = reader.receive_data(raw[60_000:])
    assert reader.cut
    assert read is not None
    assert read.closer == (peer(5),)
    assert read.providers == tuple(peer(number) for number in range(MAX_PEERS))
    assert read.size <= MAX_MESSAGE + 9


def test_a_message_that_is_malformed_but_whole_is_an_error() -> None:
    with pytest.raises(KadMessageError):
        Message.decode(GOLDEN["kad-GET_PROVIDERS"][:-3])


@pytest.mark.parametrize(
    "raw", [uvarint.encode(MAX_SAID + 1), b"\x80\x00", b"\xff" * 9, b"\x02\x1a\x05"]
)
def test_bad_lengths_and_records(raw: bytes) -> None:
    with pytest.raises(KadMessageError):
        MessageReader().receive_data(raw)


def test_bounds_of_what_is_sent_and_decoded() -> None:
    with pytest.raises(LocalProtocolError):
        Message(MessageType.PUT_VALUE, b"k", Record(b"k", bytes(MAX_MESSAGE))).encode()
    with pytest.raises(KadMessageError):
        Message.decode(bytes(MAX_MESSAGE + 1))
