"""Messages of circuit relay v2: go-libp2p's bytes, lenience, bounds, a reader that is exact."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import LocalProtocolError, RemoteProtocolError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.relay import messages
from pt.relay.messages import (
    MAX_ADDRESSES,
    MAX_MESSAGE,
    HopMessage,
    HopType,
    Limit,
    MessageReader,
    Peer,
    RelayMessageError,
    Reservation,
    Status,
    StopMessage,
    StopType,
)
from pt.wire import protobuf, uvarint
from pt.wire.multiaddr import Multiaddr
from tests.vectors import load

GOLDEN = {name: bytes.fromhex(text) for name, text in load("libp2p/messages.json").items()}
ID0 = PeerId.parse(load("libp2p/identities.json")["keys"][0]["peer_id"])
ADDRESS = Multiaddr.parse(f"/ip4/11.0.1.2/tcp/4001/p2p/{ID0}")
LIMIT = Limit(120, 131072)

HOPS = {
    "hop-RESERVE": HopMessage(HopType.RESERVE),
    "hop-CONNECT": HopMessage(HopType.CONNECT, peer=Peer(ID0)),
    "hop-STATUS-OK-res": HopMessage(
        HopType.STATUS,
        reservation=Reservation(1700003600, (ADDRESS,)),
        limit=LIMIT,
        status=Status.OK,
    ),
}
STOPS = {
    "stop-CONNECT": StopMessage(StopType.CONNECT, peer=Peer(ID0), limit=LIMIT),
    "stop-STATUS-OK": StopMessage(StopType.STATUS, status=Status.OK),
}

PEERS = st.binary(min_size=32, max_size=32).map(
    lambda seed: PeerId.from_public_key(PrivateKey.generate(seed).public)
)
ADDRESSES = st.lists(
    st.builds(Multiaddr.tcp, st.ip_addresses().map(str), st.integers(0, 65535)), max_size=9
).map(tuple)
UINT64 = st.integers(0, 2**64 - 1)
LIMITS = st.none() | st.builds(Limit, st.integers(0, 2**32 - 1), UINT64)
SOME_PEER = st.none() | st.builds(Peer, PEERS, ADDRESSES)
RESERVATIONS = st.none() | st.builds(
    Reservation, UINT64, ADDRESSES, st.none() | st.binary(max_size=300)
)
STATUSES = st.none() | st.sampled_from(Status) | st.integers(0, 2**31)
TOKENS = st.none() | st.binary(max_size=40)
HOP_MESSAGES = st.builds(
    HopMessage, st.sampled_from(HopType), SOME_PEER, RESERVATIONS, LIMITS, STATUSES, TOKENS
)
STOP_MESSAGES = st.builds(
    StopMessage, st.sampled_from(StopType), SOME_PEER, LIMITS, STATUSES, TOKENS
)


def body(encoded: bytes) -> bytes:
    size, start = uvarint.decode(encoded)
    assert size == len(encoded) - start
    return encoded[start:]


@pytest.mark.parametrize("name", HOPS)
def test_golden_hop(name):
    assert body(HOPS[name].encode()) == GOLDEN[name]
    assert HopMessage.decode(GOLDEN[name]) == HOPS[name]


@pytest.mark.parametrize("name", STOPS)
def test_golden_stop(name):
    assert body(STOPS[name].encode()) == GOLDEN[name]
    assert StopMessage.decode(GOLDEN[name]) == STOPS[name]


def test_protocol_names():
    assert messages.HOP == "/libp2p/circuit/relay/0.2.0/hop"
    assert messages.STOP == "/libp2p/circuit/relay/0.2.0/stop"
    assert (messages.RAW_HOP, messages.RAW_STOP, messages.AUTH) == (
        "/peertunnel/relay/1.0.0/hop",
        "/peertunnel/relay/1.0.0/stop",
        "/peertunnel/relay/1.0.0/auth",
    )


def test_the_token_is_field_16():
    encoded = body(StopMessage(StopType.CONNECT, token=b"abc").encode())
    assert encoded.hex() == "0800" + "820103" + b"abc".hex()


@given(HOP_MESSAGES)
def test_hop_round_trip(message):
    assert HopMessage.decode(body(message.encode())) == message


@given(STOP_MESSAGES)
def test_stop_round_trip(message):
    assert StopMessage.decode(body(message.encode())) == message


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_its_error(raw):
    for kind in (HopMessage, StopMessage):
        try:
            message = kind.decode(raw)
        except RelayMessageError:
            continue
        assert kind.decode(body(message.encode())) == message


@given(st.sampled_from([*HOPS, *STOPS]), st.data())
def test_one_changed_byte_gives_a_message_or_its_error(name, data):
    raw = bytearray(GOLDEN[name])
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    kind = HopMessage if name in HOPS else StopMessage
    with contextlib.suppress(RelayMessageError):
        kind.decode(bytes(raw))


@pytest.mark.parametrize(
    ("name", "fields_end"),
    [("hop-CONNECT", {2}), ("hop-STATUS-OK-res", {2, 61, 69}), ("stop-CONNECT", {2, 44})],
)
def test_a_truncated_message_is_refused(name, fields_end):
    kind = HopMessage if name in HOPS else StopMessage
    whole = GOLDEN[name]
    for end in range(1, len(whole)):
        if end in fields_end:
            assert kind.decode(whole[:end]) != kind.decode(whole)
            continue
        with pytest.raises(RelayMessageError):
            kind.decode(whole[:end])


def test_absent_fields():
    assert HopMessage.decode(b"") == HopMessage(HopType.RESERVE)
    assert StopMessage.decode(b"") == StopMessage(StopType.CONNECT)
    bare = protobuf.put_uint(1, 2) + protobuf.put_bytes(3, b"") + protobuf.put_bytes(4, b"")
    assert HopMessage.decode(bare) == HopMessage(
        HopType.STATUS, reservation=Reservation(0), limit=Limit(0, 0)
    )


def test_a_limit_of_nothing_is_still_a_limit():
    message = HopMessage(HopType.STATUS, limit=Limit(0, 0), status=Status.OK)
    assert body(message.encode()).hex() == "0802" + "2200" + "2864"
    assert HopMessage.decode(body(message.encode())).limit == Limit(0, 0)


def test_unknown_numbers_and_fields_are_kept_or_skipped():
    unknown = protobuf.put_uint(99, 7) + protobuf.put_text(100, "hello")
    hop = HopMessage.decode(protobuf.put_uint(1, 9) + protobuf.put_uint(5, 777) + unknown)
    assert (hop.type, hop.status) == (9, 777)
    stop = StopMessage.decode(protobuf.put_uint(1, 9) + protobuf.put_uint(4, 777) + unknown)
    assert (stop.type, stop.status) == (9, 777)


def test_a_peer_without_an_id_is_refused():
    for peer in (b"", protobuf.put_bytes(1, b""), protobuf.put_bytes(1, b"\x00\x05ab")):
        with pytest.raises(RelayMessageError, match="peer id"):
            HopMessage.decode(protobuf.put_bytes(2, peer))
        with pytest.raises(RelayMessageError, match="peer id"):
            StopMessage.decode(protobuf.put_bytes(2, peer))


def test_an_address_that_is_not_understood_costs_only_itself():
    raw = protobuf.put_uint(1, 5)
    for bad in (b"", b"\xa4\x03", b"\x04\x01", b"\xff" * 20):
        raw += protobuf.put_bytes(2, bad)
    raw += protobuf.put_bytes(2, ADDRESS.encode())
    decoded = HopMessage.decode(protobuf.put_bytes(3, raw))
    assert decoded.reservation == Reservation(5, (ADDRESS,))


def test_the_number_of_addresses_is_bounded():
    addresses = tuple(Multiaddr.tcp("11.0.1.2", port) for port in range(200))
    message = HopMessage(HopType.CONNECT, peer=Peer(ID0, addresses))
    decoded = HopMessage.decode(body(message.encode())).peer
    assert decoded is not None
    assert decoded.addresses == addresses[:MAX_ADDRESSES]


def test_a_duration_has_32_bits():
    assert Limit.decode(protobuf.put_uint(1, 2**32 + 5)) == Limit(5, 0)
    with pytest.raises(LocalProtocolError):
        Limit(2**32, 0).encode()
    with pytest.raises(LocalProtocolError):
        Limit(1, -1).encode()


def test_messages_that_are_too_long_are_neither_sent_nor_taken():
    with pytest.raises(LocalProtocolError, match="fewer addresses"):
        HopMessage(HopType.CONNECT, peer=Peer(ID0, (ADDRESS,) * 100)).encode()
    padding = protobuf.put_bytes(99, bytes(MAX_MESSAGE))
    for kind in (HopMessage, StopMessage):
        with pytest.raises(RelayMessageError, match="over 4096"):
            kind.decode(padding)
        assert kind.decode(protobuf.put_bytes(99, bytes(MAX_MESSAGE - 4))).status is None


@given(HOP_MESSAGES, st.binary(max_size=50), st.lists(st.integers(0, 4200), max_size=6))
def test_a_reader_finds_the_message_and_leaves_the_rest(message, rest, cuts):
    encoded = message.encode()
    data = encoded + rest
    reader = MessageReader()
    fed, got = 0, None
    edges = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in itertools.pairwise(edges):
        if got is None:
            assert reader.leftover() == b""
        got = reader.receive_data(memoryview(data)[start:end])
        fed = end
        assert (got is not None) == (fed >= len(encoded))
        if got is not None:
            break
    assert got is not None
    assert HopMessage.decode(got) == message
    assert reader.leftover() == data[len(encoded) : fed]
    assert reader.leftover() == b""


def test_a_message_of_nothing():
    reader = MessageReader()
    assert reader.receive_data(b"") is None
    assert reader.receive_data(b"\x00rest") == b""
    assert reader.leftover() == b"rest"


@pytest.mark.parametrize("data", [b"\x81\x20", b"\xff\xff\xff\x7f", b"\x80" * 9, b"\x80\x00"])
def test_a_reader_refuses_bad_lengths(data):
    with pytest.raises(RelayMessageError):
        MessageReader().receive_data(data)


def test_the_longest_message():
    reader = MessageReader()
    assert reader.receive_data(uvarint.encode(MAX_MESSAGE)) is None
    assert reader.receive_data(bytes(MAX_MESSAGE - 1)) is None
    assert reader.receive_data(b"\x00!") == bytes(MAX_MESSAGE)
    assert reader.leftover() == b"!"


def test_its_error_is_the_peers():
    assert issubclass(RelayMessageError, RemoteProtocolError)
