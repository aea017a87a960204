"""Signed peer records: go-libp2p's bytes, foreign signers, addresses we do not know."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import CryptoFailure, RemoteProtocolError
from pt.identity import peer_record
from pt.identity.envelope import seal
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.identity.peer_record import MAX_ADDRESSES, PeerRecord, PeerRecordError
from pt.wire.multiaddr import Multiaddr
from pt.wire.protobuf import put_bytes, put_uint
from tests.vectors import load

GOLDEN = load("libp2p/signed.json")["peer_record"]
KEY = PrivateKey.from_protobuf(bytes.fromhex(load("libp2p/identities.json")["keys"][0]["private"]))
OTHER = PrivateKey.generate(bytes(32))
PEER = PeerId.from_public_key(KEY.public)
RECORD = PeerRecord(
    PEER, GOLDEN["seq"], tuple(Multiaddr.parse(text) for text in GOLDEN["addresses"])
)


HOST = st.ip_addresses().map(str)


def address_info(raw):
    return put_bytes(3, put_bytes(1, raw))


def test_golden():
    assert RECORD.encode().hex() == GOLDEN["payload"]
    assert RECORD.sealed(KEY).hex() == GOLDEN["envelope"]
    assert PeerRecord.decode(bytes.fromhex(GOLDEN["payload"])) == RECORD
    assert PeerRecord.from_envelope(bytes.fromhex(GOLDEN["envelope"])) == RECORD
    assert (peer_record.DOMAIN, peer_record.PAYLOAD_TYPE.hex()) == (
        GOLDEN["domain"],
        GOLDEN["payload_type"],
    )


@given(
    st.integers(0, 2**64 - 1),
    st.lists(st.builds(Multiaddr.tcp, HOST, st.integers(0, 65535)), max_size=9),
)
def test_round_trip(seq, addresses):
    record = PeerRecord(PEER, seq, tuple(addresses))
    assert PeerRecord.from_envelope(record.sealed(KEY)) == record


def test_an_address_that_is_not_understood_costs_only_itself():
    good = Multiaddr.tcp("11.0.1.2", 4001)
    raw = put_bytes(1, PEER.raw) + put_uint(2, 7)
    for bad in (b"", b"\xa4\x03", b"\x04\x01", b"\xff" * 20):
        raw += address_info(bad)
    raw += put_bytes(3, b"") + put_bytes(3, b"\x0a\x09") + address_info(good.encode())
    assert PeerRecord.decode(raw) == PeerRecord(PEER, 7, (good,))


def test_the_number_of_addresses_is_bounded():
    raw = put_bytes(1, PEER.raw)
    for port in range(MAX_ADDRESSES + 5):
        raw += address_info(Multiaddr.tcp("11.0.1.2", port).encode())
    addresses = PeerRecord.decode(raw).addresses
    assert [address.tcp_port for address in addresses] == list(range(MAX_ADDRESSES))


def test_a_record_about_another_peer_is_refused():
    with pytest.raises(PeerRecordError, match="another peer"):
        PeerRecord.from_envelope(RECORD.sealed(OTHER))


def test_another_type_or_domain_is_refused():
    with pytest.raises(PeerRecordError, match="type 0302"):
        PeerRecord.from_envelope(seal(KEY, peer_record.DOMAIN, b"\x03\x02", RECORD.encode()))
    with pytest.raises(CryptoFailure):
        PeerRecord.from_envelope(
            seal(KEY, "libp2p-routing-state", peer_record.PAYLOAD_TYPE, RECORD.encode())
        )


def test_a_record_without_a_peer_is_refused():
    with pytest.raises(PeerRecordError, match="without a peer id"):
        PeerRecord.decode(put_uint(2, 7))


@given(st.data())
def test_one_changed_byte_never_opens(data):
    raw = bytearray.fromhex(GOLDEN["envelope"])
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RemoteProtocolError):
        PeerRecord.from_envelope(bytes(raw))


@given(st.binary(max_size=120))
def test_any_bytes_give_a_record_or_the_remote_error(raw):
    try:
        record = PeerRecord.decode(raw)
    except RemoteProtocolError:
        return
    assert PeerRecord.decode(record.encode()) == record
