"""An exposer's record on its media: sealed ones, and an open tunnel's provider record."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from pt.autonat.reachability import publishable
from pt.errors import NetworkError, StateError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node.state import StateDir
from pt.rendezvous.epoch import EpochKeys, epoch_at, epochs_to_search
from pt.rendezvous.mailbox import open_mailbox
from pt.rendezvous.name import NameKeys
from pt.rendezvous.record import Record, open_record
from pt.tunnel import events, publication
from pt.tunnel.media.publisher import GOODBYE_TIMEOUT
from pt.tunnel.publication import ADDRESS_WAIT, EACH, REFRESH, Publication, most_useful
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run
from tests.unit.tunnel.media.memory import KEYS, NOW, MemoryStore

IDENTITY = PrivateKey.generate(b"\1" * 32)
PUBLIC, OTHER = (Multiaddr.tcp(f"11.0.0.{number}", 4001) for number in (1, 2))
PRIVATE = Multiaddr.tcp("192.168.1.2", 4001)


@dataclass
class FakeNode:
    addresses: tuple[Multiaddr, ...]
    peer_id: PeerId = field(default=PeerId.from_public_key(IDENTITY.public))
    unreachable: frozenset[Multiaddr] = frozenset()

    @property
    def published(self) -> tuple[Multiaddr, ...]:
        return publishable(self.addresses, self.unreachable)


class FakeAnnouncer:
    def __init__(self, addresses, tell) -> None:
        self.addresses, self.tell = addresses, tell
        self.published: tuple[Multiaddr, ...] = ()
        self.started_at = 0.0
        self.changes = 0
        self.closed = False

    def start(self) -> None:
        self.started_at = asyncio.get_running_loop().time()

    def changed(self) -> None:
        self.changes += 1

    async def close(self) -> None:
        self.closed = True


class FakeDht:
    medium = "amino"

    def __init__(self) -> None:
        self.made: list[FakeAnnouncer] = []
        self.closed = False

    def announcer(self, addresses, tell) -> FakeAnnouncer:
        self.made.append(FakeAnnouncer(addresses, tell))
        return self.made[-1]

    async def close(self) -> None:
        self.closed = True


@dataclass
class World:
    node: FakeNode
    dht: FakeDht
    publication: Publication
    seen: list[events.Event]
    pushed: list[object]

    @property
    def announcer(self) -> FakeAnnouncer:
        (made,) = self.dht.made
        return made


@contextlib.asynccontextmanager
async def published(
    tmp: Path, monkeypatch: pytest.MonkeyPatch, *addresses: Multiaddr
) -> AsyncIterator[World]:
    node, dht = FakeNode(addresses), FakeDht()
    seen: list[events.Event] = []
    pushed: list[object] = []
    monkeypatch.setattr(publication, "push_all", pushed.append)
    made = Publication(
        node,  # type: ignore[arg-type]
        NameKeys.from_master(b"m" * 32),
        IDENTITY,
        StateDir(tmp),
        ports=(22,),
        lan=False,
        stores=(),
        open_dht=dht,  # type: ignore[arg-type]
        emit=seen.append,
    )
    assert made.has_stores
    await made.start()
    try:
        yield World(node, dht, made, seen, pushed)
    finally:
        await made.close()


def test_it_is_announced_and_told(tmp_path: Path, monkeypatch) -> None:
    async def main() -> None:
        async with published(tmp_path, monkeypatch, PUBLIC) as ours:
            await asyncio.sleep(0.1)
            assert tuple(ours.announcer.addresses()) == (PUBLIC,)
            assert not ours.publication.settled
            ours.announcer.tell(False, "no network", 0.1)
            assert ours.publication.settled
            assert ours.publication.media == ()
            assert ours.publication.stored == frozenset()
            ours.announcer.published = (PUBLIC,)
            ours.announcer.tell(True, "at 20 servers", 0.5)
            assert ours.publication.media == ("amino",)
            assert ours.publication.stored == {PUBLIC}
            said = [(one.medium, one.ok, one.detail) for one in ours.seen]
            assert said == [("amino", False, "no network"), ("amino", True, "at 20 servers")]

    run(main())


def test_it_waits_a_moment_for_an_address_from_outside(tmp_path: Path, monkeypatch) -> None:
    async def main() -> None:
        began = asyncio.get_running_loop().time()
        async with published(tmp_path, monkeypatch, PRIVATE) as ours:
            await asyncio.sleep(ADDRESS_WAIT - 1)
            assert not ours.dht.made
            await asyncio.sleep(2)
            assert ours.announcer.started_at - began == pytest.approx(ADDRESS_WAIT, abs=0.1)

    run(main())


def test_a_change_is_passed_on_and_peers_are_told(tmp_path: Path, monkeypatch) -> None:
    async def main() -> None:
        async with published(tmp_path, monkeypatch, PUBLIC) as ours:
            ours.publication.changed()
            await asyncio.sleep(REFRESH + 1)
            assert ours.announcer.changes == 0
            assert not ours.pushed
            ours.node.addresses = (PUBLIC, OTHER)
            ours.publication.changed()
            await asyncio.sleep(0.1)
            assert ours.announcer.changes == 1
            assert ours.pushed == [ours.node]
            ours.node.addresses = (OTHER,)
            await asyncio.sleep(REFRESH + 1)
            assert ours.announcer.changes == 2

    run(main())


def test_it_ends(tmp_path: Path, monkeypatch) -> None:
    async def main() -> None:
        async with published(tmp_path, monkeypatch, PUBLIC) as ours:
            await asyncio.sleep(0.1)
            await ours.publication.withdraw()
            assert ours.announcer.closed
            assert not ours.dht.closed
        assert ours.dht.closed

    run(main())


# --- sealed records ------------------------------------------------------------------------------


class Clock:
    """The wall's, on the loop's time, until it is set."""

    def __init__(self) -> None:
        self.ahead = NOW - asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def time(self) -> float:
        return self.monotonic() + self.ahead


class FakeLan:
    """`faults`: what the next calls raise, None for nothing."""

    faults: ClassVar[list[BaseException | None]] = []
    made: ClassVar[list[FakeLan]] = []

    def __init__(self, instance: str, addresses: object, sealed: bytes, port: int) -> None:
        self.said = [sealed]
        self.closed_at: float | None = None
        self.made.append(self)

    async def start(self) -> None:
        self.fail()

    async def update(self, addresses: object, sealed: bytes) -> None:
        self.fail()
        self.said.append(sealed)

    async def close(self) -> None:
        self.closed_at = asyncio.get_running_loop().time()

    def fail(self) -> None:
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            raise fault

    @property
    def record(self) -> Record:
        return open_record(self.said[-1], KEYS, None)


@dataclass
class Rig:
    node: FakeNode
    publication: Publication
    stores: list[MemoryStore]
    seen: list[events.Event]
    clock: Clock
    began: float

    @property
    def told(self) -> list[tuple[str, bool, str]]:
        return [(e.medium, e.ok, e.detail) for e in self.seen if isinstance(e, events.Published)]

    @property
    def warnings(self) -> list[str]:
        return [event.message for event in self.seen if isinstance(event, events.Warned)]

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time() - self.began

    def move(self, *addresses: Multiaddr) -> None:
        self.node.addresses = addresses
        self.publication.changed()

    def held(self, store: MemoryStore) -> list[Record]:
        """What is in today's mailbox."""
        epoch = EpochKeys.derive(KEYS, epoch_at(self.clock.time()))
        value = store.servers[0].get(epoch.name)
        if value is None:
            return []
        box = open_mailbox(value, epoch, KEYS, self.clock.time())
        return [signed.record for signed in box.signed]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a scenario with a publication on these stores; nothing of it may be left."""

    def go(scenario, *stores: MemoryStore, lan: bool = False, addresses=(PUBLIC,)) -> None:
        async def main() -> None:
            clock = Clock()
            monkeypatch.setattr(publication, "time", clock)
            monkeypatch.setattr(publication, "LanPublisher", FakeLan)
            monkeypatch.setattr(publication, "push_all", lambda node: None)
            FakeLan.made.clear()
            FakeLan.faults.clear()
            node, seen = FakeNode(tuple(addresses)), []
            for number, store in enumerate(stores):
                store.medium = f"store{number}"
            made = Publication(
                node,
                KEYS,
                IDENTITY,
                StateDir(tmp_path),
                ports=(22,),
                lan=lan,
                stores=stores,
                emit=seen.append,
            )
            began = asyncio.get_running_loop().time()
            rig = Rig(node, made, list(stores), seen, clock, began)
            await scenario(rig)
            await made.close()
            assert all(store.closed for store in stores)
            assert all(lan.closed_at for lan in FakeLan.made)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        run(main())

    return go


def test_all_media_at_once_and_one_that_hangs_holds_up_none(publish) -> None:
    hanging, working, dead = MemoryStore(), MemoryStore(), MemoryStore()
    hanging.reading_hangs = dead.dead = True

    async def scenario(ours: Rig) -> None:
        await ours.publication.start()
        assert ours.told == [("lan", True, "")]
        await asyncio.sleep(1)
        assert ours.publication.media == ("lan", "store1")
        assert not ours.publication.settled
        assert ours.publication.stored == {PUBLIC}
        assert [record.addresses for record in ours.held(working)] == [(PUBLIC,)]
        assert FakeLan.made[0].record == ours.held(working)[0]

    publish(scenario, hanging, working, dead, lan=True)


@pytest.mark.parametrize("every", [1, 60])
def test_an_address_that_changes_all_the_time_is_published_everywhere(publish, every: int) -> None:
    store = MemoryStore()

    async def scenario(ours: Rig) -> None:
        await ours.publication.start()
        await asyncio.sleep(5)
        before = len(store.puts)
        for number in range(300 // every):
            ours.move(Multiaddr.tcp(f"11.1.{number // 250}.{number % 250 + 1}", 4001))
            await asyncio.sleep(every)
        assert len(store.puts) - before <= 2 * min(300 / every + 2, 300 / 16 + 10)
        await asyncio.sleep(60)
        assert [record.addresses for record in ours.held(store)] == [ours.node.addresses]
        assert FakeLan.made[-1].record.addresses == ours.node.addresses
        assert ours.publication.stored == set(ours.node.addresses)

    publish(scenario, store, lan=True)


@pytest.mark.parametrize("when", ["from the start", "later"])
def test_a_full_disk_does_not_keep_it_from_being_found(
    publish, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    store = MemoryStore()

    def full(self: StateDir, name: str, data: bytes) -> None:
        raise StateError(f"cannot write {self.path / name}: no space left on device")

    async def scenario(ours: Rig) -> None:
        if when == "later":
            await ours.publication.start()
            await asyncio.sleep(1)
        with monkeypatch.context() as patched:
            patched.setattr(StateDir, "_write", full)
            if when != "later":
                await ours.publication.start()
            ours.move(OTHER)
            await asyncio.sleep(60)
            ours.move(PUBLIC, OTHER)
            await asyncio.sleep(60)
        assert ours.held(store)[0].addresses == (PUBLIC, OTHER)
        assert FakeLan.made[0].record == ours.held(store)[0]
        assert len(ours.warnings) == 1
        assert "no space left" in ours.warnings[0]
        numbers = [open_record(each, KEYS, None).seq for each in FakeLan.made[0].said]
        assert numbers == sorted(set(numbers))
        await ours.publication.withdraw()
        assert [record.gone for record in ours.held(store)] == [True]
        assert ours.held(store)[0].seq > numbers[-1]

    publish(scenario, store, lan=True)


def test_a_clock_that_is_set_when_the_network_is_there(publish) -> None:
    """What a machine without one has published in 1970 is of no use to anybody."""
    store = MemoryStore()

    async def scenario(ours: Rig) -> None:
        right = ours.clock.ahead
        ours.clock.ahead = -ours.clock.monotonic() + 1000
        await ours.publication.start()
        await asyncio.sleep(10)
        assert len(ours.held(store)) == 1
        ours.clock.ahead = right
        assert not ours.held(store)
        await asyncio.sleep(REFRESH + 20)
        assert len(ours.held(store)) == 1
        assert ours.held(store)[0].expires > NOW
        writes = len(store.puts)
        await asyncio.sleep(3600)
        assert len(store.puts) == writes

    publish(scenario, store)


@pytest.mark.parametrize("wrong", [-3600.0, 3600.0])
def test_with_a_clock_an_hour_wrong_the_record_is_never_expired_for_others(
    publish, wrong: float
) -> None:
    store = MemoryStore()

    async def scenario(ours: Rig) -> None:
        ours.clock.ahead += wrong
        await ours.publication.start()
        for _ in range(16):
            await asyncio.sleep(1800)
            there = {
                signed.record.expires
                for number in epochs_to_search(ours.clock.time() - wrong)
                for epoch in [EpochKeys.derive(KEYS, number)]
                if epoch.name in store.servers[0]
                for signed in open_mailbox(
                    store.servers[0][epoch.name], epoch, KEYS, ours.clock.time() - wrong
                ).signed
            }
            assert there

    publish(scenario, store)


def test_a_lan_that_fails_is_told_once_and_works_again(publish) -> None:
    async def scenario(ours: Rig) -> None:
        FakeLan.faults[:] = [NetworkError("no interface")] * 3
        await ours.publication.start()
        assert ours.publication.settled
        await asyncio.sleep(2.5 * REFRESH)
        assert ours.told == [("lan", False, "no interface")]
        assert ours.publication.media == ()
        await asyncio.sleep(REFRESH)
        assert ours.told[1:] == [("lan", True, "")]
        FakeLan.faults[:] = [NetworkError("it is gone")] * 2
        ours.move(OTHER)
        await asyncio.sleep(1.5 * REFRESH)
        assert ours.told[2:] == [("lan", False, "it is gone")]
        assert FakeLan.made[-1].record.addresses == (PUBLIC,)
        await asyncio.sleep(REFRESH)
        assert ours.told[3:] == [("lan", True, "")]
        assert FakeLan.made[-1].record.addresses == (OTHER,)
        assert [lan.closed_at is None for lan in FakeLan.made] == [False] * 3 + [True]

    publish(scenario, lan=True)


def test_a_start_that_is_cancelled_leaves_nothing(publish) -> None:
    async def scenario(ours: Rig) -> None:
        FakeLan.faults[:] = [asyncio.CancelledError()]
        with pytest.raises(asyncio.CancelledError):
            await ours.publication.start()

    publish(scenario, MemoryStore(), lan=True)


def test_at_the_end_the_lan_does_not_wait_for_a_dht_that_is_dead(publish) -> None:
    working, dead = MemoryStore(), MemoryStore()

    async def scenario(ours: Rig) -> None:
        await ours.publication.start()
        await asyncio.sleep(2)
        dead.delay = 1e6
        began = asyncio.get_running_loop().time()
        await ours.publication.withdraw()
        assert asyncio.get_running_loop().time() - began <= GOODBYE_TIMEOUT + 0.1
        assert FakeLan.made[0].closed_at == pytest.approx(began, abs=0.1)
        assert [record.gone for record in ours.held(working)] == [True]
        assert working.puts[-1][0] - began < 1
        writes = len(working.puts)
        await ours.publication.withdraw()
        assert len(working.puts) == writes

    publish(scenario, working, dead, lan=True)


def test_an_end_that_is_cancelled_lets_go_of_the_media_all_the_same(publish) -> None:
    dead = MemoryStore()

    async def scenario(ours: Rig) -> None:
        await ours.publication.start()
        await asyncio.sleep(2)
        dead.delay = 1e6
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await ours.publication.close()
        assert dead.closed

    publish(scenario, dead)


def test_a_goodbye_outlives_who_waits_for_it(publish) -> None:
    store = MemoryStore()

    async def scenario(ours: Rig) -> None:
        await ours.publication.start()
        await asyncio.sleep(2)
        store.delay = 1.0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await ours.publication.withdraw()
        await ours.publication.close()
        assert [record.gone for record in ours.held(store)] == [True]

    publish(scenario, store)


def test_of_many_addresses_those_that_lead_here_from_elsewhere_are_published(publish) -> None:
    """A record has no room for the addresses of dozens of containers."""
    store = MemoryStore()
    relay = PeerId.from_public_key(PrivateKey.generate(b"\2" * 32).public)
    circuit = Multiaddr.parse(f"/ip4/11.0.0.9/tcp/4001/p2p/{relay}/p2p-circuit")
    inside = [Multiaddr.tcp(f"172.17.{number}.1", 4001) for number in range(40)]

    async def scenario(ours: Rig) -> None:
        await ours.publication.start()
        await asyncio.sleep(1)
        told = ours.held(store)[0].addresses
        assert {PUBLIC, circuit, inside[0]} <= set(told)
        assert FakeLan.made[0].record.addresses == told

    publish(scenario, store, lan=True, addresses=(*inside, PUBLIC, circuit))


def test_the_order_of_addresses() -> None:
    public = [Multiaddr.tcp(f"11.0.1.{number}", 1) for number in range(EACH + 2)]
    near = [Multiaddr.tcp(f"10.0.1.{number}", 1) for number in range(EACH + 2)]
    assert most_useful([*near, *public]) == (
        *public[:EACH], *near[:EACH], *near[EACH:], *public[EACH:],
    )  # fmt: skip
    assert most_useful([]) == ()


def test_what_cannot_be_dialed_from_outside_is_told_on_the_lan_alone(publish) -> None:
    store = MemoryStore()

    async def scenario(ours: Rig) -> None:
        await ours.publication.start()
        await asyncio.sleep(1)
        ours.node.unreachable = frozenset({OTHER})
        ours.publication.changed()
        await asyncio.sleep(REFRESH)
        (record,) = ours.held(store)
        assert record.addresses == (PUBLIC, PRIVATE)
        ours.move(PRIVATE, OTHER, PUBLIC, Multiaddr.tcp("192.168.1.3", 4001))
        await asyncio.sleep(REFRESH)
        assert OTHER in FakeLan.made[0].record.addresses
        assert OTHER not in ours.held(store)[0].addresses
        ours.node.unreachable = frozenset({PUBLIC, OTHER})  # there would be no way in
        ours.publication.changed()
        await asyncio.sleep(REFRESH)
        assert {PUBLIC, OTHER} <= set(ours.held(store)[0].addresses)

    publish(scenario, store, lan=True, addresses=(PRIVATE, OTHER, PUBLIC))
