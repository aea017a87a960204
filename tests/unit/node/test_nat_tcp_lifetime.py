"""Silences that are tried, on virtual time; real NATs are in tests/e2e/test_nat.py."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from pt.node import nat_tcp_lifetime
from pt.node.nat_tcp_lifetime import TcpLifetime, measure_tcp_lifetime, try_silences
from pt.stun.attributes import Address
from pt.stun.framing import Deframer
from pt.stun.lifetime import CLIFFS
from pt.stun.limits import MAX_SILENCE, Held
from pt.stun.messages import BINDING, Kind, decode, encode
from pt.stun.server import PRIMARY, Server
from tests.sim.loop import run
from tests.unit.node.stun_server import over_tcp

HOST = "127.0.0.1"


class Nat:
    """It keeps silent connections for so long, and others, if keep-alives count, for ever."""

    def __init__(self, lifetime: float, *, keepalives: bool = True, holds: float = 1e9) -> None:
        self.lifetime = lifetime
        self.keepalives = keepalives
        self.holds = holds
        self.open = self.most = 0
        self.tried: list[tuple[float, int]] = []

    async def survives(self, silence: float, every: int) -> bool | None:
        self.tried.append((silence, every))
        if silence > self.holds:
            return None
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await asyncio.sleep(silence)
        finally:
            self.open -= 1
        return (self.keepalives and 0 < every < self.lifetime) or silence < self.lifetime


def measured(nat: Nat, cliffs=CLIFFS) -> tuple[TcpLifetime | None, float]:
    """What is found, and how long it took."""

    async def main() -> tuple[TcpLifetime | None, float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        return await try_silences(cliffs, nat.survives), loop.time() - began

    return run(main())


@pytest.mark.parametrize("lifetime", [11.0, 27.0, 60.0, 87.0, 120.0, 297.0])
def test_a_lifetime_is_found_within_an_eighth_of_what_the_cliffs_tell(lifetime):
    nat = Nat(lifetime)
    found, took = measured(nat)
    assert found.at_least < lifetime <= found.at_most
    assert found.at_most - found.at_least <= 60 / 8
    assert found.keepalive_refreshes is True
    assert found.safe == found.at_least
    assert nat.open == 0
    assert took < 2.6 * min(each for each in CLIFFS if each >= lifetime)


def test_keep_alives_that_do_not_help():
    assert measured(Nat(60.0, keepalives=False))[0].keepalive_refreshes is False


def test_connections_that_outlive_all_silences():
    nat = Nat(7200.0)
    assert measured(nat) == (TcpLifetime(298.0), pytest.approx(298.0, abs=0.1))
    assert nat.most == len(CLIFFS)


def test_those_that_do_not_live_for_the_shortest():
    found, _ = measured(Nat(4.0))
    assert (found.at_least, found.at_most) == (3.75, 5.0)
    assert found.keepalive_refreshes is None  # the system counts whole seconds
    found, _ = measured(Nat(0.5), (1.0, 2.0))
    assert found == TcpLifetime(0.0, 1.0)
    assert found.safe == 0.5


def test_a_silence_as_long_as_servers_hold_is_tried_with_keep_alives():
    nat = Nat(2000.0, holds=MAX_SILENCE)
    found, _ = measured(nat, (1798.0, MAX_SILENCE))
    assert found.keepalive_refreshes is True
    assert (MAX_SILENCE, 899) in nat.tried


def test_fine_steps_are_not_tried():
    nat = Nat(1.5)
    assert measured(nat, (1.0, 2.0))[0] == TcpLifetime(1.0, 2.0, True)
    assert nat.tried == [(1.0, 0), (2.0, 0), (2.5, 1)]


def test_a_server_that_holds_no_connection_or_not_for_so_long():
    assert measured(Nat(60.0, holds=0.0))[0] is None
    assert measured(Nat(600.0, holds=100.0))[0] == TcpLifetime(88.0)


# --- a server's part ------------------------------------------------------------------------------


def serving(
    *, forgets: float = 1e9, lies: bool = False
) -> contextlib.AbstractAsyncContextManager[Address]:
    """It says what was asked for after a silence, if that is shorter than `forgets`."""
    server = Server({}, held=Held())

    async def serve(reader, writer) -> None:
        deframer, found = Deframer(), []
        while not found:
            found = deframer.receive_data(await reader.read(1024))
        answer = server.receive(
            found[0], writer.get_extra_info("peername"), PRIMARY, 0.0, stream=True
        )
        writer.write(answer.data)
        await asyncio.sleep(answer.later)
        if answer.later < forgets:
            number = bytes(12) if lies else decode(answer.data).transaction
            writer.write(encode(Kind.INDICATION, BINDING, number))
        await reader.read()

    return over_tcp(serve)


async def ask(address: Address) -> TcpLifetime | None:
    return await measure_tcp_lifetime(address, (0.1, 0.2, 0.4), 0.0, 1.0)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(nat_tcp_lifetime, "PATIENCE", 0.3)


def test_what_a_server_says_after_a_silence():
    async def main() -> None:
        async with serving() as address:
            assert await ask(address) == TcpLifetime(0.4)
        async with serving(forgets=0.3) as address:
            assert await ask(address) == TcpLifetime(0.2, 0.4)
        async with serving(lies=True) as address:
            assert await ask(address) is None

    asyncio.run(main())


def test_servers_that_do_not_know_how():
    async def main() -> None:
        server = Server({})

        async def stream(reader, writer) -> None:
            data = await reader.readexactly(36)
            source = writer.get_extra_info("peername")
            writer.write(server.receive(data, source, PRIMARY, 0.0, stream=True).data)
            writer.close()

        async with await asyncio.start_server(stream, HOST, 0) as listener:
            assert await ask(listener.sockets[0].getsockname()) is None
        assert await ask((HOST, 9)) is None

    asyncio.run(main())
