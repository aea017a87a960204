"""The overlay over UDP on loopback: servers, clients, their ends and their state."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from pt.errors import LimitError, LocalPortError, LocalProtocolError, NetworkError
from pt.overlay.aio import MAX_CALLS, OverlayClient, OverlayServer, UdpPort
from pt.overlay.messages import MAX_VALUE
from pt.overlay.storage import Storage
from tests.unit.overlay.records import key_of, record, signer, validate

HERE = ("127.0.0.1", 0)
ONE = signer(1)
KEY = key_of(ONE)
LATER = int(time.time()) + 3600


def serve(bootstrap=(), **options) -> OverlayServer:
    return OverlayServer(HERE, bootstrap, Storage(validate, max_value=MAX_VALUE), **options)


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
        async with serve() as first, serve([first.address]) as second:
            async with OverlayClient([first.address], validate) as client:
                stored = await client.put(KEY, value)
                assert stored.acknowledged == stored.asked >= 1
                assert first.counters["records"] == 1
            async with OverlayClient([second.address], validate) as client:
                while not (found := await get(client)):
                    await asyncio.sleep(0)
                assert found == [value]
                assert client.known
                assert client.counts["datagrams in"] > 0

    run(main())


def test_the_best_comes_first():
    async def main() -> None:
        async with serve() as first, serve([first.address]) as second:
            while first.counters["nodes"] + second.counters["nodes"] < 2:
                await asyncio.sleep(0.01)
            for server, seq in ((first, 1), (second, 2)):
                server.storage.put(KEY, record(ONE, seq, LATER), "a", time.time())
            async with OverlayClient([first.address, second.address], validate) as client:
                assert [one.facts.seq async for one in client.get(KEY)] == [2, 1]

    run(main())


def test_a_get_can_be_left_early_and_a_put_be_cancelled():
    async def main() -> None:
        async with serve() as server, OverlayClient([server.address], validate) as client:
            await client.put(KEY, record(ONE, expires=LATER))
            async with contextlib.aclosing(client.get(KEY)) as found:
                async for _ in found:
                    break
            with pytest.raises(TimeoutError):
                await client.put(KEY, record(ONE, 2, LATER), timeout=0)
            assert not client._calls

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
        with pytest.raises(LocalPortError):
            UdpPort(hole.address)
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


def test_state_is_kept_and_damage_is_a_warning(tmp_path):
    file, warnings = tmp_path / "overlay.json", []

    async def main() -> None:
        async with serve() as other:
            async with serve([other.address], state_file=file) as server:
                while not server.counters["nodes"]:
                    await asyncio.sleep(0.01)
                first = server.id
            async with serve(state_file=file) as server:
                assert server.id == first
                while not server.counters["nodes"]:
                    await asyncio.sleep(0.01)
            file.write_bytes(b"\x80\x04\x95pickle")
            async with serve(state_file=file, on_warning=warnings.append) as server:
                assert server.id != first
        async with serve(state_file=tmp_path / "no" / "file", on_warning=warnings.append):
            pass

    run(main())
    assert "damaged" in warnings[0]
    assert "cannot be written" in warnings[1]
    assert len(warnings) == 2
