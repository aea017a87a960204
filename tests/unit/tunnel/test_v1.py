from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from pt.aio.hangup import HangupWatch
from pt.aio.tcp import abort
from pt.node.buffers import POOL
from pt.tunnel.v1 import BINDER_HOLD, DISCARD_AFTER, EXPOSER_HOLD, RawPump
from pt.yamux.frames import MAX_WINDOW
from pt.yamux.stream import Stream
from tests.sim.loop import run
from tests.sim.world import tcp_pair
from tests.unit.node.pair import joined
from tests.unit.node.test_link import CALM


@dataclass
class Tunnel:
    """client ↔ near pump ↔ stream ↔ far pump ↔ target."""

    client: socket.socket
    target: socket.socket
    near: RawPump
    far: RawPump
    ends: list[tuple[str, str]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def tunnel(
    near: float | None = None, far: float | None = None, skip: bytes = b""
) -> AsyncIterator[Tunnel]:
    loop = asyncio.get_running_loop()
    before = POOL.slots.lent
    hangups = HangupWatch(loop)
    client, accepted = tcp_pair()
    dialed, target = tcp_pair()
    made: list[Tunnel] = []
    with client, target:
        async with joined(CALM) as (left, right):
            pumps = [
                RawPump(
                    sock,
                    loop,
                    hangups,
                    hold=hold,
                    skip=skip if name == "near" else b"",
                    on_done=lambda _, reason, name=name: made[0].ends.append((name, reason)),
                )
                for name, sock, hold in (("near", accepted, near), ("far", dialed, far))
            ]
            made.append(Tunnel(client, target, *pumps))

            def accept(stream: Stream) -> None:
                pumps[1].attach(right.link, stream)
                loop.call_soon(pumps[1].pump)

            right.link.session._on_stream = accept
            stream = left.new_stream()
            pumps[0].attach(left.link, stream)
            left.link.session.announce(stream)
            pumps[0].pump()
            left.link.flush()
            await asyncio.sleep(0.01)
            yield made[0]
            left.close()
            await asyncio.sleep(0.01)
            assert [pump.closed for pump in pumps] == [True, True]
        hangups.close()
    assert POOL.slots.lent == before


async def send(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


async def receive(sock: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        part = await asyncio.get_running_loop().sock_recv(sock, count - len(got))
        if not part:
            break
        got += part
    return got


async def ended(sock: socket.socket, within: float) -> bool:
    """Whether the end of stream arrives `within` so many seconds."""
    try:
        async with asyncio.timeout(within):
            return await asyncio.get_running_loop().sock_recv(sock, 1) == b""
    except TimeoutError:
        return False


def test_bytes_both_ways() -> None:
    async def scenario() -> None:
        async with tunnel() as t:
            payload = bytes(range(256)) * 8000
            *_, up, down = await asyncio.gather(
                send(t.client, payload),
                send(t.target, payload[::-1]),
                receive(t.target, len(payload)),
                receive(t.client, len(payload)),
            )
            assert (up, down) == (payload, payload[::-1])
            assert t.near.bytes_in == t.far.bytes_out == len(payload)

    run(scenario())


def test_between_our_own_every_end_passes_at_once() -> None:
    async def scenario() -> None:
        async with tunnel() as t:
            await send(t.client, b"question")
            t.client.shutdown(socket.SHUT_WR)
            assert await receive(t.target, 8) == b"question"
            assert await ended(t.target, 0.1)
            await send(t.target, b"answer")
            t.target.shutdown(socket.SHUT_WR)
            assert await receive(t.client, 6) == b"answer"
            assert await ended(t.client, 0.1)
            assert sorted(t.ends) == [("far", ""), ("near", "")]

    run(scenario())


def test_a_binder_holds_its_end_back_until_the_answer_has_ended() -> None:
    async def scenario() -> None:
        async with tunnel(near=BINDER_HOLD) as t:
            t.client.shutdown(socket.SHUT_WR)
            assert not await ended(t.target, 600)
            await send(t.target, b"answer")
            t.target.shutdown(socket.SHUT_WR)
            assert await receive(t.client, 10) == b"answer"
            assert await ended(t.target, 0.1)
            assert sorted(t.ends) == [("far", ""), ("near", "")]

    run(scenario())


def test_after_long_silence_the_end_is_sent_all_the_same() -> None:
    async def scenario() -> None:
        async with tunnel(near=BINDER_HOLD) as t:
            t.client.shutdown(socket.SHUT_WR)
            for _ in range(5):  # not while the answer goes on
                assert not await ended(t.target, BINDER_HOLD * 0.9)
                await send(t.target, b"more")
            assert await ended(t.target, BINDER_HOLD + 1)

    run(scenario())


def test_an_exposer_waits_for_a_moment_of_silence() -> None:
    async def scenario() -> None:
        async with tunnel(far=EXPOSER_HOLD) as t:
            t.target.shutdown(socket.SHUT_WR)
            for _ in range(5):
                await send(t.client, b"more")
                assert not await ended(t.client, EXPOSER_HOLD * 0.9)
            assert await ended(t.client, EXPOSER_HOLD + 0.1)
            assert await receive(t.target, 20) == b"more" * 5

    run(scenario())


@pytest.mark.parametrize("who", ["client", "target"])
def test_a_reset_arrives_as_a_reset(who: str) -> None:
    async def scenario() -> None:
        async with tunnel(near=BINDER_HOLD, far=EXPOSER_HOLD) as t:
            await send(t.client, b"hello")
            assert await receive(t.target, 5) == b"hello"
            aborted, other = (t.client, t.target) if who == "client" else (t.target, t.client)
            abort(aborted)
            with pytest.raises(ConnectionResetError):
                await receive(other, 1)
            assert {reason for _, reason in t.ends} == {
                "reset by the application",
                "reset by the peer",
            }

    run(scenario())


def test_a_lost_connection_is_a_reset() -> None:
    async def scenario() -> None:
        async with tunnel() as t:
            t.near.link.lose("cut")
            with pytest.raises(ConnectionResetError):
                await receive(t.client, 1)
            with pytest.raises(ConnectionResetError):
                await receive(t.target, 1)

    run(scenario())


def test_the_negotiations_answer_is_taken_off() -> None:
    async def scenario() -> None:
        async with tunnel(skip=b"/protocol\n") as t:
            for piece in (b"/pro", b"toc", b"ol\nda", b"ta"):
                await send(t.target, piece)
                await asyncio.sleep(0.01)
            assert await receive(t.client, 4) == b"data"

    run(scenario())


def test_another_answer_ends_it() -> None:
    async def scenario() -> None:
        async with tunnel(skip=b"/protocol\n") as t:
            await send(t.target, b"na\n")
            with pytest.raises(ConnectionResetError):
                await receive(t.client, 1)
            assert ("near", "the peer does not offer an open tunnel") in t.ends

    run(scenario())


def test_a_slow_reader_holds_its_sender_back() -> None:
    async def scenario() -> None:
        async with tunnel() as t:
            sending = asyncio.ensure_future(send(t.client, bytes(32 << 20)))
            await asyncio.sleep(5)
            assert not sending.done()
            held = sum(map(len, t.far._backlog or ()))
            assert held <= t.far.stream.recv_window <= MAX_WINDOW
            got = 0
            while got < 32 << 20:
                got += len(await receive(t.target, 1 << 20))
            await sending

    run(scenario())


def test_a_peer_that_ended_and_takes_nothing_is_given_up() -> None:
    """As the Go program does: it frees the stream and never gives credit again."""

    async def scenario() -> None:
        async with tunnel(near=BINDER_HOLD) as t:
            t.near.stream.send_window = 1000
            t.far.stream.recv_window = 1 << 30  # credit would come at half of it
            t.target.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0.1)
            await send(t.client, bytes(100_000))
            await asyncio.sleep(DISCARD_AFTER / 2)
            assert t.ends == []
            await asyncio.sleep(DISCARD_AFTER)
            assert ("near", "the peer takes no more bytes") in t.ends

    run(scenario())
