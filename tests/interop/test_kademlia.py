"""Servers of the library `kademlia` as it is, in one network with ours: on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import time
import warnings
from collections.abc import AsyncIterator

from kademlia.network import Server

from pt.overlay.aio import OverlayClient
from tests.unit.overlay.records import key_of, record, signer, validate
from tests.unit.overlay.test_aio import Served

HERE = "127.0.0.1"


@contextlib.asynccontextmanager
async def library(*bootstrap) -> AsyncIterator[Server]:
    server = Server()
    await server.listen(0, interface=HERE)
    try:
        if bootstrap:
            await server.bootstrap(list(bootstrap))
        yield server
    finally:
        server.stop()


def known(server: Server) -> set[tuple[str, int]]:
    nodes = [one for bucket in server.protocol.router.buckets for one in bucket.get_nodes()]
    return {(node.ip, node.port) for node in nodes}


def run(main) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the library's own
        asyncio.run(main())


def test_the_library_finds_our_servers_and_stores_nothing_in_them():
    async def main() -> None:
        async with Served() as first, Served(first.address) as second:
            await first.company()
            await second.company()
            async with library(first.address) as server:
                assert known(server) == {first.address, second.address}  # one found by the other
                (mine,) = [
                    node for node in await server.bootstrap([first.address])
                    if (node.ip, node.port) == first.address
                ]  # fmt: skip
                assert mine.id == first.state.id[:20]
                assert await server.get("name") is None
                for value in ("text", b"bytes", 5, -1.5, True):
                    await server.set("name", value)
                refused = [each.storage.refused["plain"] for each in (first, second)]
                assert sum(refused) >= 5
                for each in (first, second):
                    assert len(each.storage) == 0
                    assert each.counts["requests: plain"] > 0
                    assert each.nodes == 1  # the library's server is in no table
                    assert "dropped: malformed" not in each.counts

    run(main)


def test_both_work_on_side_by_side():
    async def main() -> None:
        one = signer(1)
        value = record(one, expires=int(time.time()) + 3600)
        async with (
            Served() as ours,
            library(ours.address) as theirs,
            library(ours.address) as other,
        ):
            where = theirs.transport.get_extra_info("sockname")
            async with OverlayClient([where, ours.address], validate) as client:
                stored = await client.put(key_of(one), value)
                assert (stored.acknowledged, stored.asked) == (1, 1)
                found = [each.value async for each in client.get(key_of(one))]
                assert found == [value]
            await other.bootstrap([where])
            await other.set("name", "text")
            assert await theirs.get("name") == "text"
            assert ours.address in known(theirs) & known(other)

    run(main)
