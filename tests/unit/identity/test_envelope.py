"""Signed envelopes: go-libp2p's bytes, mutations, and use for another purpose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import CryptoFailure, RemoteProtocolError
from pt.identity.envelope import MAX_ENVELOPE, EnvelopeError, open_envelope, seal
from pt.identity.keys import PrivateKey
from pt.wire.protobuf import put_bytes, put_uint
from tests.vectors import load

IDENTITY = load("libp2p/identities.json")["keys"][0]
SIGNED = load("libp2p/signed.json")
KEY = PrivateKey.from_protobuf(bytes.fromhex(IDENTITY["private"]))
ID0 = b"\x00\x24" + KEY.public.to_protobuf()
SEALED = seal(KEY, "domain", b"\x03\x99", b"payload")


@pytest.mark.parametrize("name", SIGNED)
def test_golden(name):
    vector = SIGNED[name]
    payload, kind = bytes.fromhex(vector["payload"]), bytes.fromhex(vector["payload_type"])
    raw = bytes.fromhex(vector["envelope"])
    assert seal(KEY, vector["domain"], kind, payload) == raw
    opened = open_envelope(raw, vector["domain"])
    assert (opened.public_key, opened.payload_type, opened.payload) == (KEY.public, kind, payload)


def test_golden_voucher_payload():
    vector = SIGNED["voucher"]
    built = put_bytes(1, ID0) + put_bytes(2, ID0) + put_uint(3, vector["expiration"])
    assert built.hex() == vector["payload"]


@given(st.text(max_size=20), st.binary(max_size=8), st.binary(max_size=200))
def test_round_trip(domain, kind, payload):
    opened = open_envelope(seal(KEY, domain, kind, payload), domain)
    assert (opened.public_key, opened.payload_type, opened.payload) == (KEY.public, kind, payload)


def test_another_domain_does_not_verify():
    with pytest.raises(CryptoFailure):
        open_envelope(SEALED, "other")


def test_another_signer_does_not_verify():
    other = PrivateKey.generate(bytes(32)).public.to_protobuf()
    with pytest.raises(CryptoFailure):
        open_envelope(SEALED.replace(KEY.public.to_protobuf(), other), "domain")


def test_the_parts_cannot_be_shifted_into_each_other():
    # domain ‖ type ‖ payload without lengths would read the same for both
    shifted = SEALED.replace(put_bytes(2, b"\x03\x99"), put_bytes(2, b"\x03")).replace(
        put_bytes(3, b"payload"), put_bytes(3, b"\x99payload")
    )
    with pytest.raises(CryptoFailure):
        open_envelope(shifted, "domain")


@given(st.data())
def test_one_changed_byte_never_opens(data):
    raw = bytearray(SEALED)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RemoteProtocolError):
        open_envelope(bytes(raw), "domain")


@given(st.integers(0, len(SEALED) - 1))
def test_a_cut_envelope_never_opens(cut):
    with pytest.raises(RemoteProtocolError):
        open_envelope(SEALED[:cut], "domain")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        put_bytes(1, KEY.public.to_protobuf()),
        put_bytes(5, bytes(64)),
        SEALED + bytes(MAX_ENVELOPE),
    ],
)
def test_incomplete_or_too_long(raw):
    with pytest.raises(EnvelopeError):
        open_envelope(raw, "domain")


def test_a_payload_may_be_empty_or_left_out():
    sealed = seal(KEY, "domain", b"", b"")
    assert open_envelope(sealed, "domain").payload == b""
    without = sealed.replace(put_bytes(2, b"") + put_bytes(3, b""), b"")
    assert open_envelope(without, "domain").payload == b""
