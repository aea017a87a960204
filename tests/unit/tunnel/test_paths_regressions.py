"""Sessions, paths and pumps: what once lost bytes, hung or broke neighbours."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque

import pytest

from pt.errors import PtError
from pt.tunnel import authenticate
from pt.tunnel.core import messages as wire
from pt.tunnel.core.messages import Code
from pt.tunnel.core.replay import Ledger
from pt.tunnel.session import TunnelSession
from tests.unit.tunnel.loopback import PSK, Loopback, listener, loopback, read_all, until


def full_target() -> tuple[socket.socket, list[socket.socket]]:
    """A listener whose queue is full: connecting to it takes for ever."""
    server = listener(0)
    queued = []
    for _ in range(4):
        sock = socket.socket()
        sock.setblocking(False)
        if sock.connect_ex(server.getsockname()) not in (0, errno.EINPROGRESS):
            raise AssertionError
        queued.append(sock)
    return server, queued


def test_a_target_dial_that_is_given_up_leaves_no_descriptor_with_the_loop() -> None:
    """The next socket of the same number could not be watched any more."""

    async def run(rig: Loopback) -> None:
        await rig.authenticate()
        client = rig.open()
        await until(lambda: rig.granted.pumps)
        (pump,) = rig.granted.pumps.values()
        fd = pump.fd
        assert not pump.connected
        client.close()
        rig.session.pumps[1].end("given up", reset=True)
        await until(lambda: not rig.granted.pumps)
        selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
        assert fd not in selector.get_map()

    async def main() -> None:
        async with loopback() as rig:
            rig.service.close()
            rig.service, queued = full_target()
            rig.targets._services = {
                1: type(next(iter(rig.targets._services.values())))(
                    port=1, target_port=rig.service.getsockname()[1]
                )
            }
            rig.targets.ports = (1,)
            await rig.targets.resolve()
            await run(rig)
            for sock in queued:
                sock.close()

    asyncio.run(main())


def test_a_new_path_that_replaces_one_not_known_to_be_dead() -> None:
    """The session without connections was forgotten while it was being attached."""

    async def main() -> None:
        async with loopback() as rig:
            first = await rig.authenticate()
            rig.session.connection = None  # the binder knows, the exposer not yet
            granted = rig.granted
            granted_first = granted.connection
            await rig.attach()
            await until(lambda: granted.connection not in (None, granted_first))
            assert rig.granted is granted
            assert not granted.ended
            assert not first.closed  # the binder may want it again
            client = rig.open()
            service = await rig.accept()
            rig.cut()
            await rig.attach()
            client.send(b"x")
            assert await asyncio.get_running_loop().sock_recv(service, 9) == b"x"
            client.close()
            service.close()

    asyncio.run(main())


@pytest.mark.parametrize("acked", [False, True])
def test_a_path_lost_after_both_ends_of_stream_and_before_delivery(acked: bool) -> None:
    """Whoever received everything may still be handing it to a slow reader; nothing is cut off."""

    async def main() -> None:
        async with loopback() as rig:
            await rig.authenticate()
            client = rig.open()
            service = await rig.accept()
            await until(lambda: rig.answers)
            pumps = [rig.session.pumps[1], rig.granted.pumps[1]]
            for sock in (client, service, *(pump.sock for pump in pumps)):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
            data = bytes(range(256)) * 800  # fits one window, and no socket's buffer
            await asyncio.gather(_send_all(client, data), _send_all(service, data))
            await until(lambda: all(pump.remote_eof for pump in pumps))
            assert all(pump._backlog for pump in pumps)
            if acked:
                await until(lambda: all(pump.replay.done for pump in pumps))
            rig.cut()
            await rig.attach()
            await asyncio.sleep(0.02)
            assert await read_all(client) == data
            assert await read_all(service) == data
            await until(lambda: not rig.session.pumps and not rig.granted.pumps)
            assert {reason for _, _, reason in rig.forgotten} == {""}
            client.close()
            service.close()

    asyncio.run(main())


def test_a_path_lost_when_one_end_is_done_and_the_other_is_not() -> None:
    """The exposer has forgotten the connection while the binder's program reads slowly."""

    async def main() -> None:
        async with loopback() as rig:
            await rig.authenticate()
            client = rig.open()
            service = await rig.accept()
            await until(lambda: rig.answers)
            for sock in (client, rig.session.pumps[1].sock):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
            data = bytes(range(256)) * 800
            client.shutdown(socket.SHUT_WR)
            assert await read_all(service) == b""
            await _send_all(service, data)
            await until(lambda: not rig.granted.pumps)
            assert rig.session.pumps[1]._backlog
            granted = rig.granted
            rig.session.connection.link.lose("cut", abort=True)  # type: ignore[union-attr]
            rig.gate.sessions[rig.session.id] = granted  # a real exposer waits as long as binders
            granted.ended = False
            await until(lambda: granted.connection is None)
            rig.gate.sessions[rig.session.id] = granted
            granted.ended = False
            await rig.attach()
            await asyncio.sleep(0.02)
            assert await read_all(client) == data
            await until(lambda: not rig.session.pumps)
            client.close()
            service.close()

    asyncio.run(main())


async def _send_all(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)
    sock.shutdown(socket.SHUT_WR)


def test_an_open_that_was_lost_may_come_after_newer_ones() -> None:
    async def main() -> None:
        async with loopback() as rig:
            await rig.authenticate()
            assert rig.session.connection is not None
            rig.session.connection.link._blocked = True  # what is said now never arrives
            first = rig.open()
            rig.cut()
            second = rig.open()  # without a path
            await rig.attach()
            for client in (first, second):
                client.send(b"x")
            services = [await rig.accept(), await rig.accept()]
            loop = asyncio.get_running_loop()
            assert [await loop.sock_recv(sock, 9) for sock in services] == [b"x", b"x"]
            assert len(rig.session.pumps) == 2
            for sock in (first, second, *services):
                sock.close()

    asyncio.run(main())


class _Pump:
    def __init__(self, session: TunnelSession) -> None:
        self.session = session
        self.calls = 0

    def ledger_ready(self) -> None:
        self.calls += 1
        self.session._wake_ledger()  # as the end of a connection does


def test_a_connection_that_ends_while_others_are_woken() -> None:
    session = TunnelSession.__new__(TunnelSession)
    session.ledger = Ledger(10)
    pumps = [_Pump(session) for _ in range(3)]
    session.ledger_waiters = deque(pumps)  # type: ignore[arg-type]
    session._wake_ledger()
    assert [pump.calls for pump in pumps] == [1, 1, 1]


def test_acknowledgements_go_on_once_the_control_stream_has_room() -> None:
    """Credit that comes before the window was empty wakes nobody: a timer has to."""

    async def main() -> None:
        async with loopback() as rig:
            await rig.authenticate()
            client = rig.open()
            service = await rig.accept()
            control = rig.granted._control
            assert control is not None
            window, control.send_window = control.send_window, 1000
            client.send(b"x")
            pump = rig.session.pumps[1]
            await asyncio.sleep(0.1)
            assert pump.replay.keeps
            control.send_window = window
            await until(lambda: not pump.replay.keeps)
            client.close()
            service.close()

    asyncio.run(main())


def test_a_second_session_on_one_connection_leaves_nothing_behind() -> None:
    async def main() -> None:
        async with loopback() as rig:
            connection = await rig.authenticate()
            with pytest.raises(PtError):
                await authenticate.ask_session(connection, PSK)
            assert list(rig.gate.sessions.values()) == [rig.granted]
            assert not connection.closed

    asyncio.run(main())


def test_guesses_are_counted_before_they_are_made() -> None:
    """Ten proofs may fail within a minute, also when hundreds are under way at once."""

    async def main() -> None:
        async with loopback() as rig:
            connection = await rig.dial()

            async def guess() -> bool:
                try:
                    await authenticate.ask_session(connection, b"x" * 32)
                except PtError as error:
                    return "no more attempts" not in str(error)
                return True

            tried = await asyncio.gather(*(guess() for _ in range(60)))
            assert sum(tried) <= 10

    asyncio.run(main())


def test_broken_off_authentications_are_no_guesses() -> None:
    async def main() -> None:
        async with loopback() as rig:
            for _ in range(12):
                connection = await rig.dial()
                stream = await connection.open_stream((wire.PROTOCOL,))
                await stream.write(bytes((wire.SESSION_KIND,)))
                await asyncio.sleep(0.005)
                connection.close()
            await asyncio.sleep(0.05)
            await rig.authenticate()

    asyncio.run(main())


def test_streams_of_refused_resumes_do_not_pile_up() -> None:
    async def main() -> None:
        async with loopback() as rig:
            await rig.authenticate()
            clients = [rig.open() for _ in range(5)]
            services = [await rig.accept() for _ in range(5)]
            await until(lambda: len(rig.answers) == 5)
            for pump in list(rig.session.pumps.values()):
                pump.local_eof = pump.remote_eof = pump.write_closed = True
                pump.replay.append_fin()
            granted = rig.granted
            rig.cut()
            for pump in list(granted.pumps.values()):
                pump.end("over", reset=False)
            connection = await rig.attach()
            await until(lambda: not rig.session.pumps)
            await until(lambda: len(connection.link.session.streams) <= 2)
            for sock in (*clients, *services):
                sock.close()

    asyncio.run(main())


def test_the_answer_to_a_resume_that_cannot_be_true_ends_one_connection_only() -> None:
    async def main() -> None:
        async with loopback() as rig:
            connection = await rig.authenticate()
            client = rig.open()
            service = await rig.accept()
            pump = rig.session.pumps[1]
            pump.opened = False
            pump.replay.acked = pump.replay.end = pump.replay.sent = 5
            rig.session.answered(pump, Code.UNKNOWN, 0, "")  # type: ignore[arg-type]
            assert 1 not in rig.session.pumps
            assert not connection.closed
            client.close()
            service.close()

    asyncio.run(main())
