"""The binder's search: what once left it waiting for ever, or ended it for nothing."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from pt.errors import PtError, RefusedError
from pt.node.connection import Connection
from pt.node.node import Node
from pt.node.state import StateDir
from pt.rendezvous.name import NameKeys
from pt.tunnel import authenticate, events
from pt.tunnel.binder import Binder
from pt.tunnel.config import BindConfig, Forward
from pt.tunnel.core.messages import PROTOCOL_V1
from tests.unit.tunnel.loopback import Loopback, loopback, tcp_pair, until


def binder_of(rig: Loopback, home: Path, *, is_open: bool) -> tuple[Binder, list[events.Event]]:
    seen: list[events.Event] = []
    peers = tuple(a.with_peer(rig.exposer.peer_id.raw) for a in rig.exposer.addresses)
    config = BindConfig(
        name=None if is_open else "a-name-of-the-tests",
        open=is_open,
        peers=peers,
        lan=False,
        forwards=(Forward(local_port=0),),
    )
    return Binder(config, StateDir(home), seen.append), seen


def test_a_connection_that_ends_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Node.connect
    count = 0

    async def connect(self: Node, *args: object, **options: object) -> Connection:
        nonlocal count
        connection = await real(self, *args, **options)  # type: ignore[arg-type]
        count += 1
        if count == 1:
            connection.close("the peer was quick to go")
        return connection

    monkeypatch.setattr(Node, "connect", connect)

    async def main() -> None:
        async with loopback() as rig:
            rig.exposer.handle_raw(PROTOCOL_V1, lambda *_: None)
            binder, _ = binder_of(rig, tmp_path, is_open=True)
            await binder.start()
            await until(lambda: count == 2)
            await binder.ready()
            await binder.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_more_connections_at_once_than_the_muxer_takes_unacknowledged(tmp_path: Path) -> None:
    async def main() -> None:
        async with loopback() as rig:
            taken = []

            def accept(connection: Connection, stream: object, reply: bytes, _: bytes) -> None:
                taken.append(stream)
                connection.link.send_small(stream, reply)  # type: ignore[arg-type]

            rig.exposer.handle_raw(PROTOCOL_V1, accept)  # type: ignore[arg-type]
            binder, _ = binder_of(rig, tmp_path, is_open=True)
            await binder.start()
            await binder.ready()
            clients: list[socket.socket] = []
            for _ in range(300):
                ours, theirs = tcp_pair()
                clients.append(ours)
                binder._forward(theirs, 0)
            binder._flush()
            await until(lambda: len(taken) == 300)
            for sock in clients:
                with pytest.raises(BlockingIOError):
                    sock.recv(1)
            await binder.close()
            for sock in clients:
                sock.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_busy_exposer_is_asked_again() -> None:
    """Only what a new attempt cannot change is a refusal."""

    async def main() -> None:
        async with loopback() as rig:
            connection = await rig.dial()
            results = await asyncio.gather(
                *(authenticate.ask_session(connection, b"x" * 32) for _ in range(40)),
                return_exceptions=True,
            )
            busy = [r for r in results if "no more attempts" in str(r)]
            assert busy
            assert all(isinstance(r, PtError) and not isinstance(r, RefusedError) for r in busy)

    asyncio.run(main())


def test_a_binder_that_was_up_outlives_refusals(tmp_path: Path) -> None:
    """An exposer that is starting again does not offer its protocols yet."""

    async def main() -> None:
        async with loopback() as rig:
            binder, seen = binder_of(rig, tmp_path, is_open=False)
            state = StateDir(tmp_path)
            keys = NameKeys.from_master(bytes(32))
            state.cache_keys(binder.config.name, keys)
            rig.gate._psk = keys.membership
            await binder.start()
            await binder.ready()
            rig.exposer.raw_handlers.clear()
            rig.exposer.raw_by_protocol.clear()
            binder.drop_connection()
            await until(lambda: any(isinstance(event, events.Retrying) for event in seen))
            assert binder._runner is not None
            assert not binder._runner.done()
            rig.exposer.handle_raw("/peertunnel/2.0.0", rig.gate.accept)
            await until(lambda: sum(isinstance(event, events.Connected) for event in seen) == 2)
            await binder.close()

    asyncio.run(asyncio.wait_for(main(), 10))
