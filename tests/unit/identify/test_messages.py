from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import CryptoFailure, LimitError, LocalProtocolError, RemoteProtocolError
from pt.identify.messages import (
    MAX_ADDRESSES,
    MAX_MESSAGE,
    MAX_MESSAGES,
    MAX_PROTOCOLS,
    SPLIT_AT,
    Identify,
    IdentifyReader,
)
from pt.identity.envelope import seal
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.identity.peer_record import DOMAIN, PAYLOAD_TYPE, PeerRecord
from pt.wire import protobuf, uvarint
from pt.wire.multiaddr import Multiaddr

ALICE, BOB = PrivateKey.generate(b"a" * 32), PrivateKey.generate(b"b" * 32)
ALICE_ID, BOB_ID = PeerId.from_public_key(ALICE.public), PeerId.from_public_key(BOB.public)
TCP = Multiaddr.parse("/ip4/11.0.1.2/tcp/4001")
QUIC = Multiaddr.parse("/ip4/11.0.1.2/udp/4001/quic-v1")
GOLDEN = bytes.fromhex(  # as go-libp2p marshals it
    "1208040b000102060fa11a0e2f697066732f69642f312e302e30220b040b00010291020fa1cd03"
    "2a0a697066732f302e312e30320178"
)
SAID = Identify(
    listen_addresses=(TCP,),
    protocols=("/ipfs/id/1.0.0",),
    observed=QUIC,
    protocol_version="ipfs/0.1.0",
    agent_version="x",
)


def read(data: bytes, step: int = 1 << 20) -> Identify:
    reader = IdentifyReader()
    for at in range(0, len(data), step):
        reader.receive_data(data[at : at + step])
    return reader.finish()


def messages(data: bytes) -> list[bytes]:
    found, pos = [], 0
    while pos < len(data):
        size, start = uvarint.decode(data, pos)
        pos = start + size
        found.append(data[start:pos])
    return found


def record(key: PrivateKey = ALICE, addresses: tuple[Multiaddr, ...] = (QUIC,)) -> bytes:
    return PeerRecord(PeerId.from_public_key(key.public), 7, addresses).sealed(key)


def test_golden_bytes() -> None:
    assert messages(SAID.encode()) == [GOLDEN]
    assert read(uvarint.prefix(GOLDEN)) == SAID


def test_small_identify_is_one_message_with_its_record() -> None:
    said = Identify(public_key=ALICE.public.to_protobuf(), signed_record=record())
    assert len(messages(said.encode())) == 1
    assert read(said.encode()) == said


def test_large_identify_is_split_and_the_record_travels_alone() -> None:
    addresses = tuple(Multiaddr.tcp("11.0.0.1", port) for port in range(1, 300))
    said = Identify(
        public_key=ALICE.public.to_protobuf(),
        listen_addresses=addresses,
        protocols=tuple(f"/protocol/{n}" for n in range(100)),
        signed_record=record(addresses=addresses[:20]),
        agent_version="pt",
    )
    parts = messages(said.encode())
    assert len(parts) > 2
    assert all(len(part) <= SPLIT_AT for part in parts)
    assert parts[-1] == protobuf.put_bytes(8, said.signed_record)
    assert read(said.encode()) == said


def test_record_moves_out_just_over_the_bound() -> None:
    envelope = record()
    room = SPLIT_AT - len(protobuf.put_bytes(8, envelope)) - 3
    for over in (0, 1):
        said = Identify(agent_version="x" * (room + over), signed_record=envelope)
        assert len(messages(said.encode())) == 1 + over
        assert read(said.encode()) == said


def test_record_that_some_peers_could_not_read_is_left_out() -> None:
    said = Identify(agent_version="x", signed_record=b"r" * 4001)
    assert read(said.encode()) == Identify(agent_version="x")


@pytest.mark.parametrize(
    "said",
    [
        Identify(listen_addresses=(TCP,) * (MAX_ADDRESSES + 1)),
        Identify(protocols=("/x",) * (MAX_PROTOCOLS + 1)),
        Identify(protocols=("/x" * 100,) * 200),
        Identify(agent_version="x" * MAX_MESSAGE),
    ],
    ids=["addresses", "protocols", "messages", "one field"],
)
def test_our_own_limits(said: Identify) -> None:
    with pytest.raises(LocalProtocolError):
        said.encode()


@given(
    st.builds(
        Identify,
        public_key=st.binary(max_size=40),
        listen_addresses=st.lists(st.sampled_from([TCP, QUIC]), max_size=200).map(tuple),
        protocols=st.lists(st.text(max_size=30), max_size=30).map(tuple),
        observed=st.sampled_from([None, TCP]),
        protocol_version=st.text(max_size=20),
        agent_version=st.text(max_size=20),
        signed_record=st.binary(max_size=1000),
    ),
    st.integers(1, 500),
)
def test_round_trip_however_it_is_split(said: Identify, step: int) -> None:
    assert read(said.encode(), step) == said


def test_one_byte_at_a_time() -> None:
    assert read(SAID.encode(), 1) == SAID


def test_merging_appends_lists_and_overwrites_the_rest() -> None:
    first = Identify(listen_addresses=(TCP,), protocols=("/a",), agent_version="1", public_key=b"k")
    second = Identify(listen_addresses=(QUIC,), protocols=("/b",), agent_version="2")
    assert read(first.encode() + second.encode()) == Identify(
        listen_addresses=(TCP, QUIC), protocols=("/a", "/b"), agent_version="2", public_key=b"k"
    )


def test_bad_addresses_are_dropped_one_by_one() -> None:
    good = protobuf.put_bytes(2, TCP.encode())
    bad = [b"", b"\xff", b"\x04\x01", b"\xbf\x7f", TCP.encode() + b"\x06"]
    body = b"".join(protobuf.put_bytes(2, raw) + good for raw in bad)
    observed = protobuf.put_bytes(4, b"\xff\xff")
    assert read(uvarint.prefix(body + observed)) == Identify(listen_addresses=(TCP,) * len(bad))


def test_unknown_fields_are_skipped() -> None:
    extra = protobuf.put_uint(7, 1) + protobuf.put_bytes(100, b"new") + protobuf.put_uint(9, 2)
    assert read(uvarint.prefix(extra + GOLDEN + extra)) == SAID


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (uvarint.encode(MAX_MESSAGE + 1), LimitError),
        (uvarint.prefix(GOLDEN) * (MAX_MESSAGES + 1), LimitError),
        (b"", RemoteProtocolError),
        (uvarint.prefix(GOLDEN)[:-1], RemoteProtocolError),
        (b"\x80", RemoteProtocolError),
        (uvarint.prefix(GOLDEN) + b"\x80", RemoteProtocolError),
        (b"\x02\x12\x09", RemoteProtocolError),
        (uvarint.prefix(protobuf.put_bytes(3, b"\xff")), RemoteProtocolError),
        (uvarint.prefix(protobuf.put_bytes(6, b"\xff")), RemoteProtocolError),
        (b"\xff" * 12, RemoteProtocolError),
    ],
    ids=[
        "oversize",
        "too many",
        "nothing",
        "cut short",
        "half a length",
        "half a second length",
        "field cut short",
        "protocol not utf-8",
        "agent not utf-8",
        "endless length",
    ],
)
def test_bad_input(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        read(data)


def test_an_oversize_message_is_refused_before_it_arrives() -> None:
    with pytest.raises(LimitError, match="8193"):
        IdentifyReader().receive_data(uvarint.encode(MAX_MESSAGE + 1))


def test_the_largest_message_and_the_most_messages_pass() -> None:
    largest = protobuf.put_bytes(6, b"x" * (MAX_MESSAGE - 3))
    assert len(largest) == MAX_MESSAGE
    assert len(read(uvarint.prefix(largest)).agent_version) == MAX_MESSAGE - 3
    assert len(read(uvarint.prefix(GOLDEN) * MAX_MESSAGES).protocols) == MAX_MESSAGES


def test_surplus_addresses_and_protocols_are_ignored() -> None:
    address, protocol = protobuf.put_bytes(2, TCP.encode()), protobuf.put_text(3, "/x")
    got = read(uvarint.prefix(address * 400) * 2 + uvarint.prefix(protocol * 600) * 2)
    assert len(got.listen_addresses) == MAX_ADDRESSES
    assert len(got.protocols) == MAX_PROTOCOLS


@given(st.binary(max_size=300))
def test_garbage_raises_only_what_is_documented(data: bytes) -> None:
    with contextlib.suppress(LimitError, RemoteProtocolError):
        read(data)


def test_verified_prefers_the_signed_addresses() -> None:
    said = Identify(
        public_key=ALICE.public.to_protobuf(),
        listen_addresses=(TCP,),
        protocols=("/a",),
        signed_record=record(),
    )
    checked = said.verified(ALICE_ID)
    assert checked.listen_addresses == (QUIC,)
    assert checked.protocols == ("/a",)


def test_verified_without_proof_keeps_what_was_said() -> None:
    assert SAID.verified(ALICE_ID) == SAID


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (Identify(public_key=BOB.public.to_protobuf()), CryptoFailure),
        (Identify(public_key=b"\xff"), RemoteProtocolError),
        (Identify(signed_record=record(BOB)), CryptoFailure),
        (Identify(signed_record=b"\xff"), RemoteProtocolError),
        (Identify(signed_record=record()[:-1] + b"\x7f"), CryptoFailure),
        (
            Identify(
                signed_record=seal(
                    BOB, DOMAIN, PAYLOAD_TYPE, PeerRecord(ALICE_ID, 1, (TCP,)).encode()
                )
            ),
            RemoteProtocolError,
        ),
    ],
    ids=[
        "other key",
        "no key",
        "other's record",
        "no record",
        "spoilt signature",
        "signed by another",
    ],
)
def test_verified_refuses(said: Identify, error: type[Exception]) -> None:
    with pytest.raises(error):
        said.verified(ALICE_ID)
