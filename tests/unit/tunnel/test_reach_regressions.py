"""The binder's search: what once left it waiting for ever, or ended it for nothing."""

from __future__ import annotations

import asyncio
import socket
import time
from itertools import pairwise
from pathlib import Path

import pytest

from pt.errors import PtError, RefusedError
from pt.identity.keys import PrivateKey
from pt.muxer import Stream
from pt.node.connection import Connection
from pt.node.node import Node
from pt.node.state import StateDir
from pt.rendezvous.name import NameKeys
from pt.tunnel import authenticate, events, reach
from pt.tunnel.answer import PATIENCE
from pt.tunnel.binder import Binder
from pt.tunnel.config import BindConfig, Forward
from pt.tunnel.core.messages import PROTOCOL, PROTOCOL_V1
from pt.wire.multiaddr import Multiaddr
from tests.unit.tunnel.loopback import Loopback, listener, loopback, tcp_pair, until


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


NAME = "a-name-of-the-tests"


def binder_to(
    home: Path, *peers: Multiaddr, **options: object
) -> tuple[Binder, list[events.Event]]:
    """One that knows the rig's name, and these addresses."""
    seen: list[events.Event] = []
    state = StateDir(home)
    state.cache_keys(NAME, NameKeys.from_master(bytes(32)))
    config = BindConfig(
        name=NAME,
        peers=peers,
        lan=False,
        public=False,
        forwards=(Forward(local_port=0),),
        **options,  # type: ignore[arg-type]
    )
    return Binder(config, state, seen.append), seen


def open_to(rig: Loopback) -> Multiaddr:
    """Let the binders of this name in; where they find it."""
    rig.gate._psk = NameKeys.from_master(bytes(32)).membership
    return rig.exposer.addresses[0].with_peer(rig.exposer.peer_id.raw)


def dead_address() -> Multiaddr:
    with listener() as sock:
        return Multiaddr.tcp(*sock.getsockname())


def test_a_bounded_search_ends_in_time_however_long_the_next_pause_would_be(tmp_path: Path) -> None:
    async def main() -> None:
        binder, seen = binder_to(tmp_path, dead_address(), timeout=1.7)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await binder.start()
        with pytest.raises(PtError):
            await binder.wait()
        assert loop.time() - began == pytest.approx(1.7, abs=0.35)
        assert sum(isinstance(event, events.Retrying) for event in seen) >= 3
        await binder.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_an_exposer_that_hangs_up_again_and_again_is_asked_ever_later(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with loopback() as rig:
            sessions: list[float] = []

            def attached(session: object, connection: Connection, resumed: bool) -> None:
                sessions.append(asyncio.get_running_loop().time())
                connection.close("no more")

            rig.gate._on_attached = attached  # type: ignore[assignment]
            binder, _ = binder_to(tmp_path, open_to(rig))
            await binder.start()
            await until(lambda: len(sessions) == 5)
            await binder.close()
            gaps = [late - early for early, late in pairwise(sessions)]
            assert gaps[-1] > 3 * gaps[0]

    asyncio.run(asyncio.wait_for(main(), 15))


async def with_a_connection(binder: Binder, rig: Loopback) -> tuple[socket.socket, socket.socket]:
    """A connection through the tunnel: the client's end, and the service's."""
    client, theirs = tcp_pair()
    binder.carry(theirs, rig.service.getsockname()[1])
    return client, await rig.accept()


@pytest.mark.parametrize("bare", [False, True])
def test_open_connections_wait_for_their_exposer_before_another_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: bool
) -> None:
    """Also when the other one answers at an address that the user gave."""
    monkeypatch.setattr(reach, "FAILOVER_AFTER", 1.0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with loopback() as one, loopback() as two:
            first, second = open_to(one), open_to(two)
            if bare:
                second = two.exposer.addresses[0]
            binder, seen = binder_to(tmp_path, first, any_exposer=True)
            binder.config.__dict__["peers"] = (first, second)
            await binder.start()
            await until(lambda: any(isinstance(event, events.Connected) for event in seen))
            (connected,) = [event for event in seen if isinstance(event, events.Connected)]
            here, other = (one, two) if connected.peer_id == one.exposer.peer_id else (two, one)
            client, service = await with_a_connection(binder, here)
            here.exposer.unlisten()
            for connection in list(here.exposer.connections):
                connection.link.lose("the machine is gone", abort=True)
            lost = loop.time()
            await until(
                lambda: any(
                    isinstance(event, events.Connected) and event.peer_id == other.exposer.peer_id
                    for event in seen
                )
            )
            assert loop.time() - lost >= 0.9
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            client.close()
            service.close()
            await binder.close()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_who_had_the_session_is_dialed_on_whatever_others_were_tried_meanwhile(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with loopback() as rig:
            binder, seen = binder_to(tmp_path, open_to(rig), dead_address(), any_exposer=True)
            await binder.start()
            await binder.ready()
            seeker = binder._reach._seeker
            assert seeker is not None
            known = seeker.last
            assert known is not None
            assert known.peer_id == rig.exposer.peer_id
            rig.exposer.unlisten()
            binder.drop_connection()
            await until(lambda: any(isinstance(event, events.Retrying) for event in seen))
            assert seeker.last == known
            await binder.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_member_who_stalls_the_proof_holds_up_nobody(tmp_path: Path) -> None:
    """Who is first in the list takes the stream of the proof, and says nothing."""

    async def main() -> None:
        async with loopback() as rig:
            staller = Node(
                identity=PrivateKey.generate(b"s" * 32), listen=(Multiaddr.tcp("127.0.0.1", 0),)
            )
            asked = []

            def stall(_: object, stream: Stream, *__: object) -> None:
                stream.handler = None
                asked.append(time.monotonic())

            staller.handle_raw(PROTOCOL, stall)
            await staller.start()
            first = staller.addresses[0].with_peer(staller.peer_id.raw)
            binder, seen = binder_to(tmp_path, first, open_to(rig), any_exposer=True)
            await binder.start()
            await binder.ready()
            took = time.monotonic() - asked[0]
            assert PATIENCE - 0.1 < took < PATIENCE + 2
            connected = [each for each in seen if isinstance(each, events.Connected)]
            assert [each.peer_id for each in connected] == [rig.exposer.peer_id]
            await until(lambda: not staller.connections)
            await binder.close()
            await staller.close()

    asyncio.run(asyncio.wait_for(main(), 10))


@pytest.mark.parametrize("error", [OSError("the machine sleeps"), PtError("no")])
def test_a_connection_that_is_not_used_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(authenticate, "ask_session", fail)

    async def main() -> None:
        async with loopback() as rig:
            binder, seen = binder_to(tmp_path, open_to(rig))
            await binder.start()
            await until(lambda: sum(isinstance(event, events.Retrying) for event in seen) == 3)
            node = binder._reach._node
            assert node is not None
            await until(lambda: not node.connections)
            await binder.close()

    asyncio.run(asyncio.wait_for(main(), 10))
