from __future__ import annotations

import asyncio
import socket

import pytest

from pt.errors import DnsCause, DnsError, LocalPortError
from pt.tunnel.config import Service
from pt.tunnel.targets import Targets
from tests.sim.loop import run


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
    async def look_up(host: str, family: int) -> list[str]:
        if host not in table:
            raise DnsError("no such host", DnsCause.NO_NAME)
        return table[host]

    return look_up


def test_names_are_resolved_ahead_ipv4_first() -> None:
    async def scenario() -> None:
        table = {"db": ["fd00::1", "10.0.0.1"]}
        targets = Targets([Service(port=5432, host="db")], names(table))
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


def test_a_name_without_an_address() -> None:
    async def scenario() -> None:
        with pytest.raises(LocalPortError, match="'db' has no address") as caught:
            await Targets([Service(port=1, host="db")], names({})).resolve()
        assert caught.value.exit_code == 6

    asyncio.run(scenario())


def test_a_silent_dns_is_given_up() -> None:
    async def silent(host: str, family: int) -> list[str]:
        await asyncio.sleep(1000)
        return []

    async def scenario() -> None:
        with pytest.raises(LocalPortError, match="the DNS does not answer"):
            await Targets([Service(port=1, host="db")], silent).resolve()

    run(scenario())


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
