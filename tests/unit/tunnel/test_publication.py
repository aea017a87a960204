"""An exposer's record on its media: what an open tunnel's provider record has of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node.state import StateDir
from pt.rendezvous.name import NameKeys
from pt.tunnel import events, publication
from pt.tunnel.publication import ADDRESS_WAIT, REFRESH, Publication
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run

IDENTITY = PrivateKey.generate(b"\1" * 32)
PUBLIC, OTHER = (Multiaddr.tcp(f"11.0.0.{number}", 4001) for number in (1, 2))
PRIVATE = Multiaddr.tcp("192.168.1.2", 4001)


@dataclass
class FakeNode:
    addresses: tuple[Multiaddr, ...]
    peer_id: PeerId = field(default=PeerId.from_public_key(IDENTITY.public))


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
