"""The exposer's life: what once turned early binders away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pt.node.node import Node
from pt.node.state import StateDir
from pt.rendezvous.name import NameKeys
from pt.tunnel.config import ExposeConfig, Service
from pt.tunnel.core.messages import PROTOCOL, PROTOCOL_V1
from pt.tunnel.exposer import Exposer
from pt.wire.multiaddr import Multiaddr
from tests.unit.tunnel.loopback import listener


@pytest.mark.parametrize("is_open", [False, True])
def test_the_tunnel_is_offered_before_anybody_can_ask_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_open: bool
) -> None:
    """To a binder that dials a restarting exposer, "not offered" is a refusal."""
    real, offered = Node.start, []

    async def start(self: Node) -> None:
        offered.append(self.protocols)
        await real(self)

    monkeypatch.setattr(Node, "start", start)

    async def main() -> None:
        with listener() as service:
            state = StateDir(tmp_path)
            state.cache_keys("some-name", NameKeys.from_master(bytes(32)))
            config = ExposeConfig(
                name="some-name",
                services=(Service(port=service.getsockname()[1]),),
                open=is_open,
                listen=(Multiaddr.tcp("127.0.0.1", 0),),
                lan=False,
            )
            exposer = Exposer(config, state, lambda _: None)
            await exposer.start()
            await exposer.close()
        assert (PROTOCOL_V1 if is_open else PROTOCOL) in offered[0]

    asyncio.run(asyncio.wait_for(main(), 10))
