"""Peer ids as text: every spelling of one peer reads as the same bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import UsageError
from pt.wire import multibase, peertext
from pt.wire.multihash import MAX_IDENTITY, Multihash
from tests.vectors import load

VECTORS = load("libp2p/identities.json")


@pytest.mark.parametrize("key", VECTORS["keys"], ids=lambda key: key["type"])
def test_golden_base58(key):
    assert peertext.encode(peertext.decode(key["peer_id"])) == key["peer_id"]


@pytest.mark.parametrize(("one", "other"), VECTORS["same_peer"])
def test_two_texts_of_one_peer(one, other):
    assert peertext.decode(one) == peertext.decode(other)


def test_golden_cid():
    key = VECTORS["keys"][0]
    assert peertext.encode_cid(peertext.decode(key["peer_id"])) == key["cid"]
    assert peertext.decode(key["cid"]) == peertext.decode(key["peer_id"])


@given(st.binary(max_size=MAX_IDENTITY), st.sampled_from("fbkzu"))
def test_round_trips(data, base):
    hashed, inlined = Multihash.sha256(data).encode(), Multihash.identity(data).encode()
    assert peertext.decode(peertext.encode(hashed)) == hashed
    for raw in (hashed, inlined):
        assert peertext.decode(peertext.encode_cid(raw, base)) == raw


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "Qm",
        "hello",
        "12D3KooW",
        "QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJ0",
        "bafybeihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",  # a dag-pb CID
        multibase.encode("b", b"\x01\x72"),
        multibase.encode("b", b"\x00\x72\x00\x00"),
        multibase.encode("b", b"\x80"),
    ],
)
def test_refused_and_the_message_helps(text):
    with pytest.raises(UsageError, match="is not a peer id"):
        peertext.decode(text)


@given(st.text(max_size=70))
def test_any_text_gives_bytes_or_the_error(text):
    try:
        raw = peertext.decode(text)
    except peertext.PeerTextError:
        return
    Multihash.decode(raw)
