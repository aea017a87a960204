from __future__ import annotations

import asyncio

import pytest

from pt.errors import UsageError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.rendezvous.exposers import MAX_EXPOSERS
from pt.rendezvous.lan import LanRecord
from pt.rendezvous.name import NameKeys
from pt.rendezvous.record import Record, open_record, seal
from pt.tunnel import lookup as lookup_module
from pt.tunnel.lookup import (
    GIVEN_ALONE,
    LAN,
    LAN_SILENCE,
    MAX_INSTANCES,
    SILENT,
    Candidate,
    Lookup,
)
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run
from tests.unit.tunnel.media.memory import MemoryStore

KEYS, OTHER = NameKeys.from_master(b"m" * 32), NameKeys.from_master(b"o" * 32)
IDENTITIES = [PrivateKey.generate(bytes([n]) * 32) for n in range(1, 5)]
PEERS = [PeerId.from_public_key(identity.public) for identity in IDENTITIES]
HOME = Multiaddr.parse("/ip4/192.168.0.2/tcp/4001")


def said(
    who: int, seq: int, *, instance: str = "", keys: NameKeys = KEYS, gone: bool = False, **rest
) -> LanRecord:
    record = Record(
        peer_id=PEERS[who],
        addresses=rest.get("addresses", (HOME,)),
        seq=seq,
        expires=2**40,
        gone=gone,
    )
    blob = seal(record, keys, IDENTITIES[who], b"n" * 12)
    return LanRecord(instance or f"i{who}", (HOME,), blob, 120)


def silent(instance: str) -> LanRecord:
    return LanRecord(instance, (), None, 0)


def quiet(*_: object) -> None:
    pass


def heard(*records: LanRecord) -> tuple[set[PeerId | None], list[PeerId | None]]:
    """(candidates that are left; those that were told)."""
    told: list[Candidate] = []

    async def scenario() -> set[PeerId | None]:
        lookup = Lookup((), lambda candidate, seconds: told.append(candidate), quiet)
        lookup._keys = KEYS
        for record in records:
            lookup._heard(record)
        return {candidate.peer_id for candidate in lookup.candidates()}

    left = asyncio.run(scenario())
    return left, [candidate.peer_id for candidate in told]


A, B, C = PEERS[:3]


@pytest.mark.parametrize(
    ("records", "left", "told"),
    [
        ([said(0, 1)], [A], [A]),
        ([said(0, 1), said(1, 1)], [B, A], [A, B]),
        # somebody else's tunnel, nothing at all, nowhere to go
        ([said(0, 1, keys=OTHER), LanRecord("x", (), None, 120)], [], []),
        ([LanRecord("x", (HOME,), b"garbage" * 50, 120)], [], []),
        ([said(0, 1, addresses=())], [], []),
        # repetitions and replays are no news
        ([said(0, 2), said(0, 2), said(0, 1)], [A], [A]),
        ([said(0, 1), said(0, 2)], [A], [A, A]),
        # goodbyes and silence
        ([said(0, 1), silent("i0")], [], [A]),
        ([silent("i0")], [], []),
        ([said(0, 1), silent("i0"), said(0, 1)], [A], [A, A]),
        ([said(0, 2), silent("i0"), said(0, 1)], [], [A]),
        ([said(0, 1, instance="a"), said(0, 1, instance="b"), silent("a")], [A], [A]),
        ([said(0, 1, instance="a"), said(0, 1, instance="b"), silent("a"), silent("b")], [], [A]),
        # stopped cleanly: not until a newer record
        ([said(0, 1), said(0, 2, gone=True)], [], [A]),
        ([said(0, 1), said(0, 2, gone=True), said(0, 1)], [], [A]),
        ([said(0, 2, gone=True), said(0, 1)], [], []),
        ([said(0, 1), said(0, 2, gone=True), said(0, 3)], [A], [A, A]),
        ([said(0, 2), said(0, 1, gone=True)], [A], [A]),
    ],
)
def test_what_the_lan_says(records, left, told) -> None:
    assert heard(*records) == (set(left), told)


def test_nothing_is_heard_before_the_name_is_known() -> None:
    async def scenario() -> None:
        lookup = Lookup((), quiet, quiet)
        lookup._heard(said(0, 1))
        assert lookup.candidates() == []
        await lookup.close()

    asyncio.run(scenario())


def test_candidates_are_bounded() -> None:
    async def scenario() -> None:
        lookup = Lookup((), quiet, quiet)
        lookup._keys = KEYS
        for number in range(MAX_EXPOSERS + 10):
            identity = PrivateKey.generate(bytes([number, 1] * 16))
            record = Record(
                peer_id=PeerId.from_public_key(identity.public),
                addresses=(HOME,),
                seq=1,
                expires=2**40,
            )
            blob = seal(record, KEYS, identity, b"n" * 12)
            for instance in range(5):
                lookup._heard(LanRecord(f"{number}/{instance}", (HOME,), blob, 120))
        assert len(lookup.candidates()) == MAX_EXPOSERS
        assert len(lookup._instances) == MAX_INSTANCES

    asyncio.run(scenario())


def test_news_end_a_wait() -> None:
    async def scenario() -> None:
        lookup = Lookup((), quiet, quiet)
        lookup._keys = KEYS
        waiting = asyncio.ensure_future(lookup.news.wait())
        await asyncio.sleep(0)
        lookup._heard(said(0, 1, keys=OTHER))
        await asyncio.sleep(0)
        assert not waiting.done()
        lookup._heard(said(0, 1))
        await waiting

    asyncio.run(scenario())


def test_given_addresses_of_one_peer_are_one_candidate() -> None:
    async def scenario() -> None:
        one, two, bare = (Multiaddr.tcp("192.0.2.1", port) for port in (1, 2, 3))
        given = (one.with_peer(A.raw), bare, two.with_peer(A.raw), two.with_peer(B.raw))
        lookup = Lookup(given, quiet, quiet, pins=frozenset({B}))
        found = [(c.peer_id, c.addresses, c.medium) for c in lookup.candidates()]
        assert found == [
            (B, (given[3],), "peer"),
            (A, (given[0], given[2]), "peer"),
            (None, (bare,), "peer"),
        ]

    asyncio.run(scenario())


@pytest.mark.parametrize("reached", [False, True])
def test_addresses_that_were_given_have_a_while_of_their_own(reached: bool) -> None:
    """A host that answers nothing must not hide the exposer that the DHT knows for long."""

    async def scenario() -> None:
        store = MemoryStore()
        lookup = Lookup((Multiaddr.tcp("192.0.2.1", 1),), quiet, quiet)
        lookup.search(KEYS, [store])
        await asyncio.sleep(GIVEN_ALONE - 0.1)
        assert not store.looked
        if reached:
            lookup.pause()
        await asyncio.sleep(1)
        assert bool(store.looked) == (not reached)
        await lookup.close()
        assert store.closed
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scenario())


def test_somebody_is_found_whose_record_is_new() -> None:
    """A value that was stored before its exposer said goodbye on the LAN leads to nobody."""

    async def scenario() -> None:
        lookup = Lookup((), quiet, quiet)
        lookup._keys = KEYS
        old, new = said(0, 1), said(0, 3)
        lookup._heard(said(0, 2, gone=True))
        assert not lookup._take(open_record(old.sealed, KEYS, None), "amino")
        assert lookup._take(open_record(new.sealed, KEYS, None), "amino")
        assert lookup._take(open_record(new.sealed, KEYS, None), "amino")
        assert not lookup._take(open_record(said(1, 1, addresses=()).sealed, KEYS, None), "amino")

    asyncio.run(scenario())


@pytest.mark.parametrize("after", [1.0, 60.0])
def test_a_lan_on_which_nobody_is_heard_is_told_of(
    monkeypatch: pytest.MonkeyPatch, after: float
) -> None:
    class Browser:
        def __init__(self, heard: object) -> None:
            pass

        async def start(self) -> None:
            pass

        close = start

    monkeypatch.setattr(lookup_module, "LanBrowser", Browser)

    async def scenario() -> None:
        told: list[tuple[str, bool, str]] = []
        lookup = Lookup((), quiet, lambda *state: told.append(state[:3]))
        assert await lookup.start_lan(KEYS) is None
        await asyncio.sleep(after)
        lookup._heard(said(0, 1))
        await asyncio.sleep(60)
        silent = [(LAN, False, SILENT)] * (after > LAN_SILENCE)
        assert told == [*silent, (LAN, True, "")]
        await lookup.close()

    run(scenario())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("/ip4/192.0.2.1/udp/1/quic", "cannot dial"),
        ("/ip4/192.0.2.1", "cannot dial"),
        (f"/ip4/192.0.2.1/tcp/1/p2p/{A}/p2p-circuit", "who to reach through the relay"),
    ],
)
def test_what_cannot_be_dialed_is_refused_at_once(text: str, why: str) -> None:
    async def scenario() -> None:
        with pytest.raises(UsageError, match=why):
            Lookup((Multiaddr.parse(text),), quiet, quiet)

    asyncio.run(scenario())
