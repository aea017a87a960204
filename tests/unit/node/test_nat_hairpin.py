"""Two sockets that are to meet, on loopback; NATs are in tests/e2e/test_nat.py."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from pt.node import nat_hairpin
from pt.node.nat_hairpin import hairpins
from pt.stun.attributes import Address
from pt.stun.server import PRIMARY, Server
from tests.sim.loop import run
from tests.unit.node.stun_server import over_tcp

HOST = "127.0.0.1"
Seen = Callable[[Address], Address]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(nat_hairpin, "PATIENCE", 0.3)


def server(seen: Seen) -> contextlib.AbstractAsyncContextManager[Address]:
    """It tells whoever asks over TCP what `seen` makes of the address."""
    stun = Server({})

    async def serve(reader, writer) -> None:
        source = seen(writer.get_extra_info("peername"))
        data = await reader.readexactly(28)
        writer.write(stun.receive(data, source, PRIMARY, 0.0, stream=True).data)
        await reader.read()

    return over_tcp(serve)


async def met(seen: Seen) -> bool | None:
    async with server(seen) as address:
        return await hairpins(address, HOST, 0.0, 1.0)


def test_they_meet_where_nothing_is_in_the_way():
    assert run(met(lambda source: source)) is True


def test_they_do_not_where_nobody_is():
    assert run(met(lambda _: ("127.0.0.2", 9))) is False


def test_somebody_else_who_answers_there_is_not_taken_for_ourselves():
    async def main() -> None:
        async def answer(reader, writer) -> None:
            writer.write(bytes(64))
            writer.close()

        other = await asyncio.start_server(answer, HOST, 0)
        async with other:
            assert await met(lambda _: other.sockets[0].getsockname()) is False

    run(main())


def test_without_a_server_nothing_is_known():
    assert run(hairpins((HOST, 9), HOST, 0.0, 1.0)) is None


def test_nobody_is_dialed_at_an_address_that_a_server_has_no_business_to_tell(monkeypatch):
    monkeypatch.setattr(nat_hairpin, "may_write", lambda server, told: False)
    assert run(met(lambda source: source)) is None
