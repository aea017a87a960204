from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pt.errors import CryptoFailure, LocalProtocolError, RemoteProtocolError
from pt.identity.keys import KeyType, PrivateKey, PublicKey
from pt.rendezvous import cbor
from pt.rendezvous.ipns import (
    MAX_PAYLOAD,
    MAX_RECORD,
    MAX_SEQ,
    ExpiredError,
    create,
    name_of,
    overlay_key,
    routing_key,
    select,
    validate,
    validate_stored,
)
from pt.wire import protobuf

NOW = 1_800_000_000
KEY = PrivateKey.generate(b"\1" * 32)
OTHER = PrivateKey.generate(b"\2" * 32)
NAME = name_of(KEY.public)
RAW = create(KEY, b"payload", seq=7, expires=NOW + 60, ttl=60)
DATA: dict[str, cbor.Value] = {
    "TTL": 60_000_000_000,
    "_pt": b"payload",
    "Value": b"/ipfs/bafkqaaa",
    "Sequence": 7,
    "Validity": b"2027-01-15T08:01:00Z",
    "ValidityType": 0,
}


def signed(data: bytes, key: PrivateKey = KEY, public: bytes | None = None) -> bytes:
    """A record around whatever data, as a member of the name could make it."""
    return (
        protobuf.put_bytes(7, key.public.to_protobuf() if public is None else public)
        + protobuf.put_bytes(8, key.sign(b"ipns-signature:" + data))
        + protobuf.put_bytes(9, data)
    )


def test_golden() -> None:
    data = bytes.fromhex(
        "a6"
        "6354544c" "1b0000000df8475800"
        "635f7074" "47" + b"payload".hex() +
        "6556616c7565" "4e" + b"/ipfs/bafkqaaa".hex() +
        "6853657175656e6365" "07"
        "6856616c6964697479" "54" + b"2027-01-15T08:01:00Z".hex() +
        "6c56616c696469747954797065" "00"
    )  # fmt: skip
    assert cbor.encode_map(DATA) == data
    assert signed(data) == RAW
    assert bytes.fromhex("002408011220") + KEY.public.data == NAME
    assert routing_key(NAME) == b"/ipns/" + NAME
    assert overlay_key(NAME) == hashlib.sha256(b"/ipns/" + NAME).digest()


def test_what_is_read() -> None:
    record = validate(RAW, NAME, NOW)
    assert (record.name, record.payload, record.seq, record.ttl, record.raw) == (
        NAME, b"payload", 7, 60_000_000_000, RAW
    )  # fmt: skip
    assert record.expires == NOW + 60
    assert (record.routing_key, record.overlay_key) == (routing_key(NAME), overlay_key(NAME))
    assert validate(RAW, None, NOW) == record


@given(
    st.binary(max_size=2000),
    st.integers(0, MAX_SEQ),
    st.integers(0, 253_402_300_799),
    st.integers(0, 1 << 32),
)
def test_round_trip(payload: bytes, seq: int, expires: int, ttl: int) -> None:
    record = validate(create(KEY, payload, seq=seq, expires=expires, ttl=ttl), NAME, 0)
    assert (record.payload, record.seq, record.expires) == (payload, seq, expires)
    assert record.ttl == ttl * 1_000_000_000


def test_the_largest_fits() -> None:
    raw = create(KEY, bytes(MAX_PAYLOAD), seq=MAX_SEQ, expires=NOW + 60, ttl=1 << 32)
    assert len(raw) <= MAX_RECORD
    assert validate(raw, NAME, NOW).payload == bytes(MAX_PAYLOAD)


@settings(max_examples=300)
@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_every_byte_counts(at: int, change: int) -> None:
    raw = bytearray(RAW)
    raw[at] ^= change
    with pytest.raises(RemoteProtocolError):
        validate(bytes(raw), NAME, NOW)


def test_each_bit_of_each_byte_counts() -> None:
    for at in range(len(RAW)):
        raw = bytearray(RAW)
        raw[at] ^= 1 << at % 8
        with pytest.raises(RemoteProtocolError):
            validate(bytes(raw), NAME, NOW)


def test_truncated_or_longer() -> None:
    for raw in (*(RAW[:end] for end in range(len(RAW))), RAW + b"\0", RAW + b"\x08\0", RAW + RAW):
        with pytest.raises(RemoteProtocolError):
            validate(raw, NAME, NOW)


def test_oversize() -> None:
    with pytest.raises(RemoteProtocolError, match="more than 10240"):
        validate(signed(cbor.encode_map(DATA | {"_x": bytes(MAX_RECORD)})), NAME, NOW)
    with pytest.raises(LocalProtocolError):
        create(KEY, bytes(MAX_PAYLOAD + 1), seq=0, expires=NOW, ttl=0)


@given(st.binary(max_size=400))
def test_garbage(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        validate(raw, None, 0)


def test_expired() -> None:
    assert validate(RAW, NAME, NOW + 60).seq == 7
    with pytest.raises(ExpiredError):
        validate(RAW, NAME, NOW + 60.001)


def test_another_mailbox() -> None:
    with pytest.raises(CryptoFailure, match="another"):
        validate(create(OTHER, b"", seq=9, expires=NOW + 60, ttl=0), NAME, NOW)


def test_stored_under_its_own_key_only() -> None:
    """A server of the overlay knows the key and the value, and nothing else."""
    assert validate_stored(overlay_key(NAME), RAW, NOW) == validate(RAW, NAME, NOW)
    for key in (overlay_key(name_of(OTHER.public)), routing_key(NAME), b""):
        with pytest.raises(CryptoFailure, match="another"):
            validate_stored(key, RAW, NOW)
    with pytest.raises(ExpiredError):
        validate_stored(overlay_key(NAME), RAW, NOW + 61)


def test_signed_by_another() -> None:
    """Who does not know the name has another key, and cannot claim ours."""
    data = cbor.encode_map(DATA)
    with pytest.raises(CryptoFailure):
        validate(signed(data, OTHER, KEY.public.to_protobuf()), NAME, NOW)


@pytest.mark.parametrize(
    "public",
    [
        PublicKey(KeyType.ED25519, bytes(31)).to_protobuf(),
        b"\x12\x20" + KEY.public.data + b"\x08\x01",
        b"",
    ],
    ids=["short", "not canonical", "empty"],
)
def test_odd_keys(public: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        validate(signed(cbor.encode_map(DATA), public=public), None, NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"TTL": True},
        {"TTL": b""},
        {"Sequence": False},
        {"Sequence": "7"},
        {"ValidityType": 1},
        {"ValidityType": False},
        {"Value": b"/ipfs/bafkqaab"},
        {"Value": "/ipfs/bafkqaaa"},
        {"Validity": b"2027-02-29T08:01:00Z"},
        {"Validity": b"2027-01-15T08:01:00+01:00"},
        {"Validity": b"2027-01-15T08:01:00.0000000000Z"},
        {"Validity": b"2027-01-15T08:01:00Z\n"},
        {"Validity": "2027-01-15T08:01:00Z"},
        {"_pt": "payload"},
        {"Other": 1},
    ],
    ids=str,
)
def test_signed_nonsense(change: dict[str, cbor.Value]) -> None:
    with pytest.raises(RemoteProtocolError):
        validate(signed(cbor.encode_map(DATA | change)), NAME, NOW)


@pytest.mark.parametrize("missing", sorted(DATA))
def test_missing(missing: str) -> None:
    data = {key: value for key, value in DATA.items() if key != missing}
    with pytest.raises(RemoteProtocolError):
        validate(signed(cbor.encode_map(data)), NAME, NOW)


def test_further_fields_are_for_later_versions() -> None:
    assert validate(signed(cbor.encode_map(DATA | {"_later": 1})), NAME, NOW).seq == 7


def test_validity_of_other_writers() -> None:
    for text, nanoseconds in (
        (b"00.000000000Z", 0),
        (b"00.5Z", 500_000_000),
        (b"00.000000001Z", 1),
    ):
        data = DATA | {"Validity": b"2027-01-15T08:01:" + text}
        validity = validate(signed(cbor.encode_map(data)), NAME, NOW).validity
        assert validity == (NOW + 60) * 1_000_000_000 + nanoseconds


@pytest.mark.parametrize(
    ("seq", "expires", "ttl"),
    [(-1, 0, 0), (MAX_SEQ + 1, 0, 0), (0, -1, 0), (0, 253_402_300_800, 0), (0, 0, -1)],
)
def test_creating_refuses(seq: int, expires: int, ttl: int) -> None:
    with pytest.raises(LocalProtocolError):
        create(KEY, b"", seq=seq, expires=expires, ttl=ttl)


def test_select() -> None:
    def made(payload: bytes, seq: int, expires: int):
        return validate(create(KEY, payload, seq=seq, expires=expires, ttl=0), NAME, NOW)

    first, longer, newer = made(b"", 1, NOW + 9), made(b"", 1, NOW + 10), made(b"", 2, NOW + 1)
    assert select([first, newer, longer]) is newer
    assert select([longer, first]) is longer
    twins = [made(b"a", 1, NOW + 9), made(b"b", 1, NOW + 9)]
    assert select(twins) is select(twins[::-1]) is max(twins, key=lambda record: record.raw)
    assert select([]) is None
