from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from pt.errors import CryptoFailure, LimitError, LocalProtocolError, RemoteProtocolError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.rendezvous import ipns
from pt.rendezvous.epoch import EpochKeys, epochs_to_publish, epochs_to_search
from pt.rendezvous.exposers import Change, Exposers
from pt.rendezvous.mailbox import (
    LIFE,
    MAX_EXPOSERS,
    PADDED_SIZES,
    RENEWAL,
    Sealed,
    Signed,
    merge,
    open_mailbox,
    pack,
)
from pt.rendezvous.name import NameKeys
from pt.rendezvous.record import CLOCK_SKEW, MAX_LIFETIME, MAX_SIGNED, Record
from pt.wire.multiaddr import Multiaddr

NOW = 1_800_000_000
KEYS = NameKeys.from_master(bytes(range(32)))
EPOCH = EpochKeys.derive(KEYS, NOW // 86_400)
NONCE = bytes(range(12))
IDENTITIES = [PrivateKey.generate(bytes((n,)) * 32) for n in range(1, 12)]
ADDRESSES = tuple(Multiaddr.parse(f"/ip4/11.1.0.{n}/tcp/4001") for n in range(1, 17))


def signed(who: int, seq: int = 1, **changes: object) -> Signed:
    record = Record(
        peer_id=PeerId.from_public_key(IDENTITIES[who].public),
        addresses=ADDRESSES[:2],
        seq=seq,
        expires=NOW + 600,
        services=(22,),
    )
    return Signed.make(replace(record, **changes), KEYS, IDENTITIES[who])


def packed(*parts: Signed, after: int = -1) -> Sealed:
    return pack(parts, EPOCH, after=after, now=NOW, nonce=NONCE)


def by_member(inner: bytes, size: int = 1024, version: bytes = b"\1") -> bytes:
    """A value with whatever inside, as somebody who knows the name could make it."""
    cipher = ChaCha20Poly1305(EPOCH.seal_key).encrypt(
        NONCE, inner.ljust(size - 29, b"\0"), b"pt/2 mailbox" + version
    )
    return ipns.create(EPOCH.signer, version + NONCE + cipher, seq=NOW, expires=NOW + 600, ttl=60)


def entry(raw: bytes) -> bytes:
    return len(raw).to_bytes(2, "big") + raw


def test_layout() -> None:
    one, two = signed(0), signed(1)
    sealed = packed(one, two)
    payload = ipns.validate(sealed.value, EPOCH.name, NOW).payload
    assert payload[:13] == b"\1" + NONCE
    inner = ChaCha20Poly1305(EPOCH.seal_key).decrypt(NONCE, payload[13:], b"pt/2 mailbox\1")
    assert inner.rstrip(b"\0") == (entry(one.raw) + entry(two.raw)).rstrip(b"\0")
    assert (sealed.routing_key, sealed.overlay_key) == (EPOCH.routing_key, EPOCH.overlay_key)


def test_round_trip() -> None:
    sealed = packed(signed(0), signed(1), after=NOW + 5)
    got = open_mailbox(sealed.value, EPOCH, KEYS, NOW)
    assert got.seq == sealed.seq == NOW + 6
    assert got.signed == (signed(0), signed(1))
    assert got.holds(signed(1))
    assert not got.holds(signed(1, seq=2))
    assert not got.holds(signed(2))


def test_what_storage_sees() -> None:
    """Storage checks it without a secret, and it holds nothing of whom it is about."""
    sealed = packed(signed(0))
    stored = ipns.validate(sealed.value, None, NOW)
    assert (stored.overlay_key, stored.seq, stored.expires) == (
        sealed.overlay_key, sealed.seq, sealed.expires
    )  # fmt: skip
    secrets = [
        signed(0).record.peer_id.raw,
        IDENTITIES[0].public.data,
        ADDRESSES[0].encode(),
        KEYS.record_tag,
        KEYS.record_key,
        KEYS.master,
        EPOCH.seal_key,
    ]
    assert not [secret for secret in secrets if secret in sealed.value]


def test_expiry_is_coarse() -> None:
    """The public time says nothing of when in the hour the exposer signed."""
    ends = {packed(signed(0, expires=NOW + 3600 + n)).expires for n in (1, 900, 1799)}
    assert len(ends) == 1
    assert ends.pop() % 3600 == 0


@given(st.integers(0, 16), st.integers(0, 32), st.integers(0, 1 << 60), st.booleans())
@settings(max_examples=50)
def test_length_tells_nothing_of_one_exposer(
    addresses: int, services: int, seq: int, gone: bool
) -> None:
    mine = signed(
        0, seq=seq, addresses=ADDRESSES[:addresses], services=(65535,) * services, gone=gone
    )
    sealed = pack([mine], EPOCH, after=-1, now=NOW, nonce=NONCE)
    assert len(sealed.value) == len(packed(signed(0)).value)
    assert open_mailbox(sealed.value, EPOCH, KEYS, NOW).signed == (mine,)


def test_the_fullest_mailbox_fits() -> None:
    long = tuple(Multiaddr.parse(f"/dns4/{'h' * 50}{n:02}/tcp/4001") for n in range(16))
    parts = [signed(who, addresses=long) for who in range(MAX_EXPOSERS)]
    assert all(len(part.raw) > MAX_SIGNED - 70 for part in parts)
    for count in range(1, MAX_EXPOSERS + 1):
        sealed = packed(*parts[:count])
        assert len(sealed.value) <= ipns.MAX_RECORD
        payload = ipns.validate(sealed.value, EPOCH.name, NOW).payload
        assert len(payload) in PADDED_SIZES
        assert open_mailbox(sealed.value, EPOCH, KEYS, NOW).signed == tuple(parts[:count])


def test_sequences() -> None:
    assert packed(signed(0)).seq == NOW
    assert packed(signed(0), after=NOW - 9).seq == NOW
    assert packed(signed(0), after=NOW).seq == NOW + 1
    with pytest.raises(LimitError, match="locked"):
        packed(signed(0), after=ipns.MAX_SEQ)


def test_packing_refuses() -> None:
    for parts, nonce in (
        ((), NONCE),
        ([signed(0)] * (MAX_EXPOSERS + 1), NONCE),
        ([signed(0)], bytes(11)),
    ):
        with pytest.raises(LocalProtocolError):
            pack(parts, EPOCH, after=-1, now=NOW, nonce=nonce)


# --- not ours, damaged, old ----------------------------------------------------------------


def test_a_stranger_cannot_write() -> None:
    """A squatter has some key, but not the mailbox's: storage and readers refuse."""
    stranger = PrivateKey.generate(b"\x77" * 32)
    payload = ipns.validate(packed(signed(0)).value, None, NOW).payload
    forged = ipns.create(stranger, payload, seq=ipns.MAX_SEQ, expires=NOW + 600, ttl=60)
    assert ipns.validate(forged, None, NOW).overlay_key != EPOCH.overlay_key
    with pytest.raises(CryptoFailure):
        open_mailbox(forged, EPOCH, KEYS, NOW)


def test_another_name_or_epoch() -> None:
    others = NameKeys.from_master(bytes(32))
    elsewhere = EpochKeys.derive(others, EPOCH.epoch)
    tomorrow = EpochKeys.derive(KEYS, EPOCH.epoch + 1)
    value = packed(signed(0)).value
    for epoch, keys in ((elsewhere, others), (tomorrow, KEYS)):
        with pytest.raises(CryptoFailure):
            open_mailbox(value, epoch, keys, NOW)
    mixed = replace(EPOCH, seal_key=tomorrow.seal_key)
    with pytest.raises(CryptoFailure, match="sealed"):
        open_mailbox(value, mixed, KEYS, NOW)


@settings(max_examples=200)
@given(st.data())
def test_any_change_is_noticed(data: st.DataObject) -> None:
    value = bytearray(packed(signed(0)).value)
    at = data.draw(st.integers(0, len(value) - 1))
    value[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RemoteProtocolError):
        open_mailbox(bytes(value), EPOCH, KEYS, NOW)
    with pytest.raises(RemoteProtocolError):
        open_mailbox(packed(signed(0)).value[:at], EPOCH, KEYS, NOW)


@pytest.mark.parametrize(
    "value",
    [
        by_member(b"", size=1023),
        by_member(b"", size=9000),
        by_member(b"", version=b"\2"),
        by_member(b"\x03\x00" + bytes(800)),
        by_member(b"\x02\xff" + b"x" * 993),
        by_member(b"\0\0x"),
        by_member(b"x" * 994 + b"\1"),
        by_member(entry(b"x") * 9),
        ipns.create(EPOCH.signer, b"", seq=1, expires=NOW + 9, ttl=0),
    ],
    ids=["size", "large", "version", "long", "all", "padding", "cut", "nine", "empty"],
)
def test_nonsense_by_a_member(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        open_mailbox(value, EPOCH, KEYS, NOW)


@given(st.binary(max_size=995))
def test_garbage_by_a_member(inner: bytes) -> None:
    try:
        assert open_mailbox(by_member(inner), EPOCH, KEYS, NOW).signed == ()
    except RemoteProtocolError:
        assert inner.strip(b"\0")


def test_a_members_nonsense_does_not_hide_others() -> None:
    other_name = NameKeys.from_master(bytes(32))
    foreign = Signed.make(signed(2).record, other_name, IDENTITIES[2])
    forged = bytearray(signed(1).raw)
    forged[-1] ^= 1
    old, endless = signed(3, expires=NOW - 600), signed(4, expires=NOW + 2 * MAX_LIFETIME)
    bad = (b"x" * 99, foreign.raw, bytes(forged), old.raw, endless.raw)
    value = by_member(b"".join(map(entry, (*bad, signed(0).raw))), size=2048)
    assert open_mailbox(value, EPOCH, KEYS, NOW).signed == (signed(0),)


def test_expired() -> None:
    sealed = packed(signed(0, expires=NOW + 10), signed(1, expires=NOW + 3600))
    later = NOW + 11 + CLOCK_SKEW
    assert open_mailbox(sealed.value, EPOCH, KEYS, later).signed == (signed(1, expires=NOW + 3600),)
    with pytest.raises(ipns.ExpiredError):
        open_mailbox(sealed.value, EPOCH, KEYS, sealed.expires + 1)


@settings(max_examples=60)
@given(
    st.floats(NOW, NOW + 2 * 86_400),
    st.floats(0, RENEWAL),
    st.floats(-3600, 3600),
    st.floats(-3600, 3600),
)
def test_clocks_an_hour_wrong(now: float, later: float, exposer: float, searcher: float) -> None:
    """Written at any time of the day, it is found and opened until it is due to be renewed."""
    theirs, ours = now + exposer, now + later + searcher
    mine = signed(0, expires=int(theirs) + LIFE)
    stored = {}
    for number in epochs_to_publish(theirs):
        epoch = EpochKeys.derive(KEYS, number)
        stored[number] = pack([mine], epoch, after=-1, now=theirs, nonce=NONCE)
        ipns.validate(stored[number].value, None, now + later)  # servers' clocks are right
    opened = [
        open_mailbox(stored[number].value, EpochKeys.derive(KEYS, number), KEYS, ours).signed
        for number in epochs_to_search(ours)
        if number in stored
    ]
    assert opened
    assert set(opened) == {(mine,)}


# --- several exposers ----------------------------------------------------------------------


def test_merge() -> None:
    mine = signed(0, seq=5)
    seen = [
        signed(1, seq=3),
        signed(0, seq=4),
        signed(1, seq=4),
        signed(2, expires=NOW - 1),
        signed(1, seq=2),
        signed(3, gone=True, addresses=()),
    ]
    merged = merge(mine, seen, NOW)
    assert merged[0] == mine
    assert set(merged[1:]) == {signed(1, seq=4), signed(3, gone=True, addresses=())}


def test_merge_is_bounded_and_agreed_upon() -> None:
    seen = [signed(who, expires=NOW + 100 + who) for who in range(1, 11)]
    merged = merge(signed(0), seen, NOW)
    assert len(merged) == MAX_EXPOSERS
    assert merged[1:] == tuple(reversed(seen[3:]))
    assert merge(signed(0), reversed(seen), NOW) == merged


class Dht:
    """Nodes that each keep the best value they were given, as the DHTs' do."""

    def __init__(self, nodes: int) -> None:
        self.held: list[bytes | None] = [None] * nodes

    def put(self, value: bytes, nodes: range) -> None:
        for node in nodes:
            values = [v for v in (self.held[node], value) if v is not None]
            best = ipns.select(ipns.validate(v, EPOCH.name, NOW) for v in values)
            assert best is not None
            self.held[node] = best.raw

    def get(self) -> list[bytes]:
        return [value for value in self.held if value is not None]


class Writer:
    """An exposer that publishes as the docstring says."""

    def __init__(self, who: int) -> None:
        self.mine = signed(who)

    def read(self, dht: Dht):
        return [open_mailbox(value, EPOCH, KEYS, NOW) for value in dht.get()]

    def prepare(self, dht: Dht) -> bytes:
        seen = self.read(dht)
        everyone = itertools.chain.from_iterable(box.signed for box in seen)
        merged = merge(self.mine, everyone, NOW)
        after = max((box.seq for box in seen), default=-1)
        return pack(merged, EPOCH, after=after, now=NOW, nonce=NONCE).value


def found(dht: Dht) -> set[PeerId]:
    table = Exposers()
    for value in dht.get():
        for each in open_mailbox(value, EPOCH, KEYS, NOW).signed:
            table.add(each.record, "amino", NOW)
    return {exposer.peer_id for exposer in table}


@given(st.permutations(range(6)), st.data())
@settings(max_examples=30)
def test_writers_at_the_same_time_find_room(order: list[int], data: st.DataObject) -> None:
    """All read before any writes; then those who were overwritten try again, one after another."""
    dht = Dht(nodes=5)
    writers = [Writer(who) for who in order]
    for value in [writer.prepare(dht) for writer in writers]:
        start = data.draw(st.integers(0, 2))
        dht.put(value, range(start, start + 3))
    for _ in range(2):
        for writer in writers:
            if not all(box.holds(writer.mine) for box in writer.read(dht)):
                dht.put(writer.prepare(dht), range(5))
    assert found(dht) == {writer.mine.record.peer_id for writer in writers}
    assert len(set(dht.get())) == 1


def test_goodbye_is_not_undone_by_another_writer() -> None:
    """One writes what it read before the other left."""
    dht = Dht(nodes=3)
    leaving, staying = Writer(0), Writer(1)
    for writer in (leaving, staying):
        dht.put(writer.prepare(dht), range(3))
    late = staying.prepare(dht)
    leaving.mine = signed(0, seq=2, gone=True, addresses=(), services=())
    dht.put(leaving.prepare(dht), range(1, 3))
    dht.put(late, range(1))
    table = Exposers()
    changes = [
        table.add(each.record, "amino", NOW)
        for value in reversed(dht.get())
        for each in open_mailbox(value, EPOCH, KEYS, NOW).signed
    ]
    assert Change.STALE in changes
    assert {exposer.peer_id for exposer in table} == {staying.mine.record.peer_id}


def test_an_old_value_does_not_bring_old_addresses_back() -> None:
    table = Exposers()
    moved = signed(0, seq=2, addresses=ADDRESSES[5:6])
    values = [packed(moved, after=NOW), packed(signed(0))]
    for sealed in values:
        for each in open_mailbox(sealed.value, EPOCH, KEYS, NOW).signed:
            table.add(each.record, "amino", NOW)
    assert [exposer.record.addresses for exposer in table] == [ADDRESSES[5:6]]
