"""Whom a binder dials: several media, honest or not, on a clock of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from pt.errors import IdentityChangedError, NetworkError
from pt.node.state import StateDir
from pt.rendezvous.epoch import EpochKeys, epochs_to_search
from pt.rendezvous.lan import LanRecord
from pt.rendezvous.mailbox import Signed, pack
from pt.rendezvous.record import seal
from pt.trace import NO_TRACE
from pt.tunnel import events, seeker
from pt.tunnel.config import BindConfig
from pt.tunnel.lookup import GIVEN_ALONE, Candidate, Lookup
from pt.tunnel.media.search import AGAIN_MOST, NOBODY
from pt.tunnel.network import Network
from pt.tunnel.pinning import Pinning
from pt.tunnel.seeker import LAN_WAIT, PATIENCE, STRANGERS_WAIT, Seeker
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run
from tests.unit.tunnel.media.memory import IDENTITIES, KEYS, PEERS, MemoryStore, signed

NAME = "a-name-of-the-tests"
A, B, C = PEERS[:3]
OLD, NEW, NEWER = (Multiaddr.tcp(f"11.0.0.{number}", 4001) for number in (1, 2, 3))


def said(who: int, seq: int, *addresses: Multiaddr, gone: bool = False) -> Signed:
    """A record of now."""
    return signed(who, seq, now=time.time(), addresses=addresses or (OLD,), gone=gone)


def plant(store: MemoryStore, *records: Signed, server: int | None = None, seq: int = 0) -> None:
    """Have the servers, or one of them, hold these in today's mailboxes."""
    now = time.time()
    for number in epochs_to_search(now):
        epoch = EpochKeys.derive(KEYS, number)
        sealed = pack(records, epoch, after=int(now) + seq, now=now, nonce=b"n" * 12)
        for held in store.servers if server is None else [store.servers[server]]:
            held[sealed.name] = sealed.value


class Rig:
    """A seeker, and what it told."""

    def __init__(self, home: Path, *stores: MemoryStore, **options: object) -> None:
        self.stores = stores
        self.told: list[events.Event] = []
        self.state = StateDir(home)
        chosen = {"name": NAME, "lan": False, "public": True} | options
        self.config = BindConfig(**chosen)  # type: ignore[arg-type]
        self.pinning = Pinning(self.config, self.state, self.told.append)
        network = Network(self.state, (), self.told.append, NO_TRACE)
        self.seeker = Seeker(self.config, self.state, self.told.append, self.pinning, network)
        self.began = asyncio.get_running_loop().time()

    async def start(self) -> None:
        await self.seeker.start(KEYS)

    def hear(self, record: Signed) -> None:
        """Somebody announces this on the LAN."""
        blob = seal(record.record, KEYS, IDENTITIES[PEERS.index(record.record.peer_id)], b"n" * 12)
        self.seeker._lookup._heard(LanRecord(str(record.record.peer_id), (), blob, 120))

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time() - self.began

    @property
    def chosen(self) -> list[tuple[object, Multiaddr]]:
        return [(one.peer_id, one.addresses[0]) for one in self.seeker.choose()]

    def searched(self) -> dict[str, tuple[bool, str]]:
        """How each medium does, by its last word."""
        return {
            event.medium: (event.ok, event.detail)
            for event in self.told
            if isinstance(event, events.Searched)
        }


@pytest.fixture
def seek(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs a scenario with a seeker on these stores; nothing of it may be left."""

    def go(
        scenario: Callable[[Rig], Coroutine[object, object, None]],
        make: Callable[[], list[MemoryStore]] = lambda: [MemoryStore()],
        **options: object,
    ) -> None:
        async def main() -> None:
            stores = make()
            for number, store in enumerate(stores):
                store.medium = f"store{number}"

            async def opened(*_: object, **__: object) -> list[MemoryStore]:
                return stores

            async def deaf(self: Lookup, keys: object) -> NetworkError | None:
                self._keys = keys  # type: ignore[assignment]
                return None

            monkeypatch.setattr(seeker, "open_stores", opened)
            monkeypatch.setattr(Lookup, "start_lan", deaf)
            rig = Rig(tmp_path, *stores, **options)
            async with asyncio.timeout(36_000):
                await rig.start()
                await scenario(rig)
            await rig.seeker.close()
            assert all(store.closed for store in stores)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        run(main())

    return go


# --- finding -------------------------------------------------------------------------------------


def test_one_medium_hangs_for_ever_and_another_finds(seek) -> None:
    def stores() -> list[MemoryStore]:
        hanging, working, dead = MemoryStore(), MemoryStore(), MemoryStore()
        hanging.reading_hangs = dead.dead = True
        plant(working, said(0, 1))
        return [hanging, working, dead]

    async def scenario(rig: Rig) -> None:
        await rig.seeker.wait()
        assert rig.now < 1
        assert rig.chosen == [(A, OLD)]
        await asyncio.sleep(120)
        assert rig.searched() == {
            "store0": (False, "no answer in time"),
            "store1": (True, "cheap"),
            "store2": (False, "no server answers"),
        }

    seek(scenario, stores)


def test_of_old_and_replayed_records_on_several_media_the_newest_counts(seek) -> None:
    def stores() -> list[MemoryStore]:
        behind, ahead = MemoryStore(), MemoryStore()
        for server, record in enumerate((said(0, 1, OLD), said(0, 2, NEW), said(0, 1, OLD))):
            plant(behind, record, server=server, seq=-server)
        plant(ahead, said(0, 3, NEWER), server=0)
        plant(ahead, said(0, 1, OLD), server=1, seq=5)
        return [behind, ahead]

    async def scenario(rig: Rig) -> None:
        await asyncio.sleep(1)
        assert rig.chosen == [(A, NEWER)]
        rig.hear(said(0, 2, NEW))  # replayed on the LAN
        assert rig.chosen == [(A, NEWER)]
        rig.seeker.news.clear()
        await asyncio.sleep(600)
        assert rig.chosen == [(A, NEWER)]
        told = [event.addresses[0] for event in rig.told if isinstance(event, events.Found)]
        assert told.count(NEWER) == 1
        assert told[-1] == NEWER

    seek(scenario, stores, lan=True)


def test_who_said_goodbye_is_not_brought_back_by_who_keeps_old_values(seek) -> None:
    def stores() -> list[MemoryStore]:
        store = MemoryStore()
        plant(store, said(0, 1))
        plant(store, said(0, 2, gone=True), server=1, seq=1)
        return [store]

    async def scenario(rig: Rig) -> None:
        await asyncio.sleep(600)
        assert rig.chosen == []
        assert not rig.searched()["store0"][0]
        plant(rig.stores[0], said(0, 3, NEW), seq=2)
        await rig.seeker.wait()
        assert rig.chosen == [(A, NEW)]

    seek(scenario, stores)


def test_an_exposer_whose_address_changes_every_minute(seek) -> None:
    async def scenario(rig: Rig) -> None:
        for minute in range(1, 60):
            here = Multiaddr.tcp(f"11.0.1.{minute}", 4001)
            plant(rig.stores[0], said(0, minute, here), seq=minute)
            await asyncio.sleep(60)
            assert rig.chosen == [(A, here)]

    seek(scenario)


def test_an_exposer_that_is_found_and_never_answers_costs_few_look_ups(seek) -> None:
    """However fast the attempts to reach it fail."""

    def stores() -> list[MemoryStore]:
        store = MemoryStore()
        plant(store, said(0, 1))
        return [store]

    async def scenario(rig: Rig) -> None:
        await rig.seeker.wait()
        while rig.now < 1800:
            rig.seeker.failed(rig.seeker.choose()[0])
            rig.seeker.resume()
            await asyncio.sleep(1)
        mailboxes = 2  # near midnight
        assert len(rig.stores[0].looked) <= mailboxes * (1800 / (AGAIN_MOST * 0.85) + 16)

    seek(scenario, stores)


def test_addresses_that_are_given_are_first_and_alone_for_a_while(seek) -> None:
    def stores() -> list[MemoryStore]:
        store = MemoryStore()
        plant(store, said(0, 1))
        return [store]

    async def scenario(rig: Rig) -> None:
        await rig.seeker.wait()
        assert rig.chosen == [(B, given)]
        await asyncio.sleep(GIVEN_ALONE - 0.5)
        assert not rig.stores[0].looked
        await asyncio.sleep(1)
        assert rig.chosen == [(B, given), (A, OLD)]

    given = NEW.with_peer(B.raw)
    seek(scenario, stores, peers=(given,))


# --- whom we know already ------------------------------------------------------------------------


def test_a_stranger_that_is_quicker_on_the_lan_is_no_alarm(seek) -> None:
    async def scenario(rig: Rig) -> None:
        rig.state.pin(NAME, A)
        rig.hear(said(1, 1))
        asyncio.get_running_loop().call_later(LAN_WAIT / 2, rig.hear, said(0, 1))
        await rig.seeker.wait()
        assert rig.now == pytest.approx(LAN_WAIT / 2, abs=0.1)
        assert rig.chosen == [(A, OLD)]

    seek(scenario, list, lan=True, public=False)


def test_only_strangers_are_an_alarm_once_all_media_were_asked(seek) -> None:
    async def scenario(rig: Rig) -> None:
        rig.state.pin(NAME, A)
        await asyncio.sleep(900)  # nobody
        rig.hear(said(1, 1))
        asked, before = len(rig.stores[0].looked), rig.now
        await rig.seeker.wait()
        assert rig.chosen == []
        assert LAN_WAIT <= rig.now - before < LAN_WAIT + 1
        assert len(rig.stores[0].looked) > asked
        told = str(rig.seeker.stranger())
        assert str(A) in told
        assert str(B) in told

    seek(scenario, lan=True)


def test_a_medium_that_hangs_holds_up_the_alarm_for_a_while_only(seek) -> None:
    def stores() -> list[MemoryStore]:
        hanging, working = MemoryStore(), MemoryStore()
        hanging.reading_hangs = True
        plant(working, said(1, 1))
        return [hanging, working]

    async def scenario(rig: Rig) -> None:
        rig.state.pin(NAME, A)
        await rig.seeker.wait()
        assert rig.now == pytest.approx(STRANGERS_WAIT, abs=1)
        assert rig.chosen == []

    seek(scenario, stores)


def test_the_one_that_we_know_is_found_beside_strangers(seek) -> None:
    """By the slowest medium; the strangers know the name, and fill the others."""

    def stores() -> list[MemoryStore]:
        quick, slow = MemoryStore(), MemoryStore(delay=9.0)
        plant(quick, *(said(who, 1) for who in (1, 2, 3, 4)))
        plant(slow, said(0, 1, NEW))
        return [quick, slow]

    async def scenario(rig: Rig) -> None:
        rig.state.pin(NAME, A)
        await rig.seeker.wait()
        assert rig.now == pytest.approx(9, abs=0.5)
        assert rig.chosen == [(A, NEW)]

    seek(scenario, stores)


def test_several_that_are_named_are_all_accepted_and_nobody_else(seek) -> None:
    def stores() -> list[MemoryStore]:
        store = MemoryStore()
        plant(store, *(said(who, 1) for who in range(4)))
        return [store]

    async def scenario(rig: Rig) -> None:
        await rig.seeker.wait()
        assert {peer for peer, _ in rig.chosen} == {A, C}

    seek(scenario, stores, pins=(A, C))


def test_a_pin_that_is_dropped_while_we_wait_lets_others_in(seek) -> None:
    async def scenario(rig: Rig) -> None:
        rig.state.pin(NAME, A)
        rig.hear(said(1, 1))
        assert rig.chosen == []
        rig.state.forget(NAME)
        assert rig.chosen == [(B, OLD)]

    seek(scenario, list, lan=True, public=False)


def test_whoever_has_our_connections_is_dialed_alone_and_without_a_record(seek) -> None:
    async def scenario(rig: Rig) -> None:
        rig.hear(said(1, 1))
        rig.seeker.last = Candidate(A, (NEW,), "lan")
        assert rig.chosen == [(A, NEW), (B, OLD)]
        rig.seeker.only = A
        assert rig.chosen == [(A, NEW)]

    seek(scenario, list, lan=True, public=False, any_exposer=True)


# --- telling -------------------------------------------------------------------------------------


def test_nobody_is_found_and_every_medium_says_why(seek) -> None:
    def stores() -> list[MemoryStore]:
        empty, dead = MemoryStore(), MemoryStore()
        dead.dead = True
        return [empty, dead]

    async def scenario(rig: Rig) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await rig.seeker.wait()
        told = str(rig.seeker.not_found())
        for word in (
            NAME,
            "within 5 s",
            f"store0: {NOBODY}",
            "store1: no server answers",
            "--peer",
        ):
            assert word in told
        assert rig.searched() == {"store0": (False, NOBODY), "store1": (False, "no server answers")}

    seek(scenario, stores, timeout=5.0)


def test_with_a_session_it_is_quiet(seek) -> None:
    async def scenario(rig: Rig) -> None:
        rig.seeker.reached(Candidate(B, (NEWER,), "lan"))
        told = len(rig.told)
        rig.hear(said(0, 1))
        await asyncio.sleep(600)
        assert rig.told[told:] == []
        assert rig.chosen == [(B, NEWER), (A, OLD)]

    seek(scenario, lan=True)


@pytest.mark.parametrize("alone", [False, True])
def test_a_lan_that_cannot_be_searched(
    seek, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, alone: bool
) -> None:
    """Only if there is nothing else it is the end."""

    async def broken(self: Lookup, keys: object) -> NetworkError:
        return NetworkError("no network interface to search on")

    async def main() -> None:
        store = MemoryStore()
        plant(store, said(0, 1))

        async def opened(*_: object, **__: object) -> list[MemoryStore]:
            return [] if alone else [store]

        monkeypatch.setattr(seeker, "open_stores", opened)
        monkeypatch.setattr(Lookup, "start_lan", broken)
        rig = Rig(tmp_path, lan=True, public=not alone)
        if alone:
            with pytest.raises(NetworkError, match="no network interface"):
                await rig.start()
        else:
            await rig.start()
            await rig.seeker.wait()
            assert rig.chosen == [(A, OLD)]
            assert rig.searched()["lan"] == (False, "no network interface to search on")
        await rig.seeker.close()

    run(main())


def test_the_one_that_we_know_is_there_by_its_record_alone(seek) -> None:
    """Its machine has a new key, and offers the name: told at once, and the end after a while."""

    async def scenario(rig: Rig) -> None:
        rig.state.pin(NAME, A)
        rig.hear(said(0, 1))
        failure = NetworkError("no answer")
        assert rig.seeker.choose()
        assert rig.seeker.judge(failure) is failure
        assert rig.seeker.aside == ""
        rig.hear(said(1, 1))
        while rig.now < PATIENCE:
            assert rig.chosen == [(A, OLD)]
            assert rig.seeker.judge(failure) is failure
            assert str(B) in rig.seeker.aside
            await asyncio.sleep(1)
        await asyncio.sleep(1)
        assert isinstance(rig.seeker.judge(failure), IdentityChangedError)

    seek(scenario, list, lan=True, public=False)


@pytest.mark.parametrize("how", ["the stranger goes", "it was reached"])
def test_patience_begins_anew(seek, how: str) -> None:
    async def scenario(rig: Rig) -> None:
        rig.state.pin(NAME, A)
        rig.hear(said(0, 1))
        failure = NetworkError("no answer")
        for _ in range(3):
            rig.hear(said(1, int(rig.now) + 1))
            assert rig.chosen
            assert rig.seeker.judge(failure) is failure
            await asyncio.sleep(PATIENCE - 1)
            if how == "it was reached":
                rig.seeker.reached(rig.seeker.choose()[0])
            else:
                rig.hear(said(1, int(rig.now) + 1, gone=True))
                assert rig.chosen
                assert rig.seeker.judge(failure) is failure
            await asyncio.sleep(2)

    seek(scenario, list, lan=True, public=False)
