"""Who is taken for the other end of an open tunnel."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from pt.errors import ConnectError, LimitedError
from pt.identity.keys import PrivateKey
from pt.node.node import Node
from pt.node.state import StateDir
from pt.relay.messages import Limit
from pt.tunnel import events
from pt.tunnel.binder import Binder
from pt.tunnel.config import BindConfig, Forward
from pt.tunnel.core.messages import PROTOCOL_V1
from pt.tunnel.open_binder import check_offered
from pt.wire.multiaddr import Multiaddr
from tests.unit.tunnel.loopback import loopback, until


def test_who_speaks_the_protocol_is_known_without_a_connection_to_its_service() -> None:
    async def main() -> None:
        async with loopback() as rig:
            served: list[object] = []
            rig.exposer.handle_raw(PROTOCOL_V1, lambda *what: served.append(what))
            connection = await rig.dial()
            await check_offered(connection)
            assert not connection.closed
            assert not served

    asyncio.run(main())


def test_who_does_not_is_left() -> None:
    async def main() -> None:
        async with loopback() as rig:
            connection = await rig.dial()
            with pytest.raises(ConnectError, match="--open"):
                await check_offered(connection)
            assert connection.closed

    asyncio.run(main())


def test_a_limited_connection_is_left() -> None:
    async def main() -> None:
        async with loopback() as rig:
            rig.exposer.handle_raw(PROTOCOL_V1, lambda *_: None)
            connection = await rig.dial()
            connection.route = replace(connection.route, limit=Limit(120, 1 << 17))
            with pytest.raises(LimitedError, match="pt relay"):
                await check_offered(connection)
            assert connection.closed

    asyncio.run(main())


def test_a_binder_passes_by_who_offers_no_tunnel(tmp_path: Path) -> None:
    async def main() -> None:
        stranger = Node(
            identity=PrivateKey.generate(os.urandom(32)), listen=(Multiaddr.tcp("127.0.0.1", 0),)
        )
        await stranger.start()
        async with loopback() as rig:
            rig.exposer.handle_raw(PROTOCOL_V1, lambda *_: None)
            peers = tuple(
                address.with_peer(node.peer_id.raw)
                for node in (stranger, rig.exposer)
                for address in node.addresses
            )
            config = BindConfig(
                name=None, open=True, peers=peers, lan=False, forwards=(Forward(local_port=0),)
            )
            seen: list[events.Event] = []
            binder = Binder(config, StateDir(tmp_path), seen.append)
            await binder.start()
            await binder.ready()
            connected = [event for event in seen if isinstance(event, events.Connected)]
            assert [event.peer_id for event in connected] == [rig.exposer.peer_id]
            await until(lambda: not stranger.connections)
            await binder.close()
        await stranger.close()

    asyncio.run(main())
