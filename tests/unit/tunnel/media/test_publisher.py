from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest

from pt.errors import StateError
from pt.rendezvous import ipns
from pt.rendezvous.epoch import EPOCH, EpochKeys, epoch_at
from pt.rendezvous.mailbox import RENEWAL, Sealed, Signed, open_mailbox, pack
from pt.tunnel.media.publisher import GAP_MOST, RETRY_MOST, MailboxPublisher
from tests.sim.loop import run
from tests.unit.tunnel.media.memory import KEYS, NOW, OTHER, PEERS, MemoryStore, signed

TODAY = epoch_at(NOW)


class Rig:
    """A publisher of exposer `who` on `store`, and what it said."""

    def __init__(self, store: MemoryStore, who: int = 0) -> None:
        self.store = store
        self.states: list[tuple[bool, str]] = []
        self.news = asyncio.Event()
        self.who, self.seq = who, 1
        self.start = asyncio.get_running_loop().time()
        self.publisher = MailboxPublisher(store, KEYS, self.make, self._told, wall=self.wall)
        self.publisher.start()

    def make(self) -> Signed:
        return signed(self.who, self.seq, now=self.wall())

    def wall(self) -> float:
        return NOW + asyncio.get_running_loop().time() - self.start

    def _told(self, ok: bool, detail: str, seconds: float) -> None:
        self.states.append((ok, detail))
        self.news.set()

    async def until(self, condition: Callable[[], bool], timeout: float = 3600) -> None:
        async with asyncio.timeout(timeout):
            while not condition():
                self.news.clear()
                await asyncio.wait([asyncio.ensure_future(self.news.wait())], timeout=0.05)

    def held(self, number: int = TODAY) -> list[Signed]:
        epoch = EpochKeys.derive(KEYS, number)
        values = {server.get(epoch.name) for server in self.store.servers} - {None}
        assert len(values) <= 1
        return [
            each
            for value in values
            if value is not None
            for each in open_mailbox(value, epoch, KEYS, self.wall()).signed
        ]


def test_a_record_is_published_for_today_and_tomorrow() -> None:
    async def scenario() -> None:
        rig = Rig(MemoryStore())
        await rig.until(lambda: len(rig.store.puts) == 2)
        assert rig.states == [(True, "at 3 of 3 servers; cheap")]
        mine = rig.publisher.published
        assert mine is not None
        assert [each.raw for each in rig.held()] == [mine.raw]
        assert [each.raw for each in rig.held(TODAY + 1)] == [mine.raw]
        await rig.publisher.withdraw(signed(0, 2, gone=True, addresses=()))

    run(scenario())


def test_published_is_not_said_of_what_cannot_be_found_again() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        store.withholding = True
        rig = Rig(store)
        await rig.until(lambda: bool(rig.states))
        assert not rig.states[0][0]
        assert "not found again" in rig.states[0][1]
        assert rig.publisher.published is None
        store.withholding = False
        await rig.until(lambda: rig.states[-1][0])
        await rig.publisher.withdraw(signed(0, 2, gone=True, addresses=()))

    run(scenario())


def test_failures_are_told_once_and_tried_again_ever_later() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        store.dead = True
        rig = Rig(store)
        await rig.until(lambda: len(store.looked) >= 12)
        gaps = [late - early for early, late in itertools.pairwise(store.looked)]
        assert gaps[0] < 2
        assert gaps[-1] > RETRY_MOST / 2
        assert all(gap < RETRY_MOST + 1 for gap in gaps)
        assert rig.states == [(False, "no server answers")]
        store.dead = False
        rig.publisher.changed()  # the network is back
        began = rig.wall()
        await rig.until(lambda: rig.states[-1][0])
        assert rig.wall() - began < GAP_MOST + 1
        await rig.publisher.withdraw(signed(0, 2, gone=True, addresses=()))

    run(scenario())


def test_several_exposers_write_at_once_and_all_stay() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        rigs = [Rig(store, who) for who in range(4)]
        for rig in rigs:
            await rig.until(lambda rig=rig: rig.publisher.published is not None)
        await asyncio.sleep(120)
        # whoever lost a race was found again only after it wrote anew
        found = {each.record.peer_id for each in rigs[0].held()}
        assert found == set(PEERS[:4])
        for who, rig in enumerate(rigs):
            await rig.publisher.withdraw(signed(who, 9, gone=True, addresses=()))

    run(scenario())


def test_a_goodbye_takes_the_place_of_the_record_in_both_mailboxes() -> None:
    async def scenario() -> None:
        rig = Rig(MemoryStore())
        await rig.until(lambda: len(rig.store.puts) == 2)
        await rig.publisher.withdraw(signed(0, 2, gone=True, addresses=()))
        for number in (TODAY, TODAY + 1):
            assert [(each.record.seq, each.record.gone) for each in rig.held(number)] == [(2, True)]
        written = len(rig.store.puts)
        await rig.publisher.withdraw(signed(0, 3, gone=True, addresses=()))
        assert len(rig.store.puts) == written

    run(scenario())


def test_who_published_nothing_says_no_goodbye_and_a_dead_store_does_not_hold_up_the_end() -> None:
    async def scenario() -> None:
        dead = MemoryStore()
        dead.dead = True
        rig = Rig(dead)
        await rig.until(lambda: bool(rig.states))
        await rig.publisher.withdraw(signed(0, 2, gone=True, addresses=()))
        assert dead.puts == []
        slow = MemoryStore()
        rig = Rig(slow)
        await rig.until(lambda: rig.publisher.published is not None)
        slow.delay = 1000
        began = rig.wall()
        await rig.publisher.withdraw(signed(0, 2, gone=True, addresses=()))
        assert rig.wall() - began < 10

    run(scenario())


def test_the_record_is_renewed_before_it_is_old_for_a_clock_an_hour_wrong() -> None:
    async def scenario() -> None:
        rig = Rig(MemoryStore())
        await rig.until(lambda: len(rig.store.puts) == 2)
        await asyncio.sleep(EPOCH)
        times = [at for at, _ in rig.store.puts]
        assert max(late - early for early, late in itertools.pairwise(times)) <= RENEWAL
        assert rig.held(TODAY + 2)  # the day has turned: the day after is there
        await rig.publisher.withdraw(signed(0, 2, gone=True, addresses=()))

    run(scenario())


@pytest.mark.parametrize(("every", "most"), [(1.0, 90), (60.0, 63)])
def test_an_address_that_changes_all_the_time_is_published_at_a_bounded_rate(
    every: float, most: int
) -> None:
    async def scenario() -> None:
        rig = Rig(MemoryStore())
        await rig.until(lambda: len(rig.store.puts) == 2)
        before = len(rig.store.puts)
        for seq in range(2, int(1800 / every) + 2):
            rig.seq = seq
            rig.publisher.changed()
            await asyncio.sleep(every)
        writes = (len(rig.store.puts) - before) / 2
        assert 1800 / 60 - 1 <= writes <= 1800 / GAP_MOST + 10 <= most * 2
        await asyncio.sleep(2 * GAP_MOST)
        assert rig.held()[0].record.seq == rig.seq  # the last one is there
        await rig.publisher.withdraw(signed(0, 10**6, gone=True, addresses=()))

    run(scenario())


def test_tomorrow_is_tried_again_without_a_word_about_today() -> None:
    """Once the record is found, it is; what fails is not told, and what stands not written anew."""

    async def scenario() -> None:
        store = MemoryStore()
        store.full = {TODAY + 1}
        rig = Rig(store)
        await rig.until(lambda: rig.publisher.published is not None)
        await asyncio.sleep(600)
        assert rig.states == [(True, "at 3 of 3 servers; cheap")]
        assert [sealed.name for _, sealed in store.puts] == [EpochKeys.derive(KEYS, TODAY).name]
        store.full = set()
        await rig.until(lambda: bool(rig.held(TODAY + 1)), timeout=RETRY_MOST + 5)
        await rig.publisher.withdraw(signed(0, 2, gone=True, addresses=()))

    run(scenario())


def test_who_is_not_seen_for_once_stays_in_the_mailbox() -> None:
    """A look-up that is cut short must not throw others out for hours."""

    async def scenario() -> None:
        store = MemoryStore()
        other = Rig(store, 1)
        await other.until(lambda: len(store.puts) == 2)
        rig = Rig(store)
        await rig.until(lambda: rig.publisher.published is not None)
        store.servers = [{} for _ in store.servers]
        rig.seq = 2
        rig.publisher.changed()
        await rig.until(lambda: any(each.record.seq == 2 for each in rig.held()))
        assert {each.record.peer_id for each in rig.held()} == set(PEERS[:2])
        for each in (rig, other):
            await each.publisher.withdraw(signed(each.who, 9, gone=True, addresses=()))

    run(scenario())


@pytest.mark.parametrize("fault", ["reading_hangs", "reading_fails"])
def test_a_goodbye_is_put_although_nothing_can_be_read(fault: str) -> None:
    async def scenario() -> None:
        store = MemoryStore()
        other = Rig(store, 1)
        await other.until(lambda: len(store.puts) == 2)
        rig = Rig(store)
        await rig.until(lambda: len(store.puts) == 4)
        setattr(store, fault, True)
        began = rig.wall()
        await rig.publisher.withdraw(signed(0, 2, gone=True, addresses=()))
        assert rig.wall() - began < 2.5
        for number in (TODAY, TODAY + 1):
            gone = {each.record.peer_id: each.record.gone for each in rig.held(number)}
            assert gone == {PEERS[0]: True, PEERS[1]: False}
        await other.publisher.withdraw(signed(1, 2, gone=True, addresses=()))

    run(scenario())


def test_a_crowd_that_withholds_costs_a_bounded_number_of_look_ups() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        store.withholding = True
        rig = Rig(store)
        await asyncio.sleep(600)
        assert [ok for ok, _ in rig.states] == [False]
        store.looked.clear()
        await asyncio.sleep(3600)
        assert len(store.looked) <= 4 * (3600 / (RETRY_MOST * 0.8))
        await rig.publisher.withdraw(signed(0, 2, gone=True, addresses=()))

    run(scenario())


def test_somebody_who_replaces_the_mailbox_all_the_time_is_told_of() -> None:
    async def scenario() -> None:
        store = MemoryStore()

        def replace(sealed: Sealed) -> None:
            epoch = EpochKeys.derive(KEYS, TODAY)
            sealed = pack((signed(4, 1),), epoch, after=sealed.seq, now=NOW, nonce=b"n" * 12)
            for server in store.servers:
                server[sealed.name] = sealed.value

        store.on_put = replace
        rig = Rig(store)
        await rig.until(lambda: bool(rig.states))
        assert not rig.states[0][0]
        assert "somebody who knows the name replaces it" in rig.states[0][1]
        await rig.publisher.withdraw(signed(0, 2, gone=True, addresses=()))

    run(scenario())


def test_a_locked_mailbox_is_told_of() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        epoch = EpochKeys.derive(KEYS, TODAY)
        locked = pack((signed(4, 1),), epoch, after=ipns.MAX_SEQ - 1, now=NOW, nonce=b"n" * 12)
        store.planted = [locked.value]
        rig = Rig(store)
        await rig.until(lambda: bool(rig.states))
        assert not rig.states[0][0]
        assert "locked its mailbox until the day ends" in rig.states[0][1]
        assert store.puts == []
        await rig.publisher.withdraw(signed(0, 2, gone=True, addresses=()))

    run(scenario())


def test_a_squatter_who_does_not_know_the_name_is_neither_kept_nor_obeyed() -> None:
    """Values of other names, and unreadable ones, are not merged; theirs do not raise ours."""

    async def scenario() -> None:
        store = MemoryStore()
        foreign = EpochKeys.derive(OTHER, TODAY)
        box = pack((signed(4, 1),), foreign, after=ipns.MAX_SEQ - 1, now=NOW, nonce=b"n" * 12)
        store.planted = [box.value, b"", b"\xff" * 10_240]
        rig = Rig(store)
        await rig.until(lambda: rig.publisher.published is not None)
        assert [each.record.peer_id for each in rig.held()] == [PEERS[0]]
        assert store.puts[0][1].seq < NOW + 10
        await rig.publisher.withdraw(signed(0, 2, gone=True, addresses=()))

    run(scenario())


def test_a_record_that_cannot_be_made_is_told_and_tried_again() -> None:
    """A full disk, say."""

    async def scenario() -> None:
        store = MemoryStore()
        rig = Rig(store)
        make, full = rig.make, [True]

        def failing() -> Signed:
            if full[0]:
                raise StateError("cannot write seq: no space left")
            return make()

        rig.publisher._make = failing
        await rig.until(lambda: bool(rig.states))
        assert rig.states == [(False, "cannot write seq: no space left")]
        full.clear()
        full.append(False)
        await rig.until(lambda: rig.states[-1][0], timeout=5)
        await rig.publisher.withdraw(signed(0, 2, gone=True, addresses=()))

    run(scenario())


def test_the_end_in_the_middle_of_a_writing_says_goodbye_to_what_may_have_arrived() -> None:
    async def scenario() -> None:
        store = MemoryStore(delay=1.0)
        rig = Rig(store)
        await asyncio.sleep(1.5)  # the put is on its way
        await rig.publisher.withdraw(signed(0, 2, gone=True, addresses=()))
        assert [each.record.gone for each in rig.held()] == [True]
        assert len(asyncio.all_tasks()) == 1

    run(scenario())
