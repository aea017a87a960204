"""The public DHT as a medium, with servers on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pt.aio.muxed import MuxedStream
from pt.errors import NetworkError, PtError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.kad.messages import Message, MessageType, Record
from pt.node.state import StateDir
from pt.rendezvous import ipns
from pt.rendezvous.epoch import EpochKeys, epoch_at
from pt.rendezvous.mailbox import Sealed, pack
from pt.trace import NO_TRACE
from pt.tunnel import events
from pt.tunnel.media.amino import HOLDERS, AminoStore
from pt.tunnel.network import Network
from tests.unit.node.dht_lab import DhtServer, nowhere, servers, stall
from tests.unit.tunnel.loopback import until
from tests.unit.tunnel.media.memory import KEYS, OTHER, signed

TODAY = EpochKeys.derive(KEYS, epoch_at(time.time()))


def box(seq: int = 0, *, expires: float = 3600, epoch: EpochKeys = TODAY) -> Sealed:
    """A mailbox of today that a server may hold."""
    now = time.time()
    record = signed(0, 1, now=now, expires=int(now + expires))
    return pack((record,), epoch, after=int(now) + seq, now=now, nonce=b"n" * 12)


def ids_at(many: list[DhtServer]) -> set[PeerId]:
    """Who is connected to the servers, but for themselves."""
    met = {each.peer_id for server in many for each in server.node.connections}
    return met - {server.node.peer_id for server in many}


@contextlib.asynccontextmanager
async def store(home: Path, *bootstrap: object) -> AsyncIterator[AminoStore]:
    where = [each.address if isinstance(each, DhtServer) else each for each in bootstrap]
    state = StateDir(home)
    said: list[events.Event] = []
    network = Network(state, (), said.append, NO_TRACE)
    made = AminoStore(state, where, network)  # type: ignore[arg-type]
    made.ends = lambda: [  # type: ignore[attr-defined]
        each for each in said if isinstance(each, events.Progress) and each.done
    ]
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def values(made: AminoStore, *, thorough: bool = False) -> list[bytes]:
    async with contextlib.aclosing(made.values(TODAY, thorough=thorough)) as found:
        return [value async for value in found]


def run(coro: object) -> None:
    async def main() -> None:
        async with asyncio.timeout(25):
            await coro  # type: ignore[misc]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_mailbox_is_stored_and_found_by_another(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            servers(12) as many,
            store(tmp_path / "a", many[0]) as writer,
            store(tmp_path / "b", many[1]) as reader,
        ):
            sealed = box()
            assert await writer.put(sealed) == "at 12 of 12 servers"
            assert await values(reader) == [sealed.value]
            for word in ("requests", "kB", "sockets at most"):
                assert word in reader.cost()
            # each may be looking for itself meanwhile, which is told together
            await until(lambda: reader.ends() and sum(each.stored for each in writer.ends()) == 12)
            looked = reader.ends()
            assert sum(each.asked for each in looked) >= 12
            assert not any(each.stored or each.cut for each in looked)
            assert sum(each.bytes for each in looked) > 12 * 1000
            assert looked[-1].sockets == 12

    run(main())


def test_its_servers_learn_nobodys_id(tmp_path: Path) -> None:
    """Neither the machine's, nor the exposer's: each start is somebody new."""

    async def main() -> None:
        state = StateDir(tmp_path)
        known = [state.identity(), state.identity("some-name")]
        ours = {PeerId.from_public_key(identity.public) for identity in known}
        async with servers(6) as many:
            seen: list[set[PeerId]] = []
            for _ in range(2):
                async with store(tmp_path, many[0]) as made:
                    await made.put(box(len(seen)))
                    seen.append(ids_at(many))
                await until(lambda: not ids_at(many))
            assert [len(each) for each in seen] == [1, 1]
            assert seen[0] != seen[1]
            assert ours.isdisjoint(seen[0] | seen[1])

    run(main())


def planted(*held: bytes):
    """Servers that return one of these each, whatever they are asked."""

    def serve_from(number: int):
        async def serve(stream: MuxedStream, request: Message) -> None:
            value = held[number % len(held)]
            record = Record(request.key, value) if request.type is MessageType.GET_VALUE else None
            await stream.write(Message(request.type, request.key, record).encode())

        return serve

    return serve_from


def test_only_what_the_days_key_has_signed_is_passed_on(tmp_path: Path) -> None:
    async def main() -> None:
        good, newer = box().value, box(5).value
        foreign = box(epoch=EpochKeys.derive(OTHER, TODAY.epoch)).value
        forged = ipns.create(
            PrivateKey.generate(b"s" * 32), b"\1" * 1024, seq=9, expires=2**31, ttl=60
        )
        held = (good, foreign, newer, b"", good[:-1], b"\xff" * 10_240, forged)
        serve = planted(*held)
        async with servers(7) as many:
            for number, server in enumerate(many):
                server.serve = serve(number)
            async with store(tmp_path, *many) as made:
                assert sorted(await values(made, thorough=True)) == sorted([good, newer])

    run(main())


def test_an_expired_value_is_no_reason_to_distrust_who_has_it(tmp_path: Path) -> None:
    """Our clock may be the wrong one; who opens the mailbox looks at the time."""

    async def main() -> None:
        old = ipns.create(TODAY.signer, b"\1" * 1024, seq=9, expires=int(time.time()) - 60, ttl=60)
        async with servers(1) as many:
            many[0].serve = planted(old)(0)
            async with store(tmp_path, *many) as made:
                assert await values(made) == [old]

    run(main())


@pytest.mark.parametrize("thorough", [False, True])
def test_how_many_servers_are_enough(tmp_path: Path, thorough: bool) -> None:
    async def main() -> None:
        held = [box(number).value for number in range(HOLDERS + 3)]
        serve = planted(*held)
        async with servers(len(held)) as many:
            for number, server in enumerate(many):
                server.serve = serve(number)
            async with store(tmp_path, *many) as made:
                found = await values(made, thorough=thorough)
            assert len(set(found)) == len(found) == (len(held) if thorough else HOLDERS)

    run(main())


def test_servers_that_take_nothing_are_told_of(tmp_path: Path) -> None:
    async def refuse(stream: MuxedStream, request: Message) -> None:
        if request.type is MessageType.PUT_VALUE:
            await stream.reset()
        else:
            await stream.write(Message(request.type, request.key).encode())

    async def main() -> None:
        async with servers(3, refuse) as many, store(tmp_path, *many) as made:
            with pytest.raises(NetworkError, match="none of 3 servers of the DHT took the record"):
                await made.put(box())

    run(main())


@pytest.mark.parametrize("call", ["put", "values"])
def test_nobody_answers_and_the_cause_is_told(tmp_path: Path, call: str) -> None:
    async def main() -> None:
        peer = PeerId.from_public_key(PrivateKey.generate(b"d" * 32).public)
        dead = [address.with_peer(peer.raw) for address in nowhere(1)]
        async with store(tmp_path, *dead) as made:
            for _ in range(2):  # the first time it may not have been found out yet
                with pytest.raises(NetworkError) as caught:
                    await (made.put(box()) if call == "put" else values(made))
                await until(lambda: made._amino.facts.state == "offline")
            assert "connections are refused" in str(caught.value)

    run(main())


@pytest.mark.parametrize("call", ["put", "values"])
def test_the_end_in_the_middle_of_a_call(tmp_path: Path, call: str) -> None:
    """Servers that answer nothing keep nobody from leaving."""

    async def main() -> None:
        async with servers(4, stall) as many:
            loop = asyncio.get_running_loop()
            async with store(tmp_path, *many) as made:
                work = loop.create_task(made.put(box()) if call == "put" else values(made))  # type: ignore[arg-type]
                await until(lambda: sum(server.asked for server in many) > 0)
                began = loop.time()
            assert loop.time() - began < 2
            work.cancel()
            with contextlib.suppress(PtError, asyncio.CancelledError):
                await work
            await until(lambda: not ids_at(many))

    run(main())


def test_a_start_that_is_followed_by_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with servers(2) as many, store(tmp_path, *many):
            pass

    run(main())
