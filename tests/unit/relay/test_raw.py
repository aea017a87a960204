"""Raw circuits' prefaces, and proofs of the operator's secret."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import LocalProtocolError, RemoteProtocolError, UsageError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.relay import raw
from pt.relay.raw import (
    NO_PROOF,
    PREFACE,
    PREFACE_LEN,
    AuthAnswer,
    Notice,
    PrefaceError,
    PrefaceReader,
    preface,
    proof,
    secret_key,
    verify_proof,
)

TOKEN = bytes(range(32))
CLIENT, RELAY, OTHER = (
    PeerId.from_public_key(PrivateKey.generate(bytes([n]) * 32).public) for n in range(3)
)
BINDING = bytes(range(100, 132))
SECRET = "correct horse battery"
KNOWN_KEY = "79e2337375907ad69e0bf12427a9af8c5bf178d26cb49b0dff74b64af4e2029b"
KNOWN_PROOF = "45e49f75436f9f87d4b68cd4564b976d4f65df322a205613c65f23c2d46b6e77"


def test_the_preface_on_the_wire():
    assert preface(TOKEN) == b"\x00pt-raw\x01" + TOKEN
    assert len(preface(TOKEN)) == PREFACE_LEN == 40
    with pytest.raises(LocalProtocolError):
        preface(TOKEN[:-1])


@given(st.lists(st.integers(0, 40), max_size=8))
def test_a_preface_split_in_any_way(cuts):
    data = preface(TOKEN)
    reader = PrefaceReader()
    edges = sorted({*cuts, 0, 40})
    for start, end in itertools.pairwise(edges):
        assert reader.missing == 40 - start
        token = reader.receive_data(memoryview(data)[start:end])
        assert token == (TOKEN if end == 40 else None)
    assert reader.missing == 0


@pytest.mark.parametrize("at", range(len(PREFACE)))
def test_the_first_wrong_byte_is_told(at):
    wrong = bytearray(preface(TOKEN))
    wrong[at] ^= 1
    reader = PrefaceReader()
    assert reader.receive_data(wrong[:at]) is None
    with pytest.raises(PrefaceError):
        reader.receive_data(wrong[at : at + 1])
    with pytest.raises(PrefaceError):
        PrefaceReader().receive_data(wrong)


def test_no_more_than_a_preface_is_taken():
    with pytest.raises(LocalProtocolError):
        PrefaceReader().receive_data(preface(TOKEN) + b"x")
    assert issubclass(PrefaceError, RemoteProtocolError)


def test_the_proof_by_its_definition():
    key = hmac.new(b"/peertunnel/relay/1.0.0 secret", SECRET.encode(), hashlib.sha256).digest()
    assert secret_key(SECRET) == key
    said = b"/peertunnel/relay/1.0.0 user"
    for part in (CLIENT.raw, RELAY.raw, BINDING):
        said += bytes([len(part)]) + part
    expected = hmac.new(key, said, hashlib.sha256).digest()
    assert proof(key, client=CLIENT, relay=RELAY, binding=BINDING) == expected


def test_known_values():
    """Fixed bytes: a change of the derivation must not go unnoticed."""
    key = secret_key(SECRET)
    assert key.hex() == KNOWN_KEY
    assert proof(key, client=CLIENT, relay=RELAY, binding=BINDING).hex() == KNOWN_PROOF


def test_proofs_are_bound_to_both_ends_and_the_connection():
    key = secret_key(SECRET)
    good = proof(key, client=CLIENT, relay=RELAY, binding=BINDING)
    assert verify_proof(good, key, client=CLIENT, relay=RELAY, binding=BINDING)
    assert not verify_proof(good, key, client=OTHER, relay=RELAY, binding=BINDING)
    assert not verify_proof(good, key, client=CLIENT, relay=OTHER, binding=BINDING)
    assert not verify_proof(good, key, client=RELAY, relay=CLIENT, binding=BINDING)
    assert not verify_proof(good, key, client=CLIENT, relay=RELAY, binding=bytes(32))
    other_key = secret_key(SECRET + "!")
    assert not verify_proof(good, other_key, client=CLIENT, relay=RELAY, binding=BINDING)
    assert not verify_proof(NO_PROOF, key, client=CLIENT, relay=RELAY, binding=BINDING)
    assert not verify_proof(good[:-1], key, client=CLIENT, relay=RELAY, binding=BINDING)


def test_one_secret_typed_in_several_ways():
    composed = unicodedata.normalize("NFC", "Zürich über alles")
    decomposed = unicodedata.normalize("NFD", composed)
    assert composed != decomposed
    assert secret_key(composed) == secret_key(f"  {decomposed}\n")
    assert secret_key(composed) != secret_key(composed.upper())


@pytest.mark.parametrize("text", ["", "fifteen letters", " " * 40, "fifteen letters   \n"])
def test_short_secrets_are_refused(text):
    with pytest.raises(UsageError, match="at least 16"):
        secret_key(text)
    assert secret_key("sixteen letters!")


def test_a_secret_that_is_not_text_is_refused():
    with pytest.raises(UsageError, match="UTF-8"):
        secret_key("sixteen letters \udcff!")


def test_numbers_on_the_wire():
    assert [int(answer) for answer in AuthAnswer] == [0, 1, 2]
    assert int(Notice.DRAINING) == 0x10
    assert not set(map(int, AuthAnswer)) & set(map(int, Notice))
    assert raw.PROOF_LEN == len(NO_PROOF) == 32
