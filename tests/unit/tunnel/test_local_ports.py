from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from pt.aio import tcp
from pt.errors import LocalPortError
from pt.tunnel.config import Forward
from pt.tunnel.local_ports import ACCEPT_BURST, RETRY_ACCEPT, LocalPorts
from tests.sim.loop import run


class Taker:
    def __init__(self) -> None:
        self.taken: list[tuple[socket.socket, int]] = []
        self.batches = 0
        self.troubles: list[str] = []
        self.ports = LocalPorts(self.take, self.batch, self.troubles.append)

    def take(self, sock: socket.socket, port: int) -> None:
        assert not sock.getblocking()
        self.taken.append((sock, port))

    def batch(self) -> None:
        self.batches += 1

    def close(self) -> None:
        self.ports.close()
        for sock, _ in self.taken:
            sock.close()


def test_connections_come_with_the_port_they_are_for() -> None:
    async def scenario() -> None:
        taker = Taker()
        bound = [taker.ports.listen(Forward(local_port=0, remote_port=port)) for port in (22, 80)]
        assert [port.remote for port in bound] == [22, 80]
        clients = [socket.create_connection((port.host, port.local)) for port in bound]
        await asyncio.sleep(0.1)
        assert sorted(port for _, port in taker.taken) == [22, 80]
        assert taker.batches == 2
        for client in clients:
            client.close()
        taker.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((bound[0].host, bound[0].local))

    run(scenario())


def test_others_get_their_turn() -> None:
    async def scenario() -> None:
        taker = Taker()
        bound = taker.ports.listen(Forward(local_port=0))
        clients = [
            socket.create_connection((bound.host, bound.local)) for _ in range(ACCEPT_BURST + 5)
        ]
        await asyncio.sleep(0.1)
        assert len(taker.taken) == ACCEPT_BURST + 5
        assert taker.batches == 2
        for client in clients:
            client.close()
        taker.close()

    run(scenario())


def test_a_taken_port() -> None:
    async def scenario() -> None:
        taker = Taker()
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(LocalPortError, match=f"port {port} of 127.0.0.1 is in use"):
                taker.ports.listen(Forward(local_port=port))

    run(scenario())


@pytest.mark.parametrize(
    ("number", "match"),
    [(errno.EACCES, "such as --port 8080"), (errno.EADDRNOTAVAIL, "cannot listen on 127.0.0.1")],
)
def test_other_reasons(monkeypatch, number: int, match: str) -> None:
    def fails(host: str, port: int) -> socket.socket:
        raise OSError(number, "reason")

    async def scenario() -> None:
        monkeypatch.setattr(tcp, "listen", fails)
        with pytest.raises(LocalPortError, match=match):
            Taker().ports.listen(Forward(local_port=80))

    run(scenario())


class Exhausted:
    """A listener of a process without descriptors, for a while."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.failures = 1

    def fileno(self) -> int:
        return self.sock.fileno()

    def accept(self):
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self.sock.accept()

    def getsockname(self):
        return self.sock.getsockname()

    def close(self) -> None:
        self.sock.close()


def test_without_descriptors_it_comes_back_in_a_moment(monkeypatch) -> None:
    async def scenario() -> None:
        taker = Taker()
        original = tcp.listen
        monkeypatch.setattr(tcp, "listen", lambda host, port: Exhausted(original(host, port)))
        bound = taker.ports.listen(Forward(local_port=0))
        with socket.create_connection((bound.host, bound.local)):
            await asyncio.sleep(RETRY_ACCEPT / 2)
            assert taker.taken == []
            assert len(taker.troubles) == 1
            assert "ulimit -n" in taker.troubles[0]
            await asyncio.sleep(RETRY_ACCEPT)
            assert len(taker.taken) == 1
        taker.close()

    run(scenario())
