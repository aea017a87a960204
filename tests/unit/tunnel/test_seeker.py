"""Whom a binder dials, and how many at once."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from pt.errors import ConnectError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node.state import StateDir
from pt.trace import NO_TRACE
from pt.tunnel import hunt
from pt.tunnel.config import BindConfig
from pt.tunnel.lookup import Candidate
from pt.tunnel.pinning import Pinning
from pt.tunnel.seeker import Seeker
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run

DEAD = 60
NUMBERS = range(1, DEAD + 2)
PEERS = [PeerId.from_public_key(PrivateKey.generate(bytes([n]) * 32).public) for n in NUMBERS]
LIVING = PEERS[-1]
SILENCE = 10.0
"""Seconds until a dial to somebody dead is given up."""


class Answer:
    """What stands for a connection."""

    def close(self, reason: str) -> None:
        del reason


@pytest.mark.parametrize("is_open", [True, False])
def test_of_an_open_tunnel_many_are_dialed_side_by_side(tmp_path: Path, is_open: bool) -> None:
    """Most of those who say to offer it are gone; of a name, few are and strangers are spared."""

    async def main() -> None:
        config = BindConfig(
            name="an.id",
            open=is_open,
            lan=False,
            peers=tuple(Multiaddr.tcp("11.0.0.1", 1).with_peer(peer.raw) for peer in PEERS),
        )
        state = StateDir(tmp_path)
        pinning = Pinning(config, state, lambda _: None)
        seeker = Seeker(config, state, lambda _: None, pinning)
        await seeker.start(None, NO_TRACE)
        busy = most = 0

        async def dial(who: Candidate) -> Answer:
            nonlocal busy, most
            busy += 1
            most = max(most, busy)
            try:
                if who.peer_id == LIVING:
                    return Answer()
                await asyncio.sleep(SILENCE)
            finally:
                busy -= 1
            raise ConnectError("silence")

        began = asyncio.get_running_loop().time()
        async with contextlib.aclosing(seeker.hunt(dial)) as results:  # type: ignore[arg-type]
            async for who, result in results:
                if isinstance(result, Answer):
                    assert who.peer_id == LIVING
                    break
        took = asyncio.get_running_loop().time() - began
        most_wanted = hunt.OPEN_AT_ONCE if is_open else hunt.AT_ONCE
        assert most == most_wanted
        assert took <= DEAD / most_wanted * SILENCE + 5
        assert busy == 0
        await seeker.close()

    run(main())
