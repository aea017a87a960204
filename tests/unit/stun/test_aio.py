"""The client on asyncio, on loopback; and over TCP."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import pytest

from pt.aio.udp import UdpPort
from pt.errors import NetworkError, RefusedError, WaitTimeoutError
from pt.lab.netns import Lan
from pt.stun import aio as module
from pt.stun.aio import Explorer, StunClient, bind_over_tcp, source_address
from pt.stun.attributes import error_code
from pt.stun.discovery import Wishes
from pt.stun.messages import BINDING, Kind, StunError, decode, encode
from pt.stun.server import PRIMARY, Server
from pt.stun.transactions import Schedule

HERE = ("127.0.0.1", 0)
SHORT = Schedule((0.0, 0.02), 0.1)


class Rig:
    """A server, and a client on a port of its own; `answer` may be replaced."""

    def __init__(self) -> None:
        self.server_port = UdpPort(HERE)
        self.server = Server({PRIMARY: self.server_port.address})
        self.server_port.received = self._asked
        self.port = UdpPort(HERE)
        self.client = StunClient(self.port.send)
        self.strange: list[bytes] = []
        self.port.received = self._received

    @property
    def address(self):
        return self.server_port.address

    def _asked(self, data, source) -> None:
        answer = self.server.receive(data, source, PRIMARY, 0.0)
        if answer is not None:
            self.server_port.send(answer.data, answer.to)

    def _received(self, data, source) -> None:
        if not self.client.received(data, source):
            self.strange.append(data)

    def close(self) -> None:
        self.client.close()
        self.port.close()
        self.server_port.close()


def rigged(test):
    def run():
        async def main() -> None:
            rig = Rig()
            try:
                await test(rig)
            finally:
                rig.close()

        asyncio.run(main())

    run.__name__ = test.__name__
    return run


@rigged
async def test_a_binding(rig):
    found = await rig.client.binding(rig.address)
    assert found.mapped == rig.port.address
    assert found.source == found.origin == rig.address
    assert found.other is None
    assert 0 < found.rtt < 2


@rigged
async def test_other_datagrams_are_left_to_their_owner(rig):
    rig.server_port.send(b"not STUN", rig.port.address)
    await rig.client.binding(rig.address)
    assert rig.strange == [b"not STUN"]


@rigged
async def test_many_at_once(rig):
    found = await asyncio.gather(*(rig.client.binding(rig.address) for _ in range(20)))
    assert {each.mapped for each in found} == {rig.port.address}


@rigged
async def test_silence(rig):
    rig.server_port.received = None
    with pytest.raises(WaitTimeoutError, match="does not answer"):
        await rig.client.binding(rig.address, schedule=SHORT)


@rigged
async def test_a_refusal(rig):
    def refuse(data, source) -> None:
        error = error_code(500, "Broken")
        answer = encode(Kind.ERROR, BINDING, decode(data).transaction, [error])
        rig.server_port.send(answer, source)

    rig.server_port.received = refuse
    with pytest.raises(RefusedError, match="500 Broken"):
        await rig.client.binding(rig.address)


@rigged
async def test_nonsense(rig):
    def empty(data, source) -> None:
        rig.server_port.send(encode(Kind.SUCCESS, BINDING, decode(data).transaction), source)

    rig.server_port.received = empty
    with pytest.raises(StunError, match="makes sense"):
        await rig.client.binding(rig.address)


@rigged
async def test_a_caller_that_goes_away(rig):
    rig.server_port.received = None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await rig.client.ask(rig.address)
    assert not rig.client._table


@contextlib.asynccontextmanager
async def over_tcp(answer):
    """A TCP server's address; its connections have ended when this does."""
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader, writer) -> None:
        serving.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await answer(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()
    await asyncio.gather(*serving)


async def one_answer(reader, writer) -> None:
    data = await reader.readexactly(28)
    source = writer.get_extra_info("peername")
    answer = Server({}).receive(data, source, PRIMARY, 0.0, stream=True)
    assert answer is not None
    for at in range(0, len(answer.data), 7):
        writer.write(answer.data[at : at + 7])
        await writer.drain()


def test_over_tcp():
    async def main() -> None:
        async with over_tcp(one_answer) as address, over_tcp(one_answer) as other:
            found, local = await bind_over_tcp(address)
            assert found.mapped == local
            found, again = await bind_over_tcp(other, local=local)
            assert found.mapped == local == again

    asyncio.run(main())


def test_over_tcp_without_knowing_from_where(monkeypatch):
    async def main() -> None:
        monkeypatch.setattr(module, "source_address", lambda _: None)
        async with over_tcp(one_answer) as address:
            found, local = await bind_over_tcp(address)
            assert found.mapped == local

    asyncio.run(main())


CROWDED = """
import asyncio, contextlib, socket
from pathlib import Path
from pt.stun.aio import bind_over_tcp
from tests.unit.stun.test_aio import one_answer, over_tcp

async def main():
    async with over_tcp(one_answer) as address, over_tcp(one_answer) as other:
        sink = socket.create_server(("127.0.0.1", 0))
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40031")
        with sink, contextlib.ExitStack() as stack:
            for _ in range(24):  # of 32 ports, each of which serves one destination once
                stack.enter_context(socket.create_connection(sink.getsockname()))
            for _ in range(4):
                _, local = await bind_over_tcp(address)
                assert (await bind_over_tcp(other, local=local))[1] == local

asyncio.run(main())
"""


@pytest.mark.netns
def test_over_tcp_from_a_port_that_nobody_shares():
    """The system lets connections to different servers leave from one port, but none join later."""
    with Lan(hosts=1) as lan:
        done = lan.hosts[0].run([sys.executable, "-c", CROWDED], check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_discovery_over_udp():
    async def main() -> None:
        port = UdpPort(HERE)
        server = Server({PRIMARY: port.address})

        def asked(data, source) -> None:
            answer = server.receive(data, source, PRIMARY, 0.0)
            port.send(answer.data, answer.to)

        port.received = asked
        explorer = Explorer()
        found = await explorer.discover([port.address], Wishes(mtu=True))
        assert found.facts.works
        assert found.facts.translated is False
        assert found.local == found.binding.mapped
        assert found.mtu == 1500  # the longest that is tried
        explorer.close()

        shared = UdpPort(HERE)
        explorer = Explorer(shared.send, port=shared.address[1])
        shared.received = explorer.received
        found = await explorer.discover([port.address], Wishes(mtu=False))
        assert found.local == found.binding.mapped == shared.address
        explorer.close()
        shared.send(b"?", port.address)  # it is still open
        shared.close()
        port.close()

    asyncio.run(main())


def test_discovery_without_a_route_or_an_answer(monkeypatch):
    async def main() -> None:
        explorer = Explorer()
        silent = UdpPort(HERE)
        found = await explorer.discover([silent.address], Wishes(schedule=SHORT))
        assert found.facts.works is None
        assert found.silent == (silent.address,)
        monkeypatch.setattr("pt.stun.aio.source_address", lambda _: None)
        with pytest.raises(NetworkError, match="no route for IPv4"):
            await explorer.discover([silent.address], Wishes())
        explorer.close()
        silent.close()

    asyncio.run(main())


def test_discovery_that_is_cancelled_leaves_nothing():
    async def main() -> None:
        explorer = Explorer()
        silent = UdpPort(HERE)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await explorer.discover([silent.address], Wishes())
        explorer.close()
        silent.close()
        await asyncio.sleep(0)

    asyncio.run(main())


def test_source_addresses():
    assert source_address(("127.0.0.1", 9)) == "127.0.0.1"
    assert source_address(("::1", 9)) == "::1"


async def closes(reader, writer) -> None:
    await reader.readexactly(28)


async def waits(reader, writer) -> None:
    await reader.read()


async def babbles(reader, writer) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n")
    await reader.read()


@pytest.mark.parametrize(
    ("answer", "error"), [(closes, NetworkError), (waits, WaitTimeoutError), (babbles, StunError)]
)
def test_over_tcp_to_something_else(answer, error):
    async def main() -> None:
        async with over_tcp(answer) as address:
            with pytest.raises(error):
                await bind_over_tcp(address, timeout=0.2)

    asyncio.run(main())


def test_over_tcp_to_nobody():
    async def main() -> None:
        async with over_tcp(closes) as address:
            pass
        with pytest.raises(NetworkError, match="refused"):
            await bind_over_tcp(address)

    asyncio.run(main())
