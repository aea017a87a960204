"""The protobuf codec: golden messages of libp2p, and google's implementation as the oracle."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from pt.errors import LocalProtocolError, RemoteProtocolError
from pt.wire import protobuf
from pt.wire.multiaddr import Multiaddr
from pt.wire.protobuf import put_bytes, put_text, put_uint
from tests.vectors import load

MESSAGES = load("libp2p/messages.json")
PEER = bytes.fromhex(load("libp2p/identities.json")["keys"][0]["public"])
ID0 = b"\x00\x24" + PEER
TCP = Multiaddr.parse("/ip4/11.0.1.2/tcp/4001")
QUIC = Multiaddr.parse("/ip4/11.0.1.2/udp/4001/quic-v1").encode()
KEY = bytes.fromhex(MESSAGES["dht-key"])
LIMIT = put_uint(1, 120) + put_uint(2, 131072)
STATUS_OK = 100

BUILT = {
    "hop-RESERVE": put_uint(1, 0),
    "hop-CONNECT": put_uint(1, 1) + put_bytes(2, put_bytes(1, ID0)),
    "hop-STATUS-OK-res": put_uint(1, 2)
    + put_bytes(3, put_uint(1, 1700003600) + put_bytes(2, TCP.with_peer(ID0).encode()))
    + put_bytes(4, LIMIT)
    + put_uint(5, STATUS_OK),
    "stop-CONNECT": put_uint(1, 0) + put_bytes(2, put_bytes(1, ID0)) + put_bytes(3, LIMIT),
    "stop-STATUS-OK": put_uint(1, 1) + put_uint(4, STATUS_OK),
    "dcutr-CONNECT": put_uint(1, 100) + put_bytes(2, TCP.encode()) + put_bytes(2, QUIC),
    "dcutr-SYNC": put_uint(1, 300),
    "identify-min": put_bytes(2, TCP.encode())
    + put_text(3, "/ipfs/id/1.0.0")
    + put_bytes(4, QUIC)
    + put_text(5, "ipfs/0.1.0")
    + put_text(6, "x"),
    "kad-FIND_NODE(self)": put_uint(1, 4) + put_bytes(2, ID0) + put_uint(10, 1),
    "kad-GET_PROVIDERS": put_uint(1, 3) + put_bytes(2, KEY) + put_uint(10, 1),
    "kad-ADD_PROVIDER": put_uint(1, 2)
    + put_bytes(2, KEY)
    + put_bytes(
        9,
        put_bytes(1, ID0)
        + put_bytes(2, Multiaddr.parse(f"{TCP.with_peer(ID0)}/p2p-circuit").encode()),
    )
    + put_uint(10, 1),
}


@pytest.mark.parametrize("name", BUILT)
def test_golden_messages_are_reproduced(name):
    assert BUILT[name].hex() == MESSAGES[name]


def test_golden_fixed64_is_read():
    dial_back = bytes.fromhex(MESSAGES["autonat2-dialback"])
    assert list(protobuf.fields(dial_back)) == [(1, protobuf.FIXED64, 0x0102030405060708)]


def oracle_class():
    """A message with every kind of field that libp2p's messages have."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="oracle.proto", syntax="proto2")
    message = file.message_type.add(name="Oracle")
    for number, (name, kind, label) in enumerate(
        [
            ("uint", kinds.TYPE_UINT64, kinds.LABEL_OPTIONAL),
            ("data", kinds.TYPE_BYTES, kinds.LABEL_OPTIONAL),
            ("text", kinds.TYPE_STRING, kinds.LABEL_OPTIONAL),
            ("uints", kinds.TYPE_UINT64, kinds.LABEL_REPEATED),
            ("datas", kinds.TYPE_BYTES, kinds.LABEL_REPEATED),
            ("fixed", kinds.TYPE_FIXED64, kinds.LABEL_OPTIONAL),
            ("short", kinds.TYPE_FIXED32, kinds.LABEL_OPTIONAL),
        ],
        start=1,
    ):
        message.field.add(name=name, number=number, type=kind, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Oracle"))


ORACLE = oracle_class()
UINT = st.integers(0, protobuf.MAX_UINT)


@given(UINT)
def test_fixed64_is_written_as_the_oracle_does_and_read_again(number):
    wire = protobuf.put_fixed64(6, number)
    assert ORACLE.FromString(wire).fixed == number
    assert protobuf.Fields(wire).fixed64(6) == number
    assert protobuf.Fields(wire).uint(6) is None


def test_fixed64_has_64_bits():
    for number in (-1, 2**64):
        with pytest.raises(LocalProtocolError):
            protobuf.put_fixed64(6, number)


@given(
    st.none() | UINT,
    st.none() | st.binary(),
    st.none() | st.text(),
    st.lists(UINT, max_size=4),
    st.lists(st.binary(max_size=9), max_size=4),
)
def test_writes_what_the_oracle_writes_and_reads_it_back(uint, data, text, uints, datas):
    said = ORACLE(uint=uint, data=data, text=text, uints=uints, datas=datas)
    ours = b"".join(
        ([] if uint is None else [put_uint(1, uint)])
        + ([] if data is None else [put_bytes(2, data)])
        + ([] if text is None else [put_text(3, text)])
        + [put_uint(4, value) for value in uints]
        + [put_bytes(5, value) for value in datas]
    )
    assert ours == said.SerializeToString(deterministic=True)
    read = protobuf.Fields(ours)
    assert (read.uint(1), read.bytes(2), read.text(3)) == (uint, data, text)
    assert (read.all_uints(4), read.all_bytes(5)) == (uints, datas)


@given(st.lists(UINT, max_size=6), UINT, st.integers(0, 2**32 - 1))
def test_reads_packed_and_fixed_fields_as_the_oracle_writes_them(uints, fixed, short):
    packed = b"".join(put_uint(1, value)[1:] for value in uints)
    wire = put_bytes(4, packed) + ORACLE(fixed=fixed, short=short).SerializeToString()
    assert list(ORACLE.FromString(wire).uints) == uints
    assert protobuf.Fields(wire).all_uints(4) == uints
    assert [value for _, _, value in list(protobuf.fields(wire))[1:]] == [fixed, short]


@st.composite
def field_bytes(draw):
    """One field with any of the wire types, sometimes with a varint that is not minimal."""
    number = draw(st.integers(1, 9))
    wire_type = draw(st.sampled_from([0, 1, 2, 5]))
    tag = bytes((number << 3 | wire_type,))
    if wire_type == protobuf.VARINT:
        return tag + draw(st.sampled_from([b"\x05", b"\x85\x00", b"\xff\xff\x03", b"\x80\x80\x00"]))
    if wire_type == protobuf.BYTES:
        body = draw(st.text(max_size=5)).encode()
        return tag + bytes((len(body),)) + body
    return tag + draw(st.binary(min_size=8, max_size=8))[: 8 if wire_type == 1 else 4]


@given(st.lists(field_bytes(), max_size=8).map(b"".join))
@example(bytes.fromhex("220ac280c280c280e0a08030"))  # the oracle drops bits beyond 64, we do not
def test_any_sequence_of_fields_reads_as_the_oracle_reads_it(wire):
    try:
        said = ORACLE.FromString(wire)
        read = protobuf.Fields(wire)
        uints = read.all_uints(4)
    except DecodeError:  # packed uints out of random text
        with pytest.raises(protobuf.ProtobufError):
            protobuf.Fields(wire).all_uints(4)
        return
    except protobuf.ProtobufError:
        with pytest.raises(protobuf.ProtobufError, match="varint exceeds 64 bits"):
            protobuf.Fields(wire).all_uints(4)
        return
    assert read.uint(1) == (said.uint if said.HasField("uint") else None)
    assert read.bytes(2) == (said.data if said.HasField("data") else None)
    assert read.text(3) == (said.text if said.HasField("text") else None)
    assert read.all_bytes(5) == list(said.datas)
    assert sorted(uints) == sorted(said.uints)


@pytest.mark.parametrize(
    "wire",
    [
        "08",  # no value
        "0880",  # value cut short
        "08ffffffffffffffffff02",  # 65 bits
        "08ffffffffffffffffffff01",  # 11 bytes
        "0a05aabb",  # shorter than its length
        "0affffffffffffffff7f",  # a length beyond any buffer
        "0900000000000000",  # seven of eight bytes
        "0d000000",  # three of four bytes
        "0001",  # field number 0
        "0b0c",  # a group
        "0e00",  # wire type 6
        "0f00",  # wire type 7
        "8080808080808080808001",  # tag too long
    ],
)
def test_malformed(wire):
    with pytest.raises(protobuf.ProtobufError):
        protobuf.Fields(bytes.fromhex(wire))


def test_the_last_value_counts_and_the_kind_must_match():
    read = protobuf.Fields(put_uint(1, 5) + put_uint(1, 6) + put_bytes(1, b"x"))
    assert (read.uint(1), read.bytes(1), read.uint(2)) == (6, b"x", None)


def test_text_must_be_utf8():
    read = protobuf.Fields(put_bytes(3, b"\xff") + put_text(4, "ok"))
    assert read.all_texts(4) == ["ok"]
    with pytest.raises(protobuf.ProtobufError):
        read.text(3)
    with pytest.raises(protobuf.ProtobufError):
        read.all_texts(3)


def test_the_number_of_fields_is_bounded():
    wire = put_uint(1, 0) * 5
    assert len(list(protobuf.fields(wire, 5))) == 5
    with pytest.raises(protobuf.ProtobufError, match="more than 4 fields"):
        protobuf.Fields(wire, 4)


@pytest.mark.parametrize("value", [-1, protobuf.MAX_UINT + 1])
def test_numbers_out_of_range_are_a_bug_of_ours(value):
    with pytest.raises(LocalProtocolError):
        put_uint(1, value)


@given(st.binary(max_size=64))
def test_any_bytes_give_fields_or_the_remote_error(raw):
    try:
        read = protobuf.Fields(raw)
        read.all_uints(1)
        read.text(1)
    except RemoteProtocolError:
        return
    assert read.all_bytes(2) is not None
