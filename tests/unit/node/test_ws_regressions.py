"""WebSocket addresses with names: every address of the name is tried, and of its family only."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from pt.node.circuits import Circuits
from pt.node.resolve import Resolver
from pt.node.state import StateDir
from pt.relayd.config import RelayConfig
from pt.relayd.server import RelayServer
from pt.wire.multiaddr import Multiaddr
from tests.unit.node.relays_lab import node


@pytest.mark.parametrize("kind", ["dns", "dns4"])
def test_a_name_whose_first_address_is_dead(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        listen = Multiaddr.parse("/ip4/127.0.0.1/tcp/0/ws")
        relay = RelayServer(RelayConfig(listen=(listen,)), StateDir(tmp_path), lambda _: None)
        await relay.start()
        port = relay.addresses[0].tcp_port
        asked = []

        async def ask(host: str, family: int) -> list[str]:
            asked.append((host, family))
            return ["127.0.0.9", "127.0.0.1"]

        dialer = node(resolver=Resolver(ask=ask))
        circuits = Circuits(dialer)
        await dialer.start()
        address = Multiaddr.parse(f"/{kind}/relay.test/tcp/{port}/ws")
        connection = await dialer.connect(address.with_peer(relay.peer_id.raw))
        assert connection.path == "direct/ws"
        assert asked == [("relay.test", socket.AF_INET if kind == "dns4" else 0)]
        await dialer.close()
        await circuits.close()
        await relay.close()

    asyncio.run(asyncio.wait_for(main(), 15))
