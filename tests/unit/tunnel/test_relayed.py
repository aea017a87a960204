"""Whole tunnels through a real relay, in one process on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from pt.errors import NetworkError, StateError
from pt.node.circuits import Circuits
from pt.node.state import StateDir
from pt.relay.messages import Limit
from pt.relay.registry import Quotas
from pt.relayd import events as relay_events
from pt.relayd.config import RelayConfig
from pt.relayd.server import RelayServer
from pt.tunnel import events
from pt.tunnel import paths as paths_module
from pt.tunnel.binder import Binder
from pt.tunnel.config import BindConfig, ExposeConfig, Forward, Service
from pt.tunnel.exposer import Exposer
from pt.tunnel.known import Known
from pt.tunnel.limited import lasts
from pt.tunnel.paths import Paths
from pt.wire.multiaddr import Multiaddr

LOOPBACK = Multiaddr.tcp("127.0.0.1", 0)
NAME = "unit-test-of-relayed-tunnels-7"
SECRET = "a-secret-of-the-unit-tests"
E = TypeVar("E", bound=events.Event)


class Heard:
    """Events of one side, and the wait for the next one of a kind."""

    def __init__(self) -> None:
        self.all: list[events.Event] = []
        self._news = asyncio.Event()

    def __call__(self, event: events.Event) -> None:
        self.all.append(event)
        self._news.set()

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.all if isinstance(event, kind)]

    async def until(self, true: Callable[[], object], seconds: float = 15.0) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not true():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(self.all) from None

    async def path(self, path: str, count: int = 1) -> None:
        """Wait until the last of `count` such paths is in use."""

        def there() -> bool:
            used = [event.path for event in self.of(events.Connected)]
            return used.count(path) >= count and used[-1] == path

        await self.until(there)


class World:
    """A relay, an exposer of an echo service behind it, and binders."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        self.relay_said, self.exposer_said, self.binder_said = Heard(), Heard(), Heard()
        self._stack = contextlib.AsyncExitStack()

    async def relay(self, name: str = "relay", **options: object) -> RelayServer:
        config = RelayConfig(listen=(LOOPBACK,), **options)  # type: ignore[arg-type]
        server = RelayServer(config, StateDir(self.tmp / name), self.relay_said)
        await server.start()
        self._stack.push_async_callback(server.close)
        return server

    async def expose(
        self,
        *relays: RelayServer,
        secret: str | None = None,
        said: Heard | None = None,
    ) -> Exposer:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
            writer.close()

        service = await asyncio.start_server(echo, "127.0.0.1", 0)
        self._stack.callback(service.close)
        exposer = Exposer(
            ExposeConfig(
                name=NAME,
                services=(Service(port=80, target_port=service.sockets[0].getsockname()[1]),),
                lan=False,
                listen=(LOOPBACK,),
                relays=tuple(each.addresses[0] for each in relays),
                relay_secret=secret,
            ),
            StateDir(self.tmp / "exposer"),
            self.exposer_said if said is None else said,
        )
        self._stack.push_async_callback(exposer.close)
        await exposer.start()
        return exposer

    async def bind(self, exposer: Exposer) -> Binder:
        circuits = tuple(each for each in exposer.addresses if each.is_circuit)
        assert circuits
        binder = Binder(
            BindConfig(
                name=NAME,
                forwards=(Forward(local_port=0),),
                lan=False,
                peers=circuits,
                punch=False,  # which takes ports on all interfaces
            ),
            StateDir(self.tmp / "binder"),
            self.binder_said,
        )
        await binder.start()
        self._stack.push_async_callback(binder.close)
        async with asyncio.timeout(15):
            await binder.ready()
        return binder

    async def client(self, binder: Binder) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", binder.ports[0].local)
        self._stack.callback(writer.close)
        return reader, writer

    async def aclose(self) -> None:
        await self._stack.aclose()


async def ask(stream: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes) -> None:
    reader, writer = stream
    writer.write(data)
    async with asyncio.timeout(30):
        await writer.drain()
        assert await reader.readexactly(len(data)) == data


@contextlib.asynccontextmanager
async def world(tmp: Path) -> AsyncIterator[World]:
    made = World(tmp)
    try:
        yield made
    finally:
        await made.aclose()


@pytest.fixture
def no_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind NATs: nobody is ever reached directly."""
    monkeypatch.setattr(Known, "direct", property(lambda self: []))
    monkeypatch.setattr(Paths, "_invite", lambda self: None)


def test_a_tunnel_starts_on_the_relay_and_goes_over_to_a_direct_path(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as w:
            relay = await w.relay(secret=SECRET)
            exposer = await w.expose(relay, secret=SECRET)
            binder = await w.bind(exposer)
            stream = await w.client(binder)
            await ask(stream, b"first")
            await w.binder_said.path("direct/tcp")
            assert [event.path for event in w.binder_said.of(events.Connected)] == [
                "relay/raw",
                "direct/tcp",
            ]
            await ask(stream, bytes(100_000))
            assert relay.snapshot().open_circuits == {"raw": 1}  # the standby
            assert binder.drop_connection()
            await w.binder_said.path("relay/raw", 2)
            await ask(stream, bytes(100_000))
            (resumed,) = w.binder_said.of(events.Resumed)
            assert resumed.streams == 1
            assert resumed.seconds < 1.0
            await w.binder_said.path("direct/tcp", 2)  # and leaves the relay again
            await ask(stream, b"last")

    asyncio.run(main())


@pytest.mark.usefixtures("no_direct")
@pytest.mark.parametrize("raw", [True, False])
def test_bytes_pass_through_either_kind_of_circuit(
    tmp_path: Path, raw: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Circuits.__init__

    def choose(self: Circuits, *args: object, **options: object) -> None:
        made(self, *args, **options)  # type: ignore[arg-type]
        self.raw = raw

    monkeypatch.setattr(Circuits, "__init__", choose)

    async def main() -> None:
        async with world(tmp_path) as w:
            relay = await w.relay(secret=SECRET)
            binder = await w.bind(await w.expose(relay, secret=SECRET))
            stream = await w.client(binder)
            await ask(stream, bytes(range(256)) * 4000)
            (connected,) = w.binder_said.of(events.Connected)
            assert connected.path == ("relay/raw" if raw else "relay/circuit")
            circuits = w.relay_said.of(relay_events.CircuitOpened)
            assert {each.kind for each in circuits} == {"raw" if raw else "libp2p"}
            assert {each.grade for each in circuits} == {"user"}

    asyncio.run(main())


@pytest.mark.usefixtures("no_direct")
def test_the_second_relay_takes_over_when_the_first_dies(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as w:
            one = await w.relay("one", secret=SECRET)
            two = await w.relay("two", secret=SECRET)
            exposer = await w.expose(one, two, secret=SECRET)
            await w.exposer_said.until(
                lambda: len(w.exposer_said.of(events.Published)) >= 2  # both hold a reservation
            )
            binder = await w.bind(exposer)
            stream = await w.client(binder)
            await ask(stream, b"x" * 50_000)
            (first,) = w.binder_said.of(events.Connected)
            used = one if str(one.peer_id) in str(first.address) else two
            began = asyncio.get_running_loop().time()
            await used.close()
            await ask(stream, b"y" * 50_000)
            assert asyncio.get_running_loop().time() - began < 2.0
            assert str(used.peer_id) not in str(w.binder_said.of(events.Connected)[-1].address)

    asyncio.run(main())


@pytest.mark.parametrize("how", ["close", "drain"])
def test_one_exposer_of_an_identity_is_reached_through_relays(tmp_path: Path, how: str) -> None:
    """A relay would lead to the one that asked last, and the other's binders to the wrong one."""

    async def main() -> None:
        async with world(tmp_path) as w:
            relay = await w.relay(secret=SECRET)
            first = await w.expose(relay, secret=SECRET)
            with pytest.raises(StateError, match="--port N --port M"):
                await w.expose(relay, secret=SECRET, said=Heard())

            unrelayed = Heard()
            await w.expose(said=unrelayed)
            (warning,) = unrelayed.of(events.Warned)
            assert "not" in warning.message
            assert "--home" in warning.message
            assert not w.exposer_said.of(events.Warned)

            if how == "close":
                await first.close()
            else:
                await first.drain(0.1)
            second = await w.expose(relay, secret=SECRET, said=Heard())
            await first.close()
            await ask(await w.client(await w.bind(second)), b"the second one")

    asyncio.run(main())


def test_what_failed_to_start_may_be_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise NetworkError("as if a firewall were in the way")

    async def main() -> None:
        async with world(tmp_path) as w:
            relay = await w.relay(secret=SECRET)
            with monkeypatch.context() as patch:
                patch.setattr("pt.tunnel.exposer.probe", fail)
                with pytest.raises(NetworkError, match="firewall"):
                    await w.expose(relay, secret=SECRET)
            again = await w.expose(relay, secret=SECRET)
            assert any(each.is_circuit for each in again.addresses)

    asyncio.run(main())


@pytest.mark.usefixtures("no_direct")
def test_limited_circuits_are_replaced_before_they_end(tmp_path: Path) -> None:
    """Each circuit carries 24 KiB and lasts 3 s: a dialogue outlives many of them."""

    async def main() -> None:
        async with world(tmp_path) as w:
            limited = Quotas(limit=Limit(3, 24 * 1024))
            relay = await w.relay(strangers=limited)
            binder = await w.bind(await w.expose(relay))
            stream = await w.client(binder)
            loop = asyncio.get_running_loop()
            end = loop.time() + 7
            while loop.time() < end:
                await ask(stream, b"a key stroke")
                await asyncio.sleep(0.05)
            paths = w.binder_said.of(events.Connected)
            assert len(paths) >= 4
            assert not w.binder_said.of(events.Disconnected)  # made before broken
            closed = w.relay_said.of(relay_events.CircuitClosed)
            assert all("time" not in each.reason for each in closed)
            (warning,) = w.binder_said.of(events.Warned)
            assert "pt relay" in warning.message
            assert "24 KiB and 3 s" in warning.message

    asyncio.run(main())


@pytest.mark.usefixtures("no_direct")
def test_bulk_over_limited_circuits_is_slow_and_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pt.node.pace.SPREAD", 1.0)

    async def main() -> None:
        async with world(tmp_path) as w:
            relay = await w.relay(strangers=Quotas(limit=Limit(60, 64 * 1024)))
            binder = await w.bind(await w.expose(relay))
            stream = await w.client(binder)
            await ask(stream, bytes(range(256)) * 600)  # 150 KiB each way, 64 a circuit
            assert len(w.binder_said.of(events.Connected)) >= 3
            assert not w.binder_said.of(events.Disconnected)
            circuits = w.relay_said.of(relay_events.CircuitClosed)
            assert all(each.sent <= 64 * 1024 for each in circuits)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("said", "meant"),
    [(120, 120), (3600, 3600), (120_000, 120), (10_800, 60), (4_294_967_295, 4_294_967)],
)
def test_a_time_limit_in_milliseconds_is_recognised(said: int, meant: float) -> None:
    assert int(lasts(said)) == meant


def test_a_move_that_the_exposer_made_and_we_missed_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to ATTACH is lost: the exposer waits on a path that we do not know to work."""
    ask_to_attach = paths_module.authenticate.ask_to_attach
    calls: list[object] = []

    async def lose_the_first(connection, secret):  # type: ignore[no-untyped-def]
        calls.append(connection)
        stream = await ask_to_attach(connection, secret)
        if len(calls) == 1:
            raise TimeoutError("as if the answer never came")
        return stream

    monkeypatch.setattr(paths_module.authenticate, "ask_to_attach", lose_the_first)

    async def main() -> None:
        async with world(tmp_path) as w:
            relay = await w.relay(secret=SECRET)
            binder = await w.bind(await w.expose(relay, secret=SECRET))
            stream = await w.client(binder)
            for _ in range(20):
                await ask(stream, b"still there")
                await asyncio.sleep(0.05)
            assert len(calls) >= 2

    asyncio.run(main())
