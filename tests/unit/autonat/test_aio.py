from __future__ import annotations

import asyncio
import io
import json
import socket

import pytest

from pt.aio.tcp import SocketStream
from pt.autonat import aio as module
from pt.autonat.aio import MAX_PENDING, DialBacks, ask, deliver, serve
from pt.autonat.messages import AutonatError, DialResponse, DialStatus, Status, encode_dial_back
from pt.autonat.server import CONCURRENT, Rates
from pt.errors import ClosedError, ConnectError, LimitError, LocalProtocolError, PtError
from pt.trace import Tracer
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run as run_virtually

TCP = Multiaddr.parse("/ip4/11.0.1.2/tcp/4001")
ELSEWHERE = Multiaddr.parse("/ip4/11.0.9.9/tcp/4001")
INSIDE = Multiaddr.parse("/ip4/192.168.1.2/tcp/4001")


class World:
    """A client and a server with a stream between them; the server dials over fresh streams."""

    def __init__(self) -> None:
        self.kept: list[SocketStream] = []
        self.backs = DialBacks()
        self.rates = Rates()
        self.dialed: list[Multiaddr] = []
        self.open = True
        self.tasks: list[asyncio.Task[None]] = []

    def streams(self) -> tuple[SocketStream, SocketStream]:
        ends = socket.socketpair()
        for end in ends:
            end.setblocking(False)
        made = SocketStream(ends[0]), SocketStream(ends[1])
        self.kept += made
        return made

    async def dial_back(self, address: Multiaddr, nonce: int) -> DialStatus:
        self.dialed.append(address)
        if not self.open:
            raise ConnectError("filtered")
        ours, theirs = self.streams()
        self.tasks.append(asyncio.ensure_future(self.backs.answer(theirs, INSIDE)))
        return await deliver(ours, nonce)

    def serve(self, stream: SocketStream, tracer: Tracer | None = None) -> asyncio.Task[None]:
        return asyncio.ensure_future(
            serve(
                stream,
                "11.0.1.2",
                b"client",
                self.rates,
                dials=lambda _: True,
                dial_back=self.dial_back,
                tracer=tracer or Tracer(None),
            )
        )

    async def close(self) -> None:
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for stream in self.kept:
            stream.sock.close()


def run(test) -> None:
    async def main() -> None:
        world = World()
        try:
            await test(world)
        finally:
            await world.close()

    run_virtually(main())


def test_an_address_that_can_be_dialed() -> None:
    async def test(world: World) -> None:
        ours, theirs = world.streams()
        sink, served = io.StringIO(), io.StringIO()
        task = world.serve(theirs, Tracer(served))
        verdict = await ask(ours, [INSIDE, TCP], world.backs, tracer=Tracer(sink))
        await task
        assert (verdict.address, verdict.reachable) == (TCP, True)
        assert world.dialed == [TCP]
        record = json.loads(sink.getvalue().splitlines()[-1])
        assert (record["event"], record["reachable"]) == ("autonat_verdict", True)
        assert json.loads(served.getvalue().splitlines()[-1])["outcome"] == "ok"
        assert not world.backs._pending
        assert not world.rates._active

    run(test)


def test_an_address_elsewhere_is_paid_for(monkeypatch) -> None:
    monkeypatch.setattr("pt.autonat.server.MAX_DELAY", 0.01)

    async def test(world: World) -> None:
        ours, theirs = world.streams()
        task = world.serve(theirs)
        verdict = await ask(ours, [ELSEWHERE], world.backs)
        await task
        assert verdict.reachable is True
        assert theirs.received > 30_000

    run(test)


def test_an_address_that_cannot_be_dialed() -> None:
    async def test(world: World) -> None:
        world.open = False
        ours, theirs = world.streams()
        world.tasks.append(world.serve(theirs))
        verdict = await ask(ours, [TCP], world.backs)
        assert verdict.reachable is False

    run(test)


def test_a_nonce_that_nobody_gave_gets_no_answer() -> None:
    async def test(world: World) -> None:
        ours, theirs = world.streams()
        world.backs.expect(98, seen.append)
        world.tasks.append(asyncio.ensure_future(world.backs.answer(theirs, INSIDE)))
        await deliver(ours, 99)
        assert seen == []

    seen: list[Multiaddr] = []
    run(test)


def test_a_client_that_takes_the_nonce_and_resets_has_it() -> None:
    async def test(world: World) -> None:
        ours, theirs = world.streams()

        async def take() -> None:
            await theirs.read_exactly(10)
            await theirs.reset()

        task = asyncio.ensure_future(take())
        assert await deliver(ours, 99) is DialStatus.OK
        await task

    run(test)


def test_a_client_that_does_not_answer(monkeypatch) -> None:
    monkeypatch.setattr(module, "DIAL_BACK_TIMEOUT", 0.02)

    async def test(world: World) -> None:
        ours, _ = world.streams()
        assert await deliver(ours, 99) is DialStatus.DIAL_BACK_ERROR

    run(test)


def test_a_client_that_leaves() -> None:
    async def test(world: World) -> None:
        ours, theirs = world.streams()
        await ours.close_write()
        with pytest.raises(ClosedError):
            await world.serve(theirs)
        assert not world.rates._active

    run(test)


def test_a_client_that_is_slow(monkeypatch) -> None:
    monkeypatch.setattr(module, "REQUEST_TIMEOUT", 0.02)

    async def test(world: World) -> None:
        _, theirs = world.streams()
        with pytest.raises(TimeoutError):
            await world.serve(theirs)
        assert not world.rates._active

    run(test)


def test_a_client_with_too_many_requests() -> None:
    async def test(world: World) -> None:
        for _ in range(CONCURRENT):
            world.rates.begin(b"client")
        _, theirs = world.streams()
        with pytest.raises(LimitError):
            await world.serve(theirs)

    run(test)


def test_a_server_that_breaks_the_protocol() -> None:
    async def test(world: World) -> None:
        ours, theirs = world.streams()
        await theirs.write(DialResponse(Status.OK, 5, DialStatus.OK).encode())
        with pytest.raises(AutonatError):
            await ask(ours, [TCP], world.backs)
        assert not world.backs._pending

    run(test)


def test_nothing_to_ask() -> None:
    async def test(world: World) -> None:
        ours, _ = world.streams()
        with pytest.raises(LocalProtocolError):
            await ask(ours, [INSIDE], world.backs)

    run(test)


def test_requests_are_bounded() -> None:
    backs = DialBacks()
    for nonce in range(MAX_PENDING):
        backs.expect(nonce, lambda _: None)
    with pytest.raises(LimitError):
        backs.expect(99, lambda _: None)
    backs.forget(0)
    backs.expect(99, lambda _: None)


@pytest.mark.parametrize("data", [b"\x7f", b"\x01\x09", encode_dial_back(5)[:-1]])
def test_a_dial_back_that_is_none(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr(module, "DIAL_BACK_TIMEOUT", 0.05)

    async def test(world: World) -> None:
        ours, theirs = world.streams()
        await ours.write(data)
        with pytest.raises((PtError, TimeoutError)):
            await world.backs.answer(theirs, INSIDE)

    run(test)
