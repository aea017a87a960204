"""Peer ids: the specification's vectors, value semantics, refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import RemoteProtocolError, UsageError
from pt.identity.keys import KeyType, PrivateKey, PublicKey
from pt.identity.peer_id import PeerId
from pt.wire.multihash import Multihash
from pt.wire.protobuf import put_bytes, put_uint
from tests.vectors import load

VECTORS = load("libp2p/identities.json")
KEYS = VECTORS["keys"]
SIZES = {"ED25519": 38, "SECP256K1": 39, "ECDSA": 34, "RSA": 34}


@pytest.mark.parametrize("vector", KEYS, ids=lambda vector: vector["type"])
def test_golden(vector):
    key = PublicKey.from_protobuf(bytes.fromhex(vector["public"]))
    peer = PeerId.from_public_key(key)
    assert str(peer) == vector["peer_id"]
    assert len(peer.raw) == SIZES[vector["type"]]
    assert PeerId.parse(vector["peer_id"]) == PeerId(peer.raw) == peer
    assert peer.public_key() == (key if SIZES[vector["type"]] > 34 else None)


def test_golden_cid():
    assert str(PeerId.parse(KEYS[0]["cid"])) == KEYS[0]["peer_id"]


@pytest.mark.parametrize(("one", "other"), VECTORS["same_peer"])
def test_two_texts_of_one_peer(one, other):
    assert PeerId.parse(one) == PeerId.parse(other)


@given(st.binary(min_size=32, max_size=32))
def test_ed25519_ids_hold_their_key(seed):
    key = PrivateKey.generate(seed).public
    peer = PeerId.from_public_key(key)
    assert peer.public_key() == key
    assert str(peer).startswith("12D3KooW")
    assert PeerId.parse(str(peer)) == peer


def test_it_is_a_value():
    one, other = PeerId.parse(KEYS[0]["peer_id"]), PeerId.parse(KEYS[1]["peer_id"])
    assert {one, PeerId(one.raw), other} == {one, other}
    assert one != one.raw
    assert sorted([other, one]) == sorted([one, other], key=lambda peer: peer.raw)
    with pytest.raises(AttributeError):
        one.raw = other.raw
    assert repr(one) == f"PeerId('{KEYS[0]['peer_id']}')"
    assert one.short() == "12D3…R3pq"


@pytest.mark.parametrize("text", ["", "nobody", "12D3KooW", "/p2p/" + KEYS[0]["peer_id"]])
def test_bad_text_is_the_users_fault(text):
    with pytest.raises(UsageError, match="is not a peer id"):
        PeerId.parse(text)


@pytest.mark.parametrize("raw", [b"", b"\x00", b"\x12\x20" + bytes(31), b"\x00\x2b" + bytes(43)])
def test_bad_bytes_are_the_peers_fault(raw):
    with pytest.raises(RemoteProtocolError):
        PeerId(raw)


@pytest.mark.parametrize(
    "inlined",
    [
        b"no key",
        put_bytes(2, bytes(32)) + put_uint(1, KeyType.ED25519),  # not canonical: a second name
        put_uint(1, KeyType.ED25519) + put_bytes(2, bytes(31)),
    ],
)
def test_an_inlined_key_must_be_canonical(inlined):
    peer = PeerId(Multihash.identity(inlined).encode())
    with pytest.raises(RemoteProtocolError):
        peer.public_key()


@given(st.binary(max_size=45))
def test_any_bytes_give_an_id_or_the_remote_error(raw):
    try:
        peer = PeerId(raw)
        assert PeerId.parse(str(peer)) == peer or not str(peer).startswith(("1", "Qm"))
        peer.public_key()
    except RemoteProtocolError:
        return
