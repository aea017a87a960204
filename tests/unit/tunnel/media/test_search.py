from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest

from pt.rendezvous import ipns
from pt.rendezvous.epoch import EPOCH, EpochKeys, epoch_at
from pt.rendezvous.mailbox import Sealed, Signed, pack
from pt.rendezvous.name import NameKeys
from pt.rendezvous.record import Record
from pt.tunnel.media.search import AGAIN_MOST, NOBODY, STOPPED, MailboxSearch
from tests.sim.loop import run
from tests.unit.tunnel.media.memory import KEYS, NOW, OTHER, PEERS, MemoryStore, signed

TODAY = epoch_at(NOW)


def packed(
    *records: Signed, keys: NameKeys = KEYS, number: int = TODAY, seq: int = 0, now: float = NOW
) -> Sealed:
    epoch = EpochKeys.derive(keys, number)
    return pack(records, epoch, after=seq, now=now, nonce=b"n" * 12)


class Rig:
    """A search on `store` whose clock is `skew` seconds ahead of the exposer's."""

    def __init__(self, store: MemoryStore, *, skew: float = 0.0) -> None:
        self.store = store
        self.records: list[Record] = []
        self.states: list[tuple[bool, str]] = []
        self.refused: set[object] = set()
        start = asyncio.get_running_loop().time()

        def wall() -> float:
            return NOW + skew + asyncio.get_running_loop().time() - start

        self.search = MailboxSearch(
            store,
            KEYS,
            self.take,
            lambda ok, detail, seconds: self.states.append((ok, detail)),
            wall=wall,
        )
        self.search.start()

    def take(self, record: Record, medium: str) -> bool:
        assert medium == self.store.medium
        self.records.append(record)
        return not record.gone and (record.peer_id, record.seq) not in self.refused

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(3600):
            while not condition():
                await asyncio.sleep(0.05)

    @property
    def found(self) -> set[object]:
        return {(record.peer_id, record.seq) for record in self.records}


def plant(store: MemoryStore, sealed: Sealed, *servers: int) -> None:
    for index in servers or range(len(store.servers)):
        store.servers[index][sealed.name] = sealed.value


def test_every_exposer_of_every_value_is_told() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        plant(store, packed(signed(0, 5), signed(1, 7)))
        plant(store, packed(signed(2, 3), seq=int(NOW) + 1), 2)
        rig = Rig(store)
        await rig.until(lambda: len(rig.found) == 3)
        assert rig.found == {(PEERS[0], 5), (PEERS[1], 7), (PEERS[2], 3)}
        assert rig.states == [(True, "cheap")]
        await rig.until(lambda: rig.search.rounds == 1)
        await rig.search.close()

    run(scenario())


def test_a_look_up_that_finds_nobody_is_repeated_ever_later() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        rig = Rig(store)
        await rig.until(lambda: len(store.looked) >= 10)
        assert rig.states == [(False, NOBODY)]
        gaps = [late - early for early, late in itertools.pairwise(store.looked)]
        assert gaps[0] < 3
        assert AGAIN_MOST / 2 < gaps[-1] < AGAIN_MOST + 3
        plant(store, packed(signed(0, 1)))
        rig.search.resume()
        rig.search.hurry()
        asked = len(store.looked)
        await rig.until(lambda: bool(rig.records))
        assert len(store.looked) <= asked + 1
        assert rig.states[-1] == (True, "cheap")
        await rig.search.close()

    run(scenario())


def test_it_rests_while_nobody_wants_it() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        rig = Rig(store)
        await rig.until(lambda: len(store.looked) == 1)
        rig.search.pause()
        await asyncio.sleep(600)
        assert len(store.looked) == 1
        for _ in range(100):  # however often somebody asks
            rig.search.resume()
            await asyncio.sleep(0.01)
        assert len(store.looked) <= 3
        await rig.search.close()

    run(scenario())


def test_a_dead_store_is_told_once() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        store.dead = True
        rig = Rig(store)
        await rig.until(lambda: len(store.looked) >= 4)
        assert rig.states == [(False, "no server answers")]
        await rig.search.close()

    run(scenario())


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
@pytest.mark.parametrize("of_day", [60.0, 43_200.0, 86_340.0])
def test_clocks_may_be_an_hour_apart_even_at_midnight(skew: float, of_day: float) -> None:
    async def scenario() -> None:
        exposer = TODAY * EPOCH + of_day
        store = MemoryStore()
        for number in (TODAY, TODAY + 1):
            plant(store, packed(signed(0, 1, now=exposer), number=number, now=exposer))
        rig = Rig(store, skew=exposer + skew - NOW)
        await rig.until(lambda: bool(rig.records))
        await rig.search.close()

    run(scenario())


def forged() -> bytes:
    """Signed by a squatter's key, not by the name's."""
    return packed(signed(0, 9), keys=OTHER).value


def moved() -> bytes:
    """The squatter's record in a value signed with the key of the day, but of another name."""
    sealed = packed(signed(0, 9))
    wrong = EpochKeys.derive(OTHER, TODAY)
    payload = ipns.validate(sealed.value, sealed.name, NOW).payload
    return ipns.create(wrong.signer, payload, seq=2**40, expires=int(NOW) + 600, ttl=60)


def unreadable() -> bytes:
    """Signed with the name's key by who knows it, and sealed for nobody."""
    epoch = EpochKeys.derive(KEYS, TODAY)
    return ipns.create(epoch.signer, b"\1" * 1024, seq=2**40, expires=int(NOW) + 600, ttl=60)


def expired() -> bytes:
    return packed(signed(0, 9, now=NOW - 86_400), now=NOW - 86_400).value


@pytest.mark.parametrize(
    "bad",
    [
        forged,
        moved,
        unreadable,
        expired,
        lambda: packed(signed(0, 9)).value[:-1],
        lambda: packed(signed(0, 9)).value + b"\0",
        lambda: b"",
        lambda: b"\xff" * 10_240,
        lambda: b"\xff" * 100_000,
    ],
)
def test_what_is_not_the_names_is_ignored_and_hides_nothing(bad: Callable[[], bytes]) -> None:
    async def scenario() -> None:
        store = MemoryStore()
        store.planted = [bad()]
        rig = Rig(store)
        await rig.until(lambda: bool(rig.states))
        assert rig.states == [(False, NOBODY)]
        assert rig.records == []
        plant(store, packed(signed(1, 4)))
        await rig.until(lambda: bool(rig.records))
        assert rig.found == {(PEERS[1], 4)}
        await rig.search.close()

    run(scenario())


def test_what_is_known_to_be_old_is_not_found() -> None:
    """A server returns what an exposer published before it stopped: nobody says that it lives."""

    async def scenario() -> None:
        store = MemoryStore()
        store.planted = [packed(signed(0, 5)).value]
        rig = Rig(store)
        rig.refused = {(PEERS[0], 5)}
        await rig.until(lambda: bool(rig.states))
        assert rig.states == [(False, NOBODY)]
        await rig.search.close()

    run(scenario())


def test_who_has_stopped_is_told_apart_from_nobody() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        plant(store, packed(signed(0, 5, gone=True, addresses=())))
        rig = Rig(store)
        await rig.until(lambda: bool(rig.states))
        assert rig.states == [(False, STOPPED)]
        assert rig.found == {(PEERS[0], 5)}
        await rig.search.close()

    run(scenario())


def test_whoever_is_found_is_soon_looked_for_again() -> None:
    """It may not answer, and have published where it is now."""

    async def scenario() -> None:
        store = MemoryStore()
        rig = Rig(store)
        await asyncio.sleep(600)
        plant(store, packed(signed(0, 5)))
        await rig.until(lambda: bool(rig.records))
        asked = len(store.looked)
        await asyncio.sleep(3)
        assert len(store.looked) > asked
        before = len(store.looked)
        await asyncio.sleep(3600)
        assert len(store.looked) - before < 3600 / (AGAIN_MOST * 0.85) + 8
        await rig.search.close()

    run(scenario())


def test_a_store_that_hangs_for_ever_is_told_of() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        store.reading_hangs = True
        rig = Rig(store)
        await rig.until(lambda: bool(rig.states))
        assert rig.states == [(False, "no answer in time")]
        await rig.search.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scenario())


def test_a_crowd_that_is_quick_to_return_an_old_value_is_asked_past() -> None:
    """When what the first servers had does not do, all of them are asked."""

    async def scenario() -> None:
        store = MemoryStore(servers=20)
        store.enough = 8
        plant(store, packed(signed(0, 5)))
        plant(store, packed(signed(0, 6), seq=int(NOW) + 1), *range(8, 20))
        rig = Rig(store)
        await rig.until(lambda: rig.search.rounds == 1)
        assert rig.found == {(PEERS[0], 5)}
        await rig.until(lambda: rig.search.rounds == 2)
        assert rig.found == {(PEERS[0], 5), (PEERS[0], 6)}
        await rig.search.close()

    run(scenario())
