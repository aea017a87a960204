"""A dial that is given up at the moment at which it succeeds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from pt.identity.peer_id import PeerId
from pt.node.connection import Connection
from pt.wire.multiaddr import Multiaddr
from tests.unit.node.relays_lab import full, node


@pytest.mark.parametrize("given_up", [True, False])
def test_cancelling_while_the_losers_end(given_up: bool) -> None:
    """The cancellation was taken for a loser's: who had given up went on, and was waited for."""

    async def main() -> None:
        here, there = node(), node()
        await there.start()
        ending, go_on = asyncio.Event(), asyncio.Event()
        won: list[Connection] = []

        async def dial(
            address: Multiaddr, expected: PeerId | None, security: Sequence[str]
        ) -> Connection:
            if address.tcp_port == 1:
                try:
                    await asyncio.Event().wait()
                finally:
                    ending.set()
                    await go_on.wait()
            won.append(await here.connect(full(there)))
            return won[0]

        here.dialers["ws"] = dial
        ways = [Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}/ws") for port in (1, 2)]
        task = asyncio.create_task(here.connect(ways, expected=there.peer_id))
        await ending.wait()
        if given_up:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(asyncio.shield(task), 1)
            assert won[0].closed
        go_on.set()
        if not given_up:
            assert await task is won[0]
            assert not won[0].closed
        await here.close()
        await there.close()

    asyncio.run(asyncio.wait_for(main(), 10))
