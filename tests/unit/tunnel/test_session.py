"""Rules of a session that the simulation of broken paths does not reach."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from pt.tunnel.core import messages as wire
from pt.tunnel.core.messages import Code, Control
from tests.sim.loop import run
from tests.sim.world import Path, World


async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A target that reads to the end and says nothing."""
    with contextlib.suppress(OSError):
        while await reader.read(100_000):
            pass
    writer.close()


def world() -> World:
    return World(Path, quiet)


def is_closed(sock: socket.socket) -> bool:
    """Whether the tunnel has ended the application's connection, one way or the other."""
    with sock:
        try:
            return sock.recv(1) == b""
        except ConnectionResetError:
            return True


def test_acknowledgements_that_found_no_room_are_said_later() -> None:
    async def scenario() -> None:
        async with world() as made:
            control = made.exposer_session._control
            room, control.send_window = control.send_window, 100
            sock, pump = made.open()
            sock.send(b"x" * 1000)
            await asyncio.sleep(1)
            assert pump.replay.acked == 0
            control.send_window = room  # credit that came while the window was not empty
            await asyncio.sleep(1)
            assert pump.replay.acked == 1000
            sock.close()
            await made.settled()

    run(scenario())


def test_the_ports_are_offered_first() -> None:
    async def scenario() -> None:
        async with world() as made:
            await asyncio.sleep(0.1)
            assert made.session.offered == (80,)

    run(scenario())


def test_a_port_that_is_not_offered_is_refused_with_a_reason() -> None:
    async def scenario() -> None:
        async with world() as made:
            sock, _ = made.open(81)
            await asyncio.sleep(0.1)
            assert is_closed(sock)
            assert made.log.answers == [
                (1, Code.NOT_OFFERED, "port 81 is not exposed; exposed: 80")
            ]
            assert made.log.refused == [(1, Code.NOT_OFFERED, made.log.answers[0][2])]

    run(scenario())


def test_a_target_that_is_down() -> None:
    async def scenario() -> None:
        async with world() as made:
            made.server.close()
            sock, _ = made.open()
            await asyncio.sleep(0.1)
            assert is_closed(sock)
            ((_, code, reason),) = made.log.answers
            assert code == Code.REFUSED
            assert "is the service running" in reason

    run(scenario())


def test_a_shut_down_exposer_takes_no_more() -> None:
    async def scenario() -> None:
        async with world() as made:
            made.exposer_session.closing = True
            made.exposer_session.say_bye("maintenance")
            sock, _ = made.open()
            await asyncio.sleep(0.1)
            sock.close()
            assert made.log.answers[0][1] == Code.CLOSING
            assert made.session.bye == "maintenance"

    run(scenario())


def test_a_peer_that_breaks_the_control_stream_loses_its_path_not_its_streams() -> None:
    async def scenario() -> None:
        for broken in (b"\0\0\1", b"\xff\xff\1", wire.control(Control.ACK, b"12345")):
            async with world() as made:
                sock, _ = made.open()
                sock.send(b"before")
                await asyncio.sleep(0.5)
                made.session._send(broken)
                made.session.connection.link.flush()
                await asyncio.sleep(2)
                assert len(made.paths) == 2
                sock.send(b"after")
                await asyncio.sleep(1)
                (pump,) = made.exposer_session.pumps.values()
                assert pump.bytes_out == len(b"beforeafter")
                sock.close()
                await made.settled()

    run(scenario())


def test_messages_of_a_later_version_are_passed_over() -> None:
    async def scenario() -> None:
        async with world() as made:
            made.session._send(wire._HEAD.pack(5, 99) + b"what")
            made.session.connection.link.flush()
            await asyncio.sleep(1)
            assert len(made.paths) == 1

    run(scenario())


def test_many_at_once() -> None:
    """More than may wait for the muxer's acknowledgement."""

    async def scenario() -> None:
        async with world() as made:
            socks = [made.open()[0] for _ in range(400)]
            for sock in socks:
                sock.send(b"hello")
                sock.shutdown(1)
            await made.settled()
            assert [code for _, code, _ in made.log.answers] == [Code.OK] * 400
            for sock in socks:
                assert sock.recv(1) == b""
                sock.close()

    run(scenario())
