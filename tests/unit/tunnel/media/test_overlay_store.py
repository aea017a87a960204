"""Where the overlay is asked, with a real server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from pt.errors import DialOutcome, DnsCause, DnsError, NetworkError
from pt.node.resolve import Resolver
from pt.node.state import StateDir
from pt.overlay.aio import OverlayServer, UdpPort
from pt.overlay.messages import MAX_VALUE
from pt.overlay.storage import Storage
from pt.rendezvous.epoch import EpochKeys, epoch_at
from pt.rendezvous.mailbox import Sealed, pack
from pt.rendezvous.name import NameKeys
from pt.trace import NO_TRACE
from pt.tunnel import events
from pt.tunnel.media.overlay import OverlayStore
from pt.tunnel.media.stored import validate
from pt.tunnel.network import Network
from pt.wire.multiaddr import Multiaddr
from tests.sim import loop as sim
from tests.unit.tunnel.media.memory import KEYS, OTHER, signed

EPOCH = EpochKeys.derive(NameKeys.from_master(bytes(32)), 1)
PEER = "12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8"
DEAD = DnsError("the resolver is dead", DnsCause.TIMEOUT)


class Lab:
    """A store whose names are answered by `answer`, or wait until there is an answer."""

    def __init__(self, path: Path) -> None:
        self.said: list[events.Event] = []
        self.network = Network(StateDir(path), (), self.said.append, NO_TRACE)
        self.answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self.asked = 0
        self.network.resolver = Resolver(ask=self._ask, follow=self._follow)  # type: ignore[misc]
        self.server = OverlayServer(
            UdpPort(("127.0.0.1", 0)), Storage(validate, max_value=MAX_VALUE)
        )
        self.port = self.server._port.address[1]

    async def _ask(self, host: str, family: int) -> list[str]:
        self.asked += 1
        return await asyncio.shield(self.answer)

    async def _follow(self, address: Multiaddr, seconds: float) -> list[Multiaddr]:
        return [Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{self.port}/p2p/{PEER}")]

    def seed(self, text: str) -> Multiaddr:
        return Multiaddr.parse(text.format(port=self.port))

    async def look(self, *seeds: str) -> list[bytes]:
        store = OverlayStore([self.seed(text) for text in seeds], self.network)
        try:
            return [value async for value in store.values(EPOCH)]
        finally:
            await store.close()

    @property
    def answered(self) -> bool:
        now = asyncio.get_running_loop().time()
        return [each.outcome for each in self.network.dials.recent(now)] == [DialOutcome.ANSWERED]


@contextlib.asynccontextmanager
async def lab(path: Path) -> AsyncIterator[Lab]:
    made = Lab(path)
    try:
        async with asyncio.timeout(10):
            yield made
    finally:
        await made.server.close()
        await made.network.resolver.close()


PLAIN = "/ip4/127.0.0.1/udp/{port}"
NAMED = "/dns4/relay.test/tcp/{port}/p2p/" + PEER


def test_a_name_that_is_looked_up_delays_no_other_relay(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path) as it:
            assert await it.look(NAMED, PLAIN) == []
            assert it.asked == 1
            assert it.answered

    asyncio.run(main())


@pytest.mark.parametrize("seed", [NAMED, "/dns/relay.test/tcp/{port}/wss/p2p/" + PEER])
def test_a_name_alone_is_waited_for(tmp_path: Path, seed: str) -> None:
    async def main() -> None:
        async with lab(tmp_path) as it:
            looking = asyncio.ensure_future(it.look(seed))
            while not it.asked:
                await asyncio.sleep(0)
            assert not looking.done()
            it.answer.set_result(["127.0.0.1"])
            assert await looking == []
            assert it.answered

    asyncio.run(main())


def test_a_dnsaddr_leads_to_the_overlay(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path) as it:
            assert await it.look("/dnsaddr/relay.test/p2p/" + PEER) == []
            assert it.answered

    asyncio.run(main())


def test_a_dead_dns_is_said_and_tried_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path) as it:
            store = OverlayStore([it.seed(NAMED)], it.network)
            it.answer.set_exception(DEAD)
            with pytest.raises(NetworkError, match=r"/dns4/relay\.test.*the resolver is dead"):
                [value async for value in store.values(EPOCH)]
            (dial,) = it.network.dials.recent(asyncio.get_running_loop().time())
            assert dial.outcome is DialOutcome.NO_DNS
            it.answer = asyncio.get_running_loop().create_future()
            it.answer.set_result(["127.0.0.1"])
            assert [value async for value in store.values(EPOCH)] == []
            assert [value async for value in store.values(EPOCH)] == []
            assert it.asked == 2, "what is known is not asked again"
            await store.close()

    asyncio.run(main())


def test_a_relay_that_moved_is_found_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path) as it:
            store = OverlayStore([it.seed(NAMED)], it.network)
            it.answer.set_result(["127.0.0.9"])
            with pytest.raises(NetworkError, match="no relay answers on UDP"):
                [value async for value in store.values(EPOCH)]
            it.answer = asyncio.get_running_loop().create_future()
            it.answer.set_result(["127.0.0.1"])
            with contextlib.suppress(NetworkError):  # the name may be asked beside it
                [value async for value in store.values(EPOCH)]
            assert [value async for value in store.values(EPOCH)] == []
            await store.close()

    sim.run(main())


def test_closing_ends_a_look_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path) as it:
            store = OverlayStore([it.seed(NAMED)], it.network)
            looking = asyncio.ensure_future(anext(store.values(EPOCH)))
            while not it.asked:
                await asyncio.sleep(0)
            await store.close()
            with pytest.raises(asyncio.CancelledError):
                await looking

    asyncio.run(main())


# --- mailboxes -----------------------------------------------------------------------------------

TODAY = EpochKeys.derive(KEYS, epoch_at(time.time()))


def box(seq: int = 0, *, epoch: EpochKeys = TODAY, lives: float = 3600) -> Sealed:
    now = time.time()
    record = signed(0, 1, now=now, expires=int(now + lives))
    return pack((record,), epoch, after=int(now) + seq, now=now, nonce=b"n" * 12)


async def held(it: Lab, *, thorough: bool = False) -> list[bytes]:
    store = OverlayStore([it.seed(PLAIN)], it.network)
    async with contextlib.aclosing(store.values(TODAY, thorough=thorough)) as values:
        found = [value async for value in values]
    await store.close()
    return found


def run(coro: object) -> None:
    """On virtual time: what is silent costs a test nothing."""

    async def main() -> None:
        async with asyncio.timeout(60):
            await coro  # type: ignore[misc]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    sim.run(main())


def test_a_mailbox_is_stored_and_found_by_another(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path) as it:
            assert await held(it) == []
            store = OverlayStore([it.seed(PLAIN)], it.network)
            sealed = box()
            assert await store.put(sealed) == "at 1 of 1 relays"
            assert re.fullmatch(r"\d+ datagrams, \d+ kB", store.cost())
            ends = [each for each in it.said if isinstance(each, events.Progress)]
            assert [each.stored for each in ends] == [0, 1]
            assert all(each.done and each.sockets == 1 for each in ends)
            assert all(each.asked >= each.answered > 0 for each in ends)
            assert ends[1].bytes > len(sealed.value)
            assert await held(it) == await held(it, thorough=True) == [sealed.value]
            newer = box(seq=5)
            await store.put(newer)
            assert await held(it) == [newer.value]
            await store.close()

    run(main())


@pytest.mark.parametrize(
    ("sealed", "why"),
    [
        (lambda: box(seq=-5), "stale"),
        (lambda: replace(box(seq=9), value=box(seq=9).value[:-1]), "invalid"),
        # a squatter: signed by a key that is not this mailbox's
        (
            lambda: replace(box(seq=9, epoch=EpochKeys.derive(OTHER, 1)), name=TODAY.name),
            "invalid",
        ),
        (lambda: box(seq=9, lives=-86_400), r"expired \(is the clock wrong"),
    ],
)
def test_what_relays_refuse_is_told_with_their_reason(tmp_path: Path, sealed, why: str) -> None:
    async def main() -> None:
        async with lab(tmp_path) as it:
            store = OverlayStore([it.seed(PLAIN)], it.network)
            good = box()
            await store.put(good)
            with pytest.raises(NetworkError, match=f"1 relays refused the record: {why}"):
                await store.put(sealed())
            assert await held(it) == [good.value]
            await store.close()

    run(main())


def test_a_relay_that_makes_things_up_is_not_believed(tmp_path: Path) -> None:
    """It says that whatever it is asked for is what a squatter has signed."""

    async def main() -> None:
        async with lab(tmp_path) as it:
            foreign = box(epoch=EpochKeys.derive(OTHER, TODAY.epoch)).value
            it.server.storage.get = lambda key, now: foreign  # type: ignore[method-assign]
            assert await held(it) == []

    run(main())


def test_a_relay_that_is_silent_is_told_of_and_beside_another_no_hindrance(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path) as it:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
                silent.bind(("127.0.0.1", 0))
                dead = Multiaddr.parse(f"/ip4/127.0.0.1/udp/{silent.getsockname()[1]}")
                store = OverlayStore([dead], it.network)
                with pytest.raises(NetworkError, match="is UDP blocked, or --no-overlay set"):
                    await store.put(box())
                await store.close()
                store = OverlayStore([dead, it.seed(PLAIN)], it.network)
                sealed = box()
                assert (await store.put(sealed)).startswith("at 1 of ")
                found = [value async for value in store.values(TODAY)]
                assert found == [sealed.value]
                await store.close()

    run(main())


@pytest.mark.parametrize("call", ["put", "values"])
def test_the_end_in_the_middle_of_a_call(tmp_path: Path, call: str) -> None:
    async def main() -> None:
        async with lab(tmp_path) as it:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
                silent.bind(("127.0.0.1", 0))
                silent.setblocking(False)
                loop = asyncio.get_running_loop()
                dead = Multiaddr.parse(f"/ip4/127.0.0.1/udp/{silent.getsockname()[1]}")
                store = OverlayStore([dead], it.network)
                work = loop.create_task(
                    store.put(box()) if call == "put" else anext(store.values(TODAY))  # type: ignore[arg-type]
                )
                await loop.sock_recv(silent, 2000)
                await store.close()
                with pytest.raises(NetworkError):
                    await work

    run(main())
