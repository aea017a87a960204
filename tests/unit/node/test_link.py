from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pt.aio.keep_alive import KeepAlive
from pt.aio.muxed import MuxedStream
from pt.errors import ResetError
from pt.node.buffers import POOL
from pt.noise.handshake import Suite
from pt.noise.transport import Opener, Sealer
from pt.yamux.frames import ACK, DATA, GO_AWAY, HEADER_LEN, MAX_PAYLOAD, PING, SYN, WINDOW_UPDATE
from tests.sim.loop import run
from tests.unit.node.pair import half, joined
from tests.unit.yamux.memory import data, frame, frames

CALM = KeepAlive(1000.0, 4000.0)


class Foreign:
    """The other end of `half()`, by hand: seals what it is given, opens what it hears."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sealer = Sealer(Suite.AESGCM, b"i" * 32)
        self.opener = Opener(Suite.AESGCM, b"r" * 32)
        self.heard = bytearray()
        self.plain = bytearray()

    def sealed(self, plain: bytes) -> bytes:
        out = memoryview(bytearray(len(plain) + 18))
        self.sealer.seal_into(plain, out)
        return bytes(out)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def hear(self) -> list[tuple[int, int, int, int, bytes]]:
        """All frames that have come by now."""
        quiet = 0
        while quiet < 3:
            await asyncio.sleep(0.001)
            try:
                got = self.sock.recv(1 << 20)
            except BlockingIOError:
                quiet += 1
            else:
                self.heard += got
                quiet = 0 if got else 3
        while len(self.heard) >= 2:
            stop = 2 + int.from_bytes(self.heard[:2], "big")
            if len(self.heard) < stop:
                break
            self.plain += self.opener.open(memoryview(self.heard[2:stop]))
            del self.heard[:stop]
        whole = 0
        while len(self.plain) - whole >= HEADER_LEN:
            kind, length = self.plain[whole + 1], self.plain[whole + 8 : whole + 12]
            stop = whole + HEADER_LEN + (int.from_bytes(length, "big") if kind == DATA else 0)
            if stop > len(self.plain):
                break
            whole = stop
        found = list(frames(bytes(self.plain[:whole])))
        del self.plain[:whole]
        return found


def lent() -> tuple[int, int, int]:
    return POOL.rx.lent, POOL.tx.lent, POOL.slots.lent


async def served(left, right) -> tuple[MuxedStream, MuxedStream]:
    """A stream between two joined connections, without negotiation."""
    accepted: list[MuxedStream] = []
    right.link.session._on_stream = lambda stream: accepted.append(MuxedStream(stream, right.link))
    ours = MuxedStream(left.new_stream(), left.link)
    await ours.write(b"!")
    await asyncio.sleep(0.01)
    assert await accepted[0].read(1) == b"!"
    return ours, accepted[0]


def test_bulk_both_ways() -> None:
    async def scenario() -> None:
        before = lent()
        async with joined(CALM) as (left, right):
            ours, theirs = await served(left, right)
            payload = bytes(range(256)) * 8000

            async def say(stream: MuxedStream) -> None:
                await stream.write(payload)
                await stream.close_write()

            async def hear(stream: MuxedStream) -> bytes:
                got = b""
                while part := await stream.read(100_000):
                    got += part
                return got

            *_, one, two = await asyncio.gather(say(ours), say(theirs), hear(ours), hear(theirs))
            assert one == two == payload
            assert left.link.session.streams == right.link.session.streams == {}
            assert left.link.bytes_out == right.link.bytes_in > len(payload)
        assert lent() == before

    run(scenario())


def test_an_idle_link_owns_no_buffer() -> None:
    async def scenario() -> None:
        before = lent()
        async with joined(CALM) as (left, right):
            await served(left, right)
            await asyncio.sleep(1)
            assert lent() == before

    run(scenario())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 70_000), max_size=12), st.integers(1, 3))
def test_any_split_of_the_ciphertext(sizes: list[int], messages: int) -> None:
    async def scenario() -> None:
        before = lent()
        async with half(CALM) as (connection, sock):
            foreign = Foreign(sock)
            got = bytearray()
            connection.link.session._on_stream = lambda stream: setattr(
                stream, "handler", _Collect(got)
            )
            payload = bytes(range(256)) * 200
            wire = foreign.sealed(frame(WINDOW_UPDATE, SYN, 1))
            wire += b"".join(foreign.sealed(data(1, payload)) for _ in range(messages))
            for size in [*sizes, len(wire)]:
                await foreign.send(wire[:size])
                wire = wire[size:]
                await asyncio.sleep(0.01)
            assert bytes(got) == payload * messages
            await asyncio.sleep(1)
            assert lent() == before
        assert lent() == before

    run(scenario())


class _Collect:
    def __init__(self, got: bytearray) -> None:
        self.got = got

    def data_received(self, data: memoryview) -> None:
        self.got += data

    def eof_received(self) -> None: ...

    def window_opened(self) -> None: ...

    def stream_acked(self) -> None: ...

    def stream_lost(self, code: int | None) -> None: ...


@pytest.mark.parametrize("held", [3, 1000, 5000, 65_000])
def test_a_half_message_costs_little_and_is_given_back(held: int) -> None:
    async def scenario() -> None:
        before = lent()
        async with half(CALM) as (connection, sock):
            foreign = Foreign(sock)
            await foreign.send(foreign.sealed(bytes(65_519))[:held])
            await asyncio.sleep(0.1)
            assert POOL.rx.lent - before[0] == (1 if held > 4096 else 0)
            connection.close()
            assert lent() == before

    run(scenario())


@pytest.mark.parametrize(
    "wire",
    [
        b"\0\0",
        b"\0\x0f" + bytes(15),
        b"\0\x20" + bytes(32),
        b"\xff\xff" + bytes(65535),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000,
    ],
)
def test_what_does_not_decrypt_ends_the_connection(wire: bytes) -> None:
    async def scenario() -> None:
        before = lent()
        async with half(CALM) as (connection, sock):
            foreign = Foreign(sock)
            await foreign.hear()
            with contextlib.suppress(OSError):
                await foreign.send(wire)
            await asyncio.sleep(0.1)
            assert connection.closed
        assert lent() == before

    run(scenario())


def test_a_changed_bit_ends_the_connection() -> None:
    async def scenario() -> None:
        async with half(CALM) as (connection, sock):
            foreign = Foreign(sock)
            wire = bytearray(foreign.sealed(frame(PING, SYN, 0, 1)))
            wire[7] ^= 1
            await foreign.send(bytes(wire))
            await asyncio.sleep(0.1)
            assert connection.closed

    run(scenario())


def test_who_breaks_a_yamux_rule_is_told_and_closed() -> None:
    async def scenario() -> None:
        before = lent()
        async with half(CALM) as (connection, sock):
            foreign = Foreign(sock)
            await foreign.send(foreign.sealed(frame(9, 0, 0)))
            await asyncio.sleep(0.1)
            assert connection.close_reason.startswith("protocol error")
            assert (await foreign.hear())[-1] == (GO_AWAY, 0, 0, 1, b"")
        assert lent() == before

    run(scenario())


def test_who_floods_and_does_not_read_is_closed() -> None:
    async def scenario() -> None:
        before = lent()
        async with half(CALM) as (connection, sock):
            foreign = Foreign(sock)
            pings = frame(PING, SYN, 0, 7) * 5000
            with pytest.raises(OSError):
                for _ in range(400):
                    await foreign.send(foreign.sealed(pings))
                    await asyncio.sleep(0)
            assert "does not read" in connection.close_reason
        assert lent() == before

    run(scenario())


def test_small_frames_of_one_wake_up_share_a_message() -> None:
    async def scenario() -> None:
        async with half(CALM) as (connection, sock):
            foreign = Foreign(sock)
            await foreign.hear()
            stream = connection.new_stream()
            for number in range(10):
                connection.link.send_small(stream, bytes([number]))
            connection.link.flush()
            await asyncio.sleep(0.01)
            heard = sock.recv(10_000)
            assert len(heard) == 2 + 16 + 10 * (HEADER_LEN + 1)

    run(scenario())


def test_frames_leave_in_order() -> None:
    async def scenario() -> None:
        async with half(CALM) as (connection, sock):
            foreign = Foreign(sock)
            await foreign.hear()
            stream = connection.new_stream()
            slot = POOL.slots.take()
            slot[HEADER_LEN:] = b"B" * MAX_PAYLOAD
            connection.link.send_small(stream, b"a")
            connection.link.send_slot(stream, slot, MAX_PAYLOAD)
            connection.link.send_small(stream, b"c")
            connection.link.flush()
            POOL.slots.give(slot)
            said = await foreign.hear()
            assert [(f[0], f[1], f[4][:1]) for f in said] == [
                (DATA, SYN, b"a"),
                (DATA, 0, b"B"),
                (DATA, 0, b"c"),
            ]

    run(scenario())


# --- life --------------------------------------------------------------------------------------


def test_a_silent_peer_is_given_up() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with half(KeepAlive(2.0, 8.0)) as (connection, _):
            started = loop.time()
            gone = loop.create_future()
            connection.on_close.append(gone.set_result)
            assert "no sign of life" in await gone
            assert 8 < loop.time() - started <= 8 + 2 * 2
            assert connection.closed

    run(scenario())


def test_a_peer_that_answers_is_kept() -> None:
    async def scenario() -> None:
        async with joined(KeepAlive(2.0, 8.0)) as (left, right):
            await asyncio.sleep(500)
            assert not left.closed
            assert not right.closed
            assert left.rtt is not None

    run(scenario())


def test_any_byte_is_a_sign_of_life() -> None:
    async def scenario() -> None:
        async with half(KeepAlive(2.0, 8.0)) as (connection, sock):
            foreign = Foreign(sock)
            for _ in range(10):
                await asyncio.sleep(7)
                await foreign.send(foreign.sealed(frame(PING, 0, 0)))
                await foreign.hear()
            assert not connection.closed

    run(scenario())


def test_a_process_that_slept_gives_its_peer_another_chance() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with half(KeepAlive(2.0, 8.0)) as (connection, _):
            await asyncio.sleep(3)
            loop._virtual.now += 3600  # suspended
            await asyncio.sleep(4)
            assert not connection.closed
            await asyncio.sleep(12)
            assert connection.closed

    run(scenario())


def test_losing_tells_everybody_once() -> None:
    async def scenario() -> None:
        before = lent()
        async with joined(CALM) as (left, right):
            ours, theirs = await served(left, right)
            told: list[str] = []
            left.on_close.append(told.append)
            reading = asyncio.ensure_future(ours.read(1))
            await asyncio.sleep(0)
            left.close("enough")
            left.close("twice")
            assert told == ["enough"]
            with pytest.raises(ResetError):
                await reading
            await asyncio.sleep(0.01)
            assert right.closed
            with pytest.raises(ResetError):
                await theirs.read(1)
        assert lent() == before

    run(scenario())


def test_a_peer_that_goes_away_may_finish_its_streams() -> None:
    async def scenario() -> None:
        async with half(CALM) as (connection, sock):
            foreign = Foreign(sock)
            got = bytearray()
            connection.link.session._on_stream = lambda stream: setattr(
                stream, "handler", _Collect(got)
            )
            await foreign.send(foreign.sealed(data(1, b"a", SYN) + frame(GO_AWAY, 0, 0)))
            await asyncio.sleep(0.01)
            assert not connection.closed
            await foreign.send(foreign.sealed(data(1, b"b")))
            await asyncio.sleep(0.01)
            assert got == b"ab"
            connection.link.session.streams[1].reset()
            await foreign.send(foreign.sealed(frame(PING, SYN, 0, 1)))
            await asyncio.sleep(0.01)
            assert connection.closed

    run(scenario())


def test_a_waiter_is_woken_when_the_peer_reads_again() -> None:
    async def scenario() -> None:
        async with half(CALM) as (connection, sock):
            foreign = Foreign(sock)
            stream = MuxedStream(connection.new_stream(), connection.link)
            stream.stream.send_window = 1 << 30
            writing = asyncio.ensure_future(stream.write(bytes(3_000_000)))
            await asyncio.sleep(1)
            assert not writing.done()
            assert not connection.link.room
            got = 0
            while not writing.done() or got < 3_000_000:
                got += sum(len(f[4]) for f in await foreign.hear())
            await writing
            assert got == 3_000_000

    run(scenario())


def test_a_writer_that_finds_no_room_though_the_socket_takes_bytes() -> None:
    """Others queued much and have not flushed yet: whoever waits then must not wait for ever."""

    async def scenario() -> None:
        async with half(CALM) as (connection, sock):
            foreign = Foreign(sock)
            link = connection.link
            other = connection.new_stream()
            other.send_window = 1 << 30
            while link.room:
                link.send_small(other, bytes(10_000))
            stream = MuxedStream(connection.new_stream(), link)
            link._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            writing = asyncio.ensure_future(stream.write(b"hello"))
            await asyncio.sleep(1)
            said = await foreign.hear() + await foreign.hear()
            assert writing.done()
            assert any(f[4] == b"hello" for f in said)

    run(scenario())


def test_accepting_is_acknowledged() -> None:
    async def scenario() -> None:
        async with half(CALM) as (_, sock):
            foreign = Foreign(sock)
            await foreign.send(foreign.sealed(frame(WINDOW_UPDATE, SYN, 1)))
            said = await foreign.hear()
            assert said[0][:2] == (PING, SYN)
            assert (WINDOW_UPDATE, ACK, 1, 0, b"") in said

    run(scenario())
