"""Paths over relays: what was once kept for ever, or believed to be alive."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pt.errors import ConnectError
from pt.node.connection import Connection
from pt.node.node import Node
from pt.relay.messages import Limit
from pt.relay.registry import Quotas
from pt.tunnel import events
from pt.tunnel import paths as paths_module
from pt.tunnel import reach as reach_module
from pt.tunnel.binder import Binder
from pt.tunnel.exposer import Exposer
from pt.tunnel.paths import Paths
from tests.unit.tunnel.loopback import until
from tests.unit.tunnel.test_relayed import SECRET, World, no_direct, world

__all__ = ["no_direct"]


def paths_of(binder: Binder) -> Paths:
    paths = binder._reach._paths
    assert paths is not None
    return paths


def forget(exposer: Exposer) -> None:
    """As if the session had expired there."""
    assert exposer._gate is not None
    for session in exposer._gate.sessions.values():
        session.end("forgotten")
    exposer._gate.sessions.clear()


async def direct(w: World, binder: Binder, count: int = 1) -> None:
    """Wait for the direct path, and for the circuit that is kept beside it."""
    await w.binder_said.path("direct/tcp", count)
    await until(lambda: paths_of(binder)._standby is not None)


def test_a_standby_does_not_outlive_a_session_that_the_exposer_forgot(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as w:
            relay = await w.relay(secret=SECRET)
            exposer = await w.expose(relay, secret=SECRET)
            binder = await w.bind(exposer)
            await direct(w, binder)
            standby = paths_of(binder)._standby
            assert standby is not None
            forget(exposer)
            assert binder.drop_connection()
            await w.binder_said.path("direct/tcp", 2)
            assert standby.closed

    asyncio.run(main())


def test_a_standby_is_closed_with_its_paths(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as w:
            relay = await w.relay(secret=SECRET)
            binder = await w.bind(await w.expose(relay, secret=SECRET))
            await direct(w, binder)
            paths = paths_of(binder)
            standby = paths._standby
            assert standby is not None
            await paths.close()
            assert standby.closed

    asyncio.run(main())


def test_a_binder_listens_only_while_it_is_relayed(tmp_path: Path) -> None:
    """Each new session once opened one more port, and none was ever closed."""

    async def main() -> None:
        async with world(tmp_path) as w:
            relay = await w.relay(secret=SECRET)
            exposer = await w.expose(relay, secret=SECRET)
            binder = await w.bind(exposer)
            node = binder._reach._node
            assert node is not None
            for count in (1, 2, 3):
                await direct(w, binder, count)
                assert not node.addresses
                forget(exposer)
                assert binder.drop_connection()
            await direct(w, binder, 4)

    asyncio.run(main())


def test_a_circuit_that_is_used_again_and_again_collects_no_callbacks(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as w:
            relay = await w.relay(secret=SECRET)
            binder = await w.bind(await w.expose(relay, secret=SECRET))
            counts = []
            for count in (1, 2, 3):
                await direct(w, binder, count)
                standby = paths_of(binder)._standby
                assert standby is not None
                counts.append(len(standby.on_close))
                assert binder.drop_connection()
            await direct(w, binder, 4)
            assert max(counts) == counts[0]

    asyncio.run(main())


@pytest.mark.usefixtures("no_direct")
def test_a_new_session_is_not_given_a_connection_that_ended_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was lost while the old session's paths were closed: the tunnel was dead, and said up."""
    close, ask_session = Paths.close, paths_module.authenticate.ask_session
    made: list[Connection] = []

    async def ask(connection: Connection, psk: bytes) -> object:
        made.append(connection)
        return await ask_session(connection, psk)

    async def close_and_lose(self: Paths) -> None:
        await close(self)
        if len(made) == 2:
            made[1].link.lose("the relay is gone", abort=True)

    monkeypatch.setattr(paths_module.authenticate, "ask_session", ask)
    monkeypatch.setattr(Paths, "close", close_and_lose)

    async def main() -> None:
        async with world(tmp_path) as w:
            relay = await w.relay(secret=SECRET)
            exposer = await w.expose(relay, secret=SECRET)
            binder = await w.bind(exposer)
            forget(exposer)
            assert binder.drop_connection()
            await until(lambda: len(made) == 3)
            await w.binder_said.until(lambda: len(w.binder_said.of(events.Connected)) == 2)

    asyncio.run(main())


@pytest.mark.usefixtures("no_direct")
def test_a_fresh_circuit_is_closed_when_the_exposer_forgot_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths_module, "RENEW_RETRY", 0.1)
    fresh: list[Connection] = []
    circuit = Paths._circuit

    async def note(self: Paths, circuits: object) -> Connection:
        fresh.append(await circuit(self, circuits))  # type: ignore[arg-type]
        return fresh[-1]

    async def forgotten(self: Paths, connection: Connection, *, upgrade: bool = False) -> bool:
        return False

    async def main() -> None:
        async with world(tmp_path) as w:
            relay = await w.relay(strangers=Quotas(limit=Limit(100, 1 << 20)))
            await w.bind(await w.expose(relay))
            monkeypatch.setattr(Paths, "_circuit", note)
            monkeypatch.setattr(Paths, "move", forgotten)
            monkeypatch.setattr(paths_module, "used_up", lambda _: True)
            await until(lambda: fresh)
            await until(lambda: fresh[0].closed)

    asyncio.run(main())


def test_a_slow_path_is_given_time_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path of 600 ms needs more than the short attempts of a redial."""
    connect = Node.connect
    timeouts: list[float] = []

    async def main() -> None:
        async with world(tmp_path) as w:
            relay = await w.relay(secret=SECRET)
            binder = await w.bind(await w.expose(relay, secret=SECRET))
            monkeypatch.setattr(Paths, "rescue", never)

            async def slow(self: Node, *args: object, timeout: float, **more: object) -> Connection:
                if self is not binder._reach._node:
                    return await connect(self, *args, timeout=timeout, **more)  # type: ignore[arg-type]
                timeouts.append(timeout)
                if timeout < 10:
                    raise ConnectError("no answer in time")
                return await connect(self, *args, timeout=timeout, **more)  # type: ignore[arg-type]

            monkeypatch.setattr(Node, "connect", slow)
            assert binder.drop_connection()
            await w.binder_said.until(lambda: w.binder_said.of(events.Resumed))
            assert timeouts[:4] == [*[reach_module.REDIAL_TIMEOUT] * 3, reach_module.DIAL_TIMEOUT]

    async def never(self: Paths) -> bool:
        return False

    monkeypatch.setattr(reach_module, "FIRST_DELAY", 0.01)
    asyncio.run(main())
