from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import CryptoFailure, LocalProtocolError, RemoteProtocolError
from pt.identity import envelope
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.rendezvous.name import NameKeys
from pt.rendezvous.record import (
    CLOCK_SKEW,
    MAX_BLOB,
    MAX_LIFETIME,
    MAX_SIGNED,
    PADDED_SIZES,
    Record,
    open_record,
    seal,
    sign,
    verify,
)
from pt.wire import protobuf
from pt.wire.multiaddr import Multiaddr

NOW = 1_800_000_000.0
KEYS = NameKeys.from_master(bytes(range(32)))
OTHER_KEYS = NameKeys.from_master(bytes(range(1, 33)))
ME = PrivateKey.generate(b"\1" * 32)
YOU = PrivateKey.generate(b"\2" * 32)
NONCE = bytes(range(12))
DOMAIN = "pt/2 record " + KEYS.record_tag.hex()
MY_ID = PeerId.from_public_key(ME.public)
RECORD = Record(
    peer_id=MY_ID,
    addresses=(
        Multiaddr.parse("/ip4/11.1.0.1/tcp/4001"),
        Multiaddr.parse("/ip6/fd11:7074::1/tcp/4001"),
    ),
    seq=7,
    expires=int(NOW) + 600,
    services=(22, 65535),
)


def sealed_inner(inner: bytes, size: int = 256, keys: NameKeys = KEYS) -> bytes:
    """A blob with whatever inside, as a member of the name could make it."""
    plain = (len(inner).to_bytes(2, "big") + inner).ljust(size - 29, b"\0")
    return b"\1" + NONCE + ChaCha20Poly1305(keys.record_key).encrypt(NONCE, plain, b"pt/2 record\1")


def signed(payload: bytes, identity: PrivateKey = ME, kind: bytes = b"/pt/record/1") -> bytes:
    return envelope.seal(identity, DOMAIN, kind, payload)


def test_round_trip() -> None:
    blob = seal(RECORD, KEYS, ME, NONCE)
    assert len(blob) == 256
    assert open_record(blob, KEYS, NOW) == RECORD
    gone = replace(RECORD, gone=True, addresses=(), services=())
    assert open_record(seal(gone, KEYS, ME, NONCE), KEYS, NOW) == gone


def test_golden() -> None:
    """The layout of the docstring, built by hand."""
    payload = (
        b"\x08\x07"
        b"\x10"
        + protobuf.put_uint(2, RECORD.expires)[1:]
        + b"\x1a\x08\x04\x0b\x01\x00\x01\x06\x0f\xa1"
        + b"\x1a\x14\x29"
        + bytes.fromhex("fd117074000000000000000000000001")
        + b"\x06\x0f\xa1"
        + b"\x20\x16\x20\xff\xff\x03"
    )
    assert seal(RECORD, KEYS, ME, NONCE) == sealed_inner(signed(payload))


def test_nothing_of_it_shows() -> None:
    blob = seal(RECORD, KEYS, ME, NONCE)
    assert MY_ID.raw not in blob
    assert RECORD.addresses[0].encode() not in blob
    assert seal(RECORD, KEYS, ME, bytes(12))[13:] != blob[13:]


addresses = st.lists(
    st.builds(
        lambda v6, host, port: Multiaddr.parse(
            f"/ip6/fd11::{host:x}/tcp/{port}" if v6 else f"/ip4/11.1.0.{host}/tcp/{port}"
        ),
        st.booleans(),
        st.integers(1, 250),
        st.integers(1, 65535),
    ),
    max_size=30,
)


@given(
    addresses,
    st.lists(st.integers(1, 65535), max_size=32),
    st.integers(0, (1 << 63) - 1),
    st.booleans(),
    st.binary(min_size=12, max_size=12),
)
def test_any_record_fits_a_size_and_survives(
    addrs: list[Multiaddr], services: list[int], seq: int, gone: bool, nonce: bytes
) -> None:
    record = replace(RECORD, addresses=tuple(addrs), services=tuple(services), seq=seq, gone=gone)
    blob = seal(record, KEYS, ME, nonce)
    assert len(blob) in PADDED_SIZES
    assert len(blob) <= MAX_BLOB <= 900
    got = open_record(blob, KEYS, NOW)
    assert got.addresses == record.addresses[: len(got.addresses)]
    assert replace(got, addresses=()) == replace(record, addresses=())


def test_the_last_addresses_make_room() -> None:
    long = tuple(Multiaddr.parse(f"/dns4/{'h' * 60}{i:02}/tcp/4001") for i in range(16))
    got = open_record(seal(replace(RECORD, addresses=long), KEYS, ME, NONCE), KEYS, NOW)
    assert 4 <= len(got.addresses) < 16
    assert got.addresses == long[: len(got.addresses)]


def test_peer_in_an_address_is_left_out() -> None:
    there = tuple(address.with_peer(MY_ID.raw) for address in RECORD.addresses)
    only = Multiaddr.parse(f"/p2p/{MY_ID}")
    assert seal(replace(RECORD, addresses=(*there, only)), KEYS, ME, NONCE) == seal(
        RECORD, KEYS, ME, NONCE
    )


@pytest.mark.parametrize(
    ("record", "identity", "nonce"),
    [
        (RECORD, YOU, NONCE),
        (RECORD, ME, bytes(11)),
        (replace(RECORD, seq=-1), ME, NONCE),
        (replace(RECORD, seq=1 << 63), ME, NONCE),
        (replace(RECORD, expires=-1), ME, NONCE),
        (replace(RECORD, services=tuple(range(1, 34))), ME, NONCE),
        (replace(RECORD, facts=tuple((f"{n}", b"") for n in range(9))), ME, NONCE),
        (replace(RECORD, facts=(("nat", b""), ("nat", b"x"))), ME, NONCE),
        (replace(RECORD, facts=(("", b"x"),)), ME, NONCE),
        (replace(RECORD, facts=(("n" * 17, b"x"),)), ME, NONCE),
        (replace(RECORD, facts=(("nat", bytes(158)),)), ME, NONCE),
    ],
)
def test_sealing_refuses(record: Record, identity: PrivateKey, nonce: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        seal(record, KEYS, identity, nonce)


def test_not_for_this_name() -> None:
    with pytest.raises(CryptoFailure):
        open_record(seal(RECORD, KEYS, ME, NONCE), OTHER_KEYS, NOW)


@pytest.mark.parametrize("position", [1, 12, 13, 100, 239, 240, 255])
def test_every_byte_is_authenticated(position: int) -> None:
    blob = bytearray(seal(RECORD, KEYS, ME, NONCE))
    blob[position] ^= 1
    with pytest.raises(CryptoFailure):
        open_record(bytes(blob), KEYS, NOW)


@pytest.mark.parametrize(
    "change",
    [
        lambda blob: b"",
        lambda blob: blob[:-1],
        lambda blob: blob + b"\0",
        lambda blob: blob + bytes(1000),
        lambda blob: b"\2" + blob[1:],
        lambda blob: bytes(900),
    ],
    ids=["empty", "truncated", "longer", "oversize", "version", "zeros"],
)
def test_not_a_record(change) -> None:
    with pytest.raises(RemoteProtocolError):
        open_record(change(seal(RECORD, KEYS, ME, NONCE)), KEYS, NOW)


@given(st.binary(max_size=1000))
def test_garbage(blob: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        open_record(blob, KEYS, NOW)


@pytest.mark.parametrize("size", PADDED_SIZES)
@given(data=st.data())
def test_garbage_by_a_member(size: int, data: st.DataObject) -> None:
    inner = data.draw(st.binary(max_size=size - 31))
    with pytest.raises(RemoteProtocolError):
        open_record(sealed_inner(inner, size), KEYS, NOW)


@given(st.binary(max_size=120))
def test_signed_garbage_parses_or_is_refused(payload: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        assert open_record(sealed_inner(signed(payload), 384), KEYS, None).peer_id == MY_ID


PAYLOAD = protobuf.put_uint(1, 1) + protobuf.put_uint(2, int(NOW) + 60)


@pytest.mark.parametrize(
    "payload",
    [
        PAYLOAD + protobuf.put_bytes(3, b"\x04\x01") * 1,
        PAYLOAD + protobuf.put_bytes(3, RECORD.addresses[0].encode()) * 17,
        PAYLOAD + protobuf.put_uint(4, 0),
        PAYLOAD + protobuf.put_uint(4, 65536),
        PAYLOAD + protobuf.put_uint(4, 1) * 33,
        protobuf.put_uint(1, 1 << 63),
        protobuf.put_uint(9, 1) * 129,
        PAYLOAD + protobuf.put_bytes(6, b"\x0a\1n\x12\1x") * 2,
        PAYLOAD + b"".join(protobuf.put_bytes(6, b"\x0a\1" + bytes((n,))) for n in range(65, 74)),
        PAYLOAD + protobuf.put_bytes(6, b"\x12\1x"),
        PAYLOAD + protobuf.put_bytes(6, b"\x0a\1\xff"),
        PAYLOAD + protobuf.put_bytes(6, b"\x0a\1n" + protobuf.put_bytes(2, bytes(160))),
    ],
    ids=[
        *("address", "addresses", "port 0", "port 65536", "services", "seq", "fields"),
        *("fact twice", "facts", "fact without key", "fact in no text", "long fact"),
    ],
)
def test_bounds_hold_for_members_too(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        open_record(sealed_inner(signed(payload), 640), KEYS, NOW)


def test_unknown_fields_are_for_later_versions() -> None:
    later = PAYLOAD + protobuf.put_text(9, "more") + protobuf.put_uint(10, 1)
    assert open_record(sealed_inner(signed(later)), KEYS, NOW).seq == 1


FACTS = (("nat", b"\1\2"), ("reach", b""), ("later", b"unknown"))


def test_facts() -> None:
    record = replace(RECORD, facts=FACTS)
    assert open_record(seal(record, KEYS, ME, NONCE), KEYS, NOW) == record
    payload = protobuf.Fields(envelope.open_envelope(sign(record, KEYS, ME), DOMAIN).payload)
    assert payload.all_bytes(6)[0] == b"\x0a\3nat\x12\2\1\2"


def test_the_fullest_record_keeps_addresses() -> None:
    """Relays' addresses are the longest that exposers have, and the most needed ones."""
    relay = PeerId.from_public_key(YOU.public)
    circuits = tuple(
        Multiaddr.parse(f"/ip4/11.1.0.{n}/tcp/4001/p2p/{relay}/p2p-circuit") for n in range(1, 17)
    )
    full = replace(
        RECORD,
        addresses=circuits,
        services=tuple(range(65504, 65536)),
        facts=tuple((f"fact{n}", bytes(15)) for n in range(8)),
    )
    signed_record = sign(full, KEYS, ME)
    assert len(signed_record) <= MAX_SIGNED
    got = verify(signed_record, KEYS, NOW)
    assert len(got.addresses) >= 4
    assert replace(got, addresses=circuits) == full


def test_signed_but_not_sealed() -> None:
    raw = sign(RECORD, KEYS, ME)
    assert verify(raw, KEYS, NOW) == RECORD
    with pytest.raises(CryptoFailure):
        verify(raw, OTHER_KEYS, NOW)
    with pytest.raises(RemoteProtocolError, match="expired"):
        verify(raw, KEYS, NOW + 601 + CLOCK_SKEW)
    with pytest.raises(RemoteProtocolError, match="more than"):
        verify(bytes(MAX_SIGNED + 1), KEYS, NOW)


def test_forged_by_another_member() -> None:
    """A member can only speak as itself: the id comes from the key that signed."""
    record = open_record(sealed_inner(signed(PAYLOAD, YOU)), KEYS, NOW)
    assert record.peer_id == PeerId.from_public_key(YOU.public) != MY_ID
    message = protobuf.Fields(signed(PAYLOAD, YOU))
    parts = [protobuf.put_bytes(1, ME.public.to_protobuf())]
    parts += [protobuf.put_bytes(n, message.bytes(n) or b"") for n in (2, 3, 5)]
    with pytest.raises(CryptoFailure):
        open_record(sealed_inner(b"".join(parts)), KEYS, NOW)


def test_moved_to_another_name() -> None:
    """Who knows two names cannot pass a record of the one off under the other."""
    inner = envelope.seal(
        ME, "pt/2 record " + OTHER_KEYS.record_tag.hex(), b"/pt/record/1", PAYLOAD
    )
    with pytest.raises(CryptoFailure):
        open_record(sealed_inner(inner), KEYS, NOW)


def test_another_payload_type() -> None:
    with pytest.raises(RemoteProtocolError, match="type"):
        open_record(sealed_inner(signed(PAYLOAD, kind=b"/pt/other")), KEYS, NOW)


def test_padding_carries_nothing() -> None:
    inner = signed(PAYLOAD)
    plain = (len(inner).to_bytes(2, "big") + inner).ljust(256 - 29 - 1, b"\0") + b"x"
    body = ChaCha20Poly1305(KEYS.record_key).encrypt(NONCE, plain, b"pt/2 record\1")
    with pytest.raises(RemoteProtocolError, match="padding"):
        open_record(b"\1" + NONCE + body, KEYS, NOW)


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (600.0, None),
        (600.0 + CLOCK_SKEW, None),
        (601.0 + CLOCK_SKEW, "expired"),
        (600.0 - MAX_LIFETIME - CLOCK_SKEW, None),
        (599.0 - MAX_LIFETIME - CLOCK_SKEW, "too long"),
    ],
)
def test_expiry(after: float, message: str | None) -> None:
    blob = seal(RECORD, KEYS, ME, NONCE)
    if message is None:
        assert open_record(blob, KEYS, NOW + after) == RECORD
    else:
        with pytest.raises(RemoteProtocolError, match=message):
            open_record(blob, KEYS, NOW + after)
    assert open_record(blob, KEYS, None) == RECORD
