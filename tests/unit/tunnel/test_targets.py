from __future__ import annotations

import asyncio
import socket

import pytest

from pt.errors import LocalPortError
from pt.tunnel.config import Service
from pt.tunnel.targets import Targets


def test_which_port_leads_where() -> None:
    async def scenario() -> None:
        targets = Targets([Service(port=22), Service(port=80, host="::1", target_port=8080)])
        await targets.resolve()
        assert targets.ports == (22, 80)
        assert targets.find(22) == ("127.0.0.1", 22)
        assert targets.find(80) == ("::1", 8080)
        assert targets.find(0) == ("127.0.0.1", 22)
        assert targets.find(443) is None

    asyncio.run(scenario())


def names(table: dict[str, list[str]]):
    async def getaddrinfo(host: str, port: int, **rest: object):
        if host not in table:
            raise socket.gaierror(-2, "Name or service not known")
        return [
            (
                socket.AF_INET6 if ":" in ip else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (ip, port),
            )
            for ip in table[host]
        ]

    return getaddrinfo


def test_names_are_resolved_ahead_ipv4_first(monkeypatch) -> None:
    async def scenario() -> None:
        table = {"db": ["fd00::1", "10.0.0.1"]}
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names(table))
        targets = Targets([Service(port=5432, host="db")])
        await targets.resolve()
        assert targets.find(5432) == ("10.0.0.1", 5432)
        table["db"] = ["10.0.0.2"]
        targets.failed(0)
        targets.failed(5432)  # one look-up at a time
        await asyncio.gather(*targets._tasks)
        assert targets.find(5432) == ("10.0.0.2", 5432)
        del table["db"]
        targets.failed(5432)
        await asyncio.gather(*targets._tasks)
        assert targets.find(5432) == ("10.0.0.2", 5432)

    asyncio.run(scenario())


def test_a_name_without_an_address(monkeypatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names({}))
        with pytest.raises(LocalPortError, match="'db' has no address"):
            await Targets([Service(port=1, host="db")]).resolve()

    asyncio.run(scenario())


def test_an_address_is_not_looked_up_again() -> None:
    async def scenario() -> None:
        targets = Targets([Service(port=22)])
        targets.failed(22)
        assert not targets._tasks

    asyncio.run(scenario())


def test_who_answers() -> None:
    async def scenario() -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as up,
            socket.create_server(("127.0.0.1", 0)) as down,
        ):
            ports = up.getsockname()[1], down.getsockname()[1]
            down.close()
            targets = Targets(
                [Service(port=1, target_port=ports[0]), Service(port=2, target_port=ports[1])]
            )
            await targets.resolve()
            assert await targets.answering() == {1: True, 2: False}

    asyncio.run(scenario())
