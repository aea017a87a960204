"""Where the overlay is asked, with a real server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pt.errors import DialOutcome, DnsCause, DnsError, NetworkError
from pt.node.resolve import Resolver
from pt.node.state import StateDir
from pt.overlay.aio import OverlayServer, UdpPort
from pt.overlay.messages import MAX_VALUE
from pt.overlay.storage import Storage
from pt.rendezvous.epoch import EpochKeys
from pt.rendezvous.name import NameKeys
from pt.trace import NO_TRACE
from pt.tunnel.media.overlay import OverlayStore
from pt.tunnel.media.stored import validate
from pt.tunnel.network import Network
from pt.wire.multiaddr import Multiaddr

EPOCH = EpochKeys.derive(NameKeys.from_master(bytes(32)), 1)
PEER = "12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8"
DEAD = DnsError("the resolver is dead", DnsCause.TIMEOUT)


class Lab:
    """A store whose names are answered by `answer`, or wait until there is an answer."""

    def __init__(self, path: Path) -> None:
        self.network = Network(StateDir(path), (), lambda _: None, NO_TRACE)
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

    asyncio.run(main())


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
