"""Reservation vouchers: go-libp2p's bytes, and everything that makes one worthless."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import CryptoFailure, RemoteProtocolError
from pt.identity.envelope import seal
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.relay import voucher
from pt.relay.voucher import CLOCK_SKEW, Voucher, VoucherError, verify
from pt.wire.protobuf import put_bytes, put_uint
from tests.vectors import load

GOLDEN = load("libp2p/signed.json")["voucher"]
KEY = PrivateKey.from_protobuf(bytes.fromhex(load("libp2p/identities.json")["keys"][0]["private"]))
RELAY = PeerId.from_public_key(KEY.public)
OTHER_KEY = PrivateKey.generate(bytes(32))
OTHER = PeerId.from_public_key(OTHER_KEY.public)
EXPIRY = 1700003600
VOUCHER = Voucher(RELAY, OTHER, EXPIRY)


def test_golden():
    golden = Voucher(RELAY, RELAY, GOLDEN["expiration"])
    assert golden.encode().hex() == GOLDEN["payload"]
    assert golden.sealed(KEY).hex() == GOLDEN["envelope"]
    assert Voucher.decode(bytes.fromhex(GOLDEN["payload"])) == golden
    assert Voucher.open(bytes.fromhex(GOLDEN["envelope"])) == golden
    assert (voucher.DOMAIN, voucher.PAYLOAD_TYPE.hex()) == (
        GOLDEN["domain"],
        GOLDEN["payload_type"],
    )


@given(st.integers(0, 2**64 - 1))
def test_round_trip(expiration):
    said = Voucher(RELAY, OTHER, expiration)
    assert Voucher.open(said.sealed(KEY)) == said


def test_a_good_one():
    assert verify(VOUCHER.sealed(KEY), relay=RELAY, peer=OTHER, now=EXPIRY - 3600) == VOUCHER


def test_one_that_somebody_else_signed():
    with pytest.raises(VoucherError, match="signed by another"):
        verify(VOUCHER.sealed(OTHER_KEY), relay=RELAY, peer=OTHER, now=0)


def test_one_of_another_relay():
    theirs = Voucher(OTHER, OTHER, EXPIRY).sealed(OTHER_KEY)
    with pytest.raises(VoucherError, match="of relay"):
        verify(theirs, relay=RELAY, peer=OTHER, now=0)


def test_one_for_another_peer():
    with pytest.raises(VoucherError, match="for "):
        verify(VOUCHER.sealed(KEY), relay=RELAY, peer=RELAY, now=0)


def test_expiry_with_the_allowance_for_clocks():
    sealed = VOUCHER.sealed(KEY)
    assert verify(sealed, relay=RELAY, peer=OTHER, now=EXPIRY + CLOCK_SKEW)
    with pytest.raises(VoucherError, match="expired"):
        verify(sealed, relay=RELAY, peer=OTHER, now=EXPIRY + CLOCK_SKEW + 1)


def test_another_type_or_domain():
    with pytest.raises(VoucherError, match="type 0301"):
        Voucher.open(seal(KEY, voucher.DOMAIN, b"\x03\x01", VOUCHER.encode()))
    with pytest.raises(CryptoFailure):
        Voucher.open(seal(KEY, "libp2p-peer-record", b"\x03\x02", VOUCHER.encode()))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        put_uint(3, EXPIRY),
        put_bytes(1, RELAY.raw),
        put_bytes(2, OTHER.raw),
        put_bytes(1, RELAY.raw) + put_bytes(2, b"no id"),
    ],
)
def test_malformed_ones(raw):
    with pytest.raises(RemoteProtocolError):
        verify(seal(KEY, voucher.DOMAIN, voucher.PAYLOAD_TYPE, raw), relay=RELAY, peer=OTHER, now=0)


def test_without_an_expiry_it_has_expired():
    raw = put_bytes(1, RELAY.raw) + put_bytes(2, OTHER.raw)
    sealed = seal(KEY, voucher.DOMAIN, voucher.PAYLOAD_TYPE, raw)
    with pytest.raises(VoucherError, match="expired"):
        verify(sealed, relay=RELAY, peer=OTHER, now=EXPIRY)


@given(st.data())
def test_one_changed_byte_never_verifies(data):
    raw = bytearray(VOUCHER.sealed(KEY))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RemoteProtocolError):
        verify(bytes(raw), relay=RELAY, peer=OTHER, now=0)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_voucher_or_the_remote_error(raw):
    try:
        said = Voucher.decode(raw)
    except RemoteProtocolError:
        return
    assert Voucher.decode(said.encode()) == said
