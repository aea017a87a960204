"""Open tunnels that begin on a relay: when they leave it, and what stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from pt.errors import ConnectError, LimitedError
from pt.identify.messages import Identify
from pt.identity.keys import PrivateKey
from pt.node.connection import Connection
from pt.node.dcutr import PROTOCOL, Dcutr
from pt.node.node import Node
from pt.node.route import Route
from pt.relay.messages import Limit
from pt.tunnel import events
from pt.tunnel import open_paths as module
from pt.tunnel.core.messages import PROTOCOL_V1
from pt.tunnel.open_binder import OpenTunnel
from pt.tunnel.open_paths import OpenPaths, punch_for_binders
from pt.tunnel.reversal import Reversal
from pt.wire.multiaddr import Multiaddr
from tests.unit.tunnel.loopback import Loopback, loopback, tcp_pair, until

RELAY = Multiaddr.parse("/ip4/9.9.9.9/tcp/4001")
LIMIT = Limit(120, 1 << 17)


def relayed(connection: Connection, limit: Limit | None = None) -> Connection:
    relay = Node(identity=PrivateKey.generate(b"r" * 32)).peer_id
    connection.route = Route(RELAY.through_circuit(), path="relay/raw", relay=relay, limit=limit)
    return connection


class Rig:
    """A binder's node with its paths; `served` are the connections on which streams arrive."""

    def __init__(self, rig: Loopback, *, punch: bool = True) -> None:
        self.rig = rig
        self.seen: list[events.Event] = []
        self.lost: list[str] = []
        self.room = 0
        self.served: list[Connection] = []
        rig.exposer.handle_raw(PROTOCOL_V1, lambda connection, *_: self.served.append(connection))
        self.paths = OpenPaths(rig.binder, self.seen.append, punch=punch)

    def tunnel(self, connection: Connection) -> OpenTunnel:
        def room() -> None:
            self.room += 1

        made = OpenTunnel(
            connection,
            hangups=self.rig.hangups,
            emit=self.seen.append,
            on_room=room,
            on_idle=lambda: None,
            on_lost=self.lost.append,
        )
        self.paths.follow(made)
        return made

    def of(self, kind: type[events.Event]) -> list[events.Event]:
        return [event for event in self.seen if isinstance(event, kind)]

    def paths_used(self) -> list[str]:
        return [event.path for event in self.seen if isinstance(event, events.Connected)]


@contextlib.asynccontextmanager
async def rigged(*, punch: bool = True) -> AsyncIterator[Rig]:
    async with loopback() as rig:
        made = Rig(rig, punch=punch)
        yield made
        await made.paths.close()


def forward(tunnel: OpenTunnel) -> socket.socket:
    ours, theirs = tcp_pair()
    tunnel.open(theirs)
    tunnel.connection.link.flush()
    return ours


def test_new_streams_take_the_direct_path_and_old_ones_stay() -> None:
    async def main() -> None:
        async with rigged() as rig:
            tunnel = rig.tunnel(relayed(await rig.rig.dial()))
            old = forward(tunnel)
            await until(lambda: len(rig.served) == 1)
            direct = await rig.rig.dial()
            await until(lambda: tunnel.connection is direct)
            new = forward(tunnel)
            await until(lambda: len(rig.served) == 2)
            assert rig.served[0] is not rig.served[1]
            assert rig.paths_used() == ["relay/raw", "direct/tcp"]
            assert len(tunnel._pumps) == 2
            await rig.rig.dial()  # a second direct one changes nothing
            await asyncio.sleep(0)
            assert tunnel.connection is direct
            old.close()
            new.close()

    asyncio.run(main())


def test_the_relay_serves_again_when_the_direct_path_is_lost() -> None:
    async def main() -> None:
        async with rigged() as rig:
            relay = relayed(await rig.rig.dial())
            tunnel = rig.tunnel(relay)
            direct = await rig.rig.dial()
            await until(lambda: tunnel.connection is direct)
            room = rig.room
            direct.close("lost")
            assert tunnel.connection is relay
            assert rig.room == room + 1
            assert not rig.lost
            assert rig.paths_used() == ["relay/raw", "direct/tcp", "relay/raw"]
            relay.close("lost, too")
            assert rig.lost == ["lost, too"]

    asyncio.run(main())


def test_the_relay_is_not_needed_any_more() -> None:
    async def main() -> None:
        async with rigged() as rig:
            relay = relayed(await rig.rig.dial())
            tunnel = rig.tunnel(relay)
            direct = await rig.rig.dial()
            await until(lambda: tunnel.connection is direct)
            relay.close("it stopped")
            assert tunnel.connection is direct
            assert not rig.lost
            assert rig.paths_used() == ["relay/raw", "direct/tcp"]

    asyncio.run(main())


def test_a_connection_that_its_maker_closes_at_once_is_not_taken() -> None:
    """Another dial of the peer's was faster."""

    async def main() -> None:
        async with rigged() as rig:
            direct = await rig.rig.dial()
            direct.initiator = False
            relay = relayed(await rig.rig.dial())
            tunnel = rig.tunnel(relay)
            taking = asyncio.create_task(rig.paths._take(direct))
            await asyncio.sleep(0)
            direct.close("lost the race")
            await taking
            assert tunnel.connection is relay

    asyncio.run(main())


def limited_with(rig: Rig, connection: Connection, *protocols: str) -> Connection:
    connection.identified = Identify(protocols=protocols)
    return relayed(connection, LIMIT)


def test_on_a_relay_that_limits_a_direct_connection_is_waited_for() -> None:
    async def main() -> None:
        async with rigged() as rig:
            relay = limited_with(rig, await rig.rig.dial(), PROTOCOL_V1, PROTOCOL)
            waiting = asyncio.create_task(rig.paths.usable(relay))
            await asyncio.sleep(0)
            direct = await rig.rig.dial()
            assert await waiting is direct
            assert relay.closed
            assert not direct.closed

    asyncio.run(main())


@pytest.mark.parametrize(
    ("protocols", "punch", "error", "reason"),
    [
        ((PROTOCOL_V1, PROTOCOL), True, LimitedError, "pt relay.*no direct connection in time"),
        ((PROTOCOL_V1,), True, LimitedError, "pt relay.*does not speak DCUtR"),
        ((PROTOCOL_V1, PROTOCOL), False, LimitedError, "pt relay"),
        ((PROTOCOL,), True, ConnectError, "no open tunnel"),
    ],
)
def test_when_there_is_none_it_is_said_why(
    monkeypatch: pytest.MonkeyPatch,
    protocols: tuple[str, ...],
    punch: bool,
    error: type[Exception],
    reason: str,
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.01)

    async def main() -> None:
        async with rigged(punch=punch) as rig:
            relay = limited_with(rig, await rig.rig.dial(), *protocols)
            with pytest.raises(error, match=reason):
                await rig.paths.usable(relay)
            assert relay.closed

    asyncio.run(main())


def test_what_the_last_attempt_met_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.01)

    async def main() -> None:
        async with rigged() as rig:
            relay = limited_with(rig, await rig.rig.dial(), PROTOCOL_V1, PROTOCOL)
            waiting = asyncio.create_task(rig.paths.usable(relay))
            await asyncio.sleep(0)
            rig.paths._failed(relay, "both NATs are hard")
            with pytest.raises(LimitedError, match="both NATs are hard"):
                await waiting
            assert [event.ok for event in rig.of(events.Punched)] == [False]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("address", "punch", "listens"),
    [
        ("/ip4/9.9.9.9/tcp/4001/p2p-circuit", True, True),
        ("/ip4/9.9.9.9/tcp/4001/p2p-circuit", False, False),
        ("/ip4/192.168.1.1/tcp/4001/p2p-circuit", True, False),
        ("/ip4/9.9.9.9/tcp/4001", True, False),
    ],
)
def test_only_who_goes_through_a_public_relay_listens(
    monkeypatch: pytest.MonkeyPatch, address: str, punch: bool, listens: bool
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(Node, "listen", lambda _, what: asked.append(what))

    async def main() -> None:
        node = Node(identity=PrivateKey.generate(os.urandom(32)))
        paths = OpenPaths(node, lambda _: None, punch=punch)
        for _ in range(2):
            paths.prepare([Multiaddr.parse(address)])
        assert len(asked) == int(listens)
        await paths.close()

    asyncio.run(main())


def test_an_exposer_punches_for_whom_it_allows_after_dialing_back() -> None:
    async def main() -> None:
        async with loopback() as rig:
            seen: list[events.Event] = []
            reversal = Reversal(rig.binder, ())
            connection = relayed(await rig.dial())
            none = frozenset({rig.binder.peer_id})
            for allow, wanted in ((frozenset(), True), (none, False)):
                dcutr = punch_for_binders(rig.binder, reversal, allow, seen.append)
                assert isinstance(dcutr, Dcutr)
                assert dcutr._wanted(connection) is wanted
                await dcutr.close()
            dialing: Callable[[], asyncio.Task[None]] = lambda: asyncio.create_task(  # noqa: E731
                asyncio.sleep(0.01)
            )
            task = reversal._tasks[connection.peer_id] = dialing()
            await dcutr._first(connection)
            assert task.done()
            del reversal._tasks[connection.peer_id]
            await dcutr._first(connection)
            dcutr._on_direct(replace_route(connection), 0.25)
            dcutr._on_failed(connection, "no way")
            said = [(event.ok, event.strategy, event.detail) for event in seen]
            assert said == [(True, "dcutr", "/ip4/9.9.9.9/tcp/4001"), (False, "", "no way")]

    asyncio.run(main())


def replace_route(connection: Connection) -> Connection:
    connection.route = replace(connection.route, remote=RELAY, relay=None)
    return connection
