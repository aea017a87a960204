"""The library, both ends in this process, on loopback alone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import pt
from pt.errors import ClosedError, LocalPortError, NotFoundError, PtError, RefusedError, UsageError
from pt.node.state import StateDir
from pt.rendezvous.name import NameKeys
from pt.tunnel import events as ev
from pt.tunnel.config import Service

NAME = "api-tests-brisk-heron-71"
OTHER = "api-tests-other-name-33"
LOOPBACK = "/ip4/127.0.0.1/tcp/0"


@pytest.fixture(scope="module")
def keys() -> dict[str, NameKeys]:
    """The slow derivations, once."""
    return {name: NameKeys.derive(name) for name in (NAME, OTHER)}


@pytest.fixture
def homes(tmp_path: Path, keys: dict[str, NameKeys]) -> tuple[Path, Path]:
    one, other = tmp_path / "one", tmp_path / "other"
    for home in (one, other):
        for name, derived in keys.items():
            StateDir(home).cache_keys(name, derived)
    return one, other


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def echo_service() -> AsyncIterator[int]:
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes) -> bytes:
    writer.write(text)
    writer.write_eof()
    reply = await reader.read()
    writer.close()
    await writer.wait_closed()
    return reply


def test_open_and_listen(homes: tuple[Path, Path]) -> None:
    async def run() -> None:
        seen: list[ev.Event] = []
        async with (
            echo_service() as port,
            pt.expose(
                port, NAME, listen=LOOPBACK, lan=False, public=False, home=homes[0]
            ) as exposed,
            await pt.connect(
                NAME,
                peer=exposed.addresses,
                lan=False,
                public=False,
                home=homes[1],
                on_event=seen.append,
            ) as tunnel,
        ):
            assert exposed.name == NAME
            assert "pt bind" in exposed.bind_command
            assert await ask(*await tunnel.open(), b"one") == b"one"
            assert await ask(*await tunnel.open(port), b"two" * 100_000) == b"two" * 100_000
            local = await tunnel.listen()
            assert await ask(*await asyncio.open_connection("127.0.0.1", local), b"3") == b"3"
        assert any(isinstance(event, ev.Connected) for event in seen)
        assert isinstance(seen[-1], ev.Stopped)

    asyncio.run(run())


def test_several_services(homes: tuple[Path, Path]) -> None:
    async def run() -> None:
        async with echo_service() as port:
            services = [Service(port=1, target_port=port), Service(port=2, target_port=port)]
            async with (
                pt.expose(
                    services, NAME, listen=LOOPBACK, lan=False, public=False, home=homes[0]
                ) as exposed,
                await pt.connect(
                    NAME,
                    peer=[str(a) for a in exposed.addresses],
                    lan=False,
                    public=False,
                    home=homes[1],
                ) as tunnel,
            ):
                for number in (1, 2):
                    assert await ask(*await tunnel.open(number), b"x") == b"x"
                with pytest.raises(ConnectionResetError):  # 3 is not offered
                    await ask(*await tunnel.open(3), b"x")

    asyncio.run(run())


def test_a_target_that_refuses_is_a_reset(homes: tuple[Path, Path]) -> None:
    async def run() -> None:
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            port = reserved.getsockname()[1]
            async with (
                pt.expose(
                    port, NAME, listen=LOOPBACK, lan=False, public=False, home=homes[0]
                ) as exposed,
                await pt.connect(
                    NAME, peer=exposed.addresses, lan=False, public=False, home=homes[1]
                ) as tunnel,
            ):
                reader, writer = await tunnel.open()
                with pytest.raises(ConnectionResetError):
                    await reader.read()
                writer.close()

    asyncio.run(run())


def test_errors(homes: tuple[Path, Path]) -> None:
    async def run() -> None:
        async with (
            echo_service() as port,
            pt.expose(
                port, NAME, listen=LOOPBACK, lan=False, public=False, home=homes[0]
            ) as exposed,
        ):
            peer = exposed.addresses
            with pytest.raises(RefusedError):
                await pt.connect(
                    OTHER, peer=peer, lan=False, public=False, home=homes[1], timeout=20
                )
            with pytest.raises(UsageError):
                await pt.connect(NAME, peer="nonsense", lan=False, public=False, home=homes[1])
            with pytest.raises(UsageError):
                await pt.connect("", peer=peer, lan=False, public=False, home=homes[1])
            tunnel = await pt.connect(NAME, peer=peer, lan=False, public=False, home=homes[1])
            with pytest.raises(LocalPortError):
                await tunnel.listen(port)  # taken by the service
            await tunnel.aclose()
            await tunnel.aclose()
            with pytest.raises(ClosedError):
                await tunnel.open()
            with pytest.raises(ClosedError):
                await tunnel.listen()

    asyncio.run(run())


def test_nobody_there_in_time(homes: tuple[Path, Path]) -> None:
    async def run() -> None:
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            nobody = f"/ip4/127.0.0.1/tcp/{reserved.getsockname()[1]}"
            with pytest.raises(PtError) as caught:
                await pt.connect(
                    NAME, peer=nobody, lan=False, public=False, home=homes[1], timeout=0.5
                )
        assert caught.value.exit_code in {NotFoundError.exit_code, 5}

    asyncio.run(run())


def test_a_name_is_made_when_none_is_given(tmp_path: Path) -> None:
    async def run() -> None:
        async with pt.expose(9, listen=LOOPBACK, lan=False, public=False, home=tmp_path) as exposed:
            assert len(exposed.name) > 15
            assert exposed.name in exposed.bind_command

    asyncio.run(run())


def test_the_package_offers_the_library_and_nothing_else() -> None:
    assert pt.expose.__module__ == "pt.api"
    assert set(pt.__all__) == {"Exposed", "Tunnel", "__version__", "connect", "expose"}
    with pytest.raises(AttributeError, match="exposee"):
        pt.exposee  # noqa: B018
