"""What a server keeps, and what it refuses and why."""

from __future__ import annotations

import random

import pytest

from pt.overlay.messages import MAX_VALUE
from pt.overlay.storage import MAX_LIFE, Refusal, Storage
from tests.unit.overlay.records import key_of, record, signer, validate

NOW = 1_000_000.0
ONE = signer(1)
KEY = key_of(ONE)


def make(**bounds) -> Storage:
    return Storage(validate, max_value=MAX_VALUE, **bounds)


def fill(storage: Storage, numbers: range, source: str) -> list[Refusal | None]:
    keys = [signer(number) for number in numbers]
    return [storage.put(key_of(key), record(key), source, NOW) for key in keys]


def test_a_record_is_kept_until_it_expires():
    storage, value = make(), record(ONE, expires=1_000_100)
    assert storage.put(KEY, value, "a", NOW) is None
    assert storage.put(KEY, value, "b", NOW) is None
    assert storage.get(KEY, NOW + 99) == value
    assert storage.get(KEY, NOW + 100) is None
    assert (len(storage), storage.bytes) == (1, len(value))
    storage.expire(NOW + 100)
    assert (len(storage), storage.bytes) == (0, 0)


def forged() -> bytes:
    value = bytearray(record(ONE))
    value[-1] ^= 1
    return bytes(value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (record(ONE, size=MAX_VALUE + 1), Refusal.OVERSIZE),
        (forged(), Refusal.INVALID),
        (record(signer(2)), Refusal.INVALID),
        (record(ONE)[:-1], Refusal.INVALID),
        (b"", Refusal.INVALID),
        (record(ONE, expires=999_999), Refusal.EXPIRED),
    ],
)
def test_what_does_not_verify_is_refused(value, reason):
    storage = make()
    assert storage.put(KEY, value, "a", NOW) is reason
    assert len(storage) == 0
    assert storage.refused == {reason: 1}


def test_the_sequence_never_goes_back():
    storage = make()
    old, new = record(ONE, seq=1), record(ONE, seq=2)
    later = record(ONE, seq=2, expires=10_000_001)
    assert storage.put(KEY, new, "a", NOW) is None
    assert storage.put(KEY, old, "a", NOW) is Refusal.STALE
    assert storage.put(KEY, old, "b", NOW) is Refusal.STALE
    assert storage.get(KEY, NOW) == new
    assert storage.put(KEY, record(ONE, seq=3), "a", NOW) is None
    assert storage.put(KEY, later, "a", NOW) is Refusal.STALE
    assert len(storage) == 1


def test_nothing_is_kept_for_ever():
    storage = make()
    storage.put(KEY, record(ONE, expires=1 << 60), "a", NOW)
    storage.expire(NOW + MAX_LIFE)
    assert len(storage) == 0


def test_a_source_has_a_quota():
    storage = make(quota=3, max_records=100)
    assert fill(storage, range(1, 6), "a") == [None] * 3 + [Refusal.QUOTA] * 2
    assert storage.put(KEY, record(ONE, seq=2), "a", NOW) is None
    assert fill(storage, range(6, 8), "b") == [None] * 2
    nine = signer(9)
    assert storage.put(key_of(nine), record(nine), "a", NOW, server=True) is None


def test_a_flood_displaces_only_itself():
    storage = make(quota=10, max_records=12)
    fill(storage, range(1, 3), "honest")
    assert fill(storage, range(10, 30), "flood") == [None] * 10 + [Refusal.QUOTA] * 10
    assert fill(storage, range(40, 44), "other") == [None] * 4
    assert storage.evicted == 4
    assert all(key_of(signer(number)) in storage for number in (1, 2, 40, 43))
    crowd = make(quota=10, max_records=5)
    for number in range(1, 6):
        fill(crowd, range(number, number + 1), f"s{number}")
    assert fill(crowd, range(9, 10), "new")[0] is None
    assert fill(crowd, range(10, 11), "new")[0] is Refusal.FULL


def test_bytes_are_bounded():
    storage = make(max_bytes=2000, quota=100)
    fill(storage, range(1, 10), "a")
    assert storage.bytes <= 2000
    assert storage.refused[Refusal.FULL] == 5


def test_the_books_agree_whatever_happens():
    chance, storage = random.Random(3), make(quota=20, max_records=40, max_bytes=30_000)
    signers = [signer(number) for number in range(1, 81)]
    now = NOW
    for step in range(1500):
        now += chance.random() * 3
        one = chance.choice(signers)
        value = record(one, step, int(now) + chance.randrange(-5, 200), chance.randrange(120, 900))
        storage.put(key_of(one), value, f"s{chance.randrange(5)}", now)
        entries = storage._entries
        assert storage.bytes == sum(len(entry.value) for entry in entries.values()) <= 30_000
        assert len(storage) <= 40
        assert sum(map(len, storage._by_source.values())) == len(storage)
        assert all(0 < len(keys) <= 20 for keys in storage._by_source.values())
        for source, keys in storage._by_source.items():
            assert source in storage._by_count[len(keys)]
        assert sum(map(len, storage._by_count.values())) == len(storage._by_source)
        assert len(storage._expiries) <= 2 * len(storage) + 65
    assert storage.evicted
