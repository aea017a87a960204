"""The overlay over UDP on loopback: servers, clients, their ends and their state."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from pt.errors import DnsCause, DnsError, LimitError, LocalProtocolError, NetworkError
from pt.overlay.aio import MAX_ANSWERS, MAX_CALLS, OverlayClient, OverlayServer, UdpPort, resolve
from pt.overlay.messages import MAX_VALUE
from pt.overlay.storage import Storage
from pt.wire.multiaddr import Multiaddr
from tests.unit.overlay.records import key_of, record, signer, validate

HERE = ("127.0.0.1", 0)
ONE = signer(1)
KEY = key_of(ONE)
LATER = int(time.time()) + 3600


class Served(OverlayServer):
    """A server that can be waited for."""

    def __init__(self, *bootstrap, listen=HERE, **options) -> None:
        self._changed_company = asyncio.Event()
        self.told: list[int] = []
        port = UdpPort(listen)
        self.address = port.address
        storage = Storage(validate, max_value=MAX_VALUE)
        super().__init__(port, storage, bootstrap=bootstrap, on_company=self._company_is, **options)

    def _company_is(self, nodes: int) -> None:
        self.told.append(nodes)
        self._changed_company.set()

    async def company(self) -> None:
        async with asyncio.timeout(10):
            while not self.nodes:
                self._changed_company.clear()
                await self._changed_company.wait()


def run(coro) -> None:
    async def main() -> None:
        await coro
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


async def get(client: OverlayClient) -> list[bytes]:
    return [found.value async for found in client.get(KEY)]


@pytest.mark.parametrize("size", [500, MAX_VALUE])
def test_put_and_get_over_udp(size):
    async def main() -> None:
        value = record(ONE, expires=LATER, size=size)
        async with Served() as first, Served(first.address) as second:
            async with OverlayClient([first.address], validate) as client:
                stored = await client.put(KEY, value)
                assert stored.acknowledged == stored.asked >= 1
                assert len(first.storage) == 1
                assert first.counts["requests: store"] >= 1
            await second.company()
            async with OverlayClient([second.address], validate) as client:
                assert await get(client) == [value]
                assert client.known
                assert client.counts["datagrams in"] > 0

    run(main())


def test_the_best_comes_first():
    async def main() -> None:
        async with Served() as first, Served(first.address) as second:
            await first.company()
            await second.company()
            for server, seq in ((first, 1), (second, 2)):
                server.storage.put(KEY, record(ONE, seq, LATER), "a", time.time())
            async with OverlayClient([first.address, second.address], validate) as client:
                assert [one.facts.seq async for one in client.get(KEY)] == [2, 1]

    run(main())


def test_a_get_can_be_left_early_and_a_put_be_cancelled():
    async def main() -> None:
        async with Served() as server, OverlayClient([server.address], validate) as client:
            await client.put(KEY, record(ONE, expires=LATER))
            async with contextlib.aclosing(client.get(KEY)) as found:
                async for _ in found:
                    break
            with pytest.raises(TimeoutError):
                await client.put(KEY, record(ONE, 2, LATER), timeout=0)
            assert not client._calls

    run(main())


def test_puts_of_one_client_do_not_mix_and_one_that_was_cancelled_does_no_harm():
    async def main() -> None:
        signers = [signer(number) for number in range(1, 6)]
        async with Served() as server, OverlayClient([server.address], validate) as client:
            cut = asyncio.ensure_future(client.put(KEY, record(ONE, 1, LATER, size=MAX_VALUE)))
            while not server.counts.get("requests: store"):
                await asyncio.sleep(0)
            cut.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await cut
            values = [record(each, 2, LATER, size=MAX_VALUE) for each in signers]
            puts = (
                client.put(key_of(each), value) for each, value in zip(signers, values, strict=True)
            )
            stored = await asyncio.gather(*puts)
            assert [one.refusals for one in stored] == [()] * 5
            kept = [server.storage.get(key_of(each), time.time()) for each in signers]
            assert kept == values

    run(main())


def test_puts_of_one_key_take_turns():
    async def main() -> None:
        async with Served() as server, OverlayClient([server.address], validate) as client:
            values = [record(ONE, seq, LATER, size=MAX_VALUE - 9 * seq) for seq in range(1, 5)]
            stored = await asyncio.gather(*(client.put(KEY, value) for value in values))
            assert [one.refusals for one in stored] == [()] * 4
            assert server.storage.get(KEY, time.time()) == values[-1]
            assert "dropped: bad part" not in server.counts
            assert not client._putting

    run(main())


def test_close_ends_what_is_under_way():
    async def main() -> None:
        hole = UdpPort(HERE)
        client = OverlayClient([hole.address], validate)
        async with asyncio.TaskGroup() as group:
            putting = group.create_task(client.put(KEY, record(ONE)))
            getting = group.create_task(get(client))
            await asyncio.sleep(0)
            await client.close()
        assert putting.result().acknowledged == 0
        assert getting.result() == []
        with pytest.raises(LocalProtocolError):
            await client.put(KEY, b"x")
        hole.close()

    run(main())


def test_what_callers_are_told():
    async def main() -> None:
        async with OverlayClient([], validate) as client:
            with pytest.raises(NetworkError, match="--bootstrap"):
                await client.put(KEY, b"x")
            with pytest.raises(LocalProtocolError):
                await client.put(KEY, bytes(MAX_VALUE + 1))
        hole = UdpPort(HERE)
        async with OverlayClient([hole.address], validate) as client:
            tasks = [asyncio.create_task(get(client)) for _ in range(MAX_CALLS)]
            await asyncio.sleep(0)
            with pytest.raises(LimitError):
                await get(client)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert not client._calls
        hole.close()

    run(main())


def test_requests_to_a_client_are_not_answered():
    async def main() -> None:
        port = UdpPort(HERE)
        async with OverlayClient([HERE], validate, port=port) as client:
            async with OverlayClient([port.address], validate) as other:
                assert await get(other) == []
            assert client.counts["dropped: request to a client"] == 2
            assert "datagrams out" not in client.counts

    run(main())


def test_a_restarted_server_is_the_same_node_and_finds_its_company_again():
    async def main() -> None:
        async with Served() as other:
            async with Served(other.address) as server:
                await server.company()
                state = server.state
            assert state.nodes == (other.address,)
            async with Served(state=state) as server:
                await server.company()
                assert server.state == state

    run(main())


def test_company_is_told_when_it_begins():
    async def main() -> None:
        async with Served() as first, Served() as second:
            assert first.told == second.told == []
            second.join([first.address])
            await second.company()
            await first.company()
            assert first.told == second.told == [1]

    run(main())


def test_names_and_addresses_of_relays_are_resolved():
    async def main() -> None:
        given = [
            "/ip4/11.0.0.7/tcp/4001",
            "/dns4/localhost/tcp/4002/ws",
            "/dns6/localhost/udp/4003",
            "/ip4/11.0.0.7/udp/4001/quic-v1",
            "/dnsaddr/relay.example",
            "/dnsaddr/empty.example",
            "/dnsaddr/half.example",
            "/dnsaddr/dead.example",
        ]
        records = {
            "relay.example": ["/ip4/11.0.0.8/tcp/4001", "/dns4/localhost/tcp/443/wss"],
            "empty.example": [],
            "half.example": ["/ip4/11.0.0.9/tcp/4001", "/dns6/localhost/tcp/443/wss"],
        }
        asked = []

        class Names:
            async def expand(self, address: Multiaddr) -> list[Multiaddr]:
                if not address.is_dnsaddr:
                    return [address]
                name = str(address).removeprefix("/dnsaddr/")
                if name not in records:
                    raise DnsError("there is no such name", DnsCause.NO_NAME)
                return [Multiaddr.parse(text) for text in records[name]]

            async def addresses(self, kind: str, host: str) -> list[str]:
                asked.append((kind, host))
                if kind == "dns6":
                    raise DnsError("no IPv6 address", DnsCause.NO_RECORD)
                return [f"11.0.0.{n}" for n in range(99)]

        found, failures = await resolve(map(Multiaddr.parse, given), Names())
        many = [f"11.0.0.{n}" for n in range(MAX_ANSWERS)]
        assert found == [
            ("11.0.0.7", 4001),
            *((ip, 4002) for ip in many),
            ("11.0.0.8", 4001),
            *((ip, 443) for ip in many[:-1]),
            ("11.0.0.9", 4001),
        ]
        assert {str(address): str(failure) for address, failure in failures.items()} == {
            "/dns6/localhost/udp/4003": "no IPv6 address",
            "/dnsaddr/empty.example": "no relay can be asked over UDP there",
            "/dnsaddr/dead.example": "there is no such name",
        }
        assert len(asked) == 4

    run(main())
