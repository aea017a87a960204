"""A relay as a STUN server: alone, with two addresses, and with another relay."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from pt.aio.udp import UdpPort
from pt.errors import UsageError
from pt.node.nat_tcp import discover_tcp
from pt.node.nat_tcp_lifetime import TcpLifetime, measure_tcp_lifetime
from pt.relayd import events, stun
from pt.relayd.config import STUN_PORT, RelayConfig
from pt.relayd.stun import SharedPort
from pt.stun.aio import StunClient, bind_over_tcp
from pt.stun.attributes import (
    CONNECT_BACK,
    LATER,
    PADDING,
    Change,
    change_request,
    later,
    response_port,
)
from pt.stun.binding import read_binding
from pt.stun.messages import BINDING, Kind, decode, encode
from pt.stun.transactions import Schedule
from pt.tunnel.events import Warned
from pt.wire.multiaddr import Multiaddr
from pt.wire.nat_facts import Dependence
from tests.unit.relayd.lab import Lab, lab

SHORT = Schedule((0.0, 0.05), 0.3)
SECRET = "the secret of two relays"


@pytest.fixture(autouse=True)
def second_port(monkeypatch):
    """As though the first port's neighbour were the usual second one: tests run side by side."""
    original = RelayConfig._check

    def check(self) -> None:
        original(self)
        first = self.listen[0].tcp_port
        if first and self.stun_port == STUN_PORT:
            self.__dict__["stun_port"] = first + 1

    monkeypatch.setattr(RelayConfig, "_check", check)


def free_pair(*hosts: str) -> int:
    """A port number that is free, as is the next one, for TCP and UDP on all of `hosts`."""
    for _ in range(100):
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.create_server((hosts[0], 0))).getsockname()[1]
            try:
                for host in hosts:
                    for port in (first, first + 1):
                        if (host, port) != (hosts[0], first):
                            stack.enter_context(socket.create_server((host, port)))
                        udp = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                        udp.bind((host, port))
            except (OSError, OverflowError):
                continue
            return first
    raise AssertionError("no two ports in a row")


def listening(*hosts: str, port: int) -> tuple[Multiaddr, ...]:
    return tuple(Multiaddr.tcp(host, port) for host in hosts)


class Client:
    """A socket of its own, and what is asked from it."""

    def __init__(self) -> None:
        self.port = UdpPort(("127.0.0.1", 0))
        self.client = StunClient(self.port.send)
        self.port.received = self.client.received

    async def ask(self, server, *attributes):
        return await self.client.ask(server, attributes=attributes, schedule=SHORT, elsewhere=True)

    async def binding(self, server, *attributes):
        return read_binding(await self.ask(server, *attributes))

    def close(self) -> None:
        self.client.close()
        self.port.close()


@contextlib.asynccontextmanager
async def client():
    made = Client()
    try:
        yield made
    finally:
        made.close()


def test_it_serves_on_the_overlays_port(tmp_path: Path):
    async def main() -> None:
        async with lab(tmp_path) as made, client() as user:
            (ready,) = made.of(events.RelayReady)
            assert ready.stun == ready.overlay
            (address,) = ready.stun
            server = (address.host[1], address.udp_port)
            found = await user.binding(server)
            assert found.mapped == user.port.address
            assert found.origin == server
            assert found.other is None
            assert found.software.startswith("pt")
            assert made.relay.snapshot().stun == {"answered": 1}

    asyncio.run(main())


def test_and_without_the_overlay(tmp_path: Path):
    async def main() -> None:
        async with lab(tmp_path, overlay=False) as made, client() as user:
            (ready,) = made.of(events.RelayReady)
            assert ready.overlay == ()
            address = ready.stun[0]
            assert await user.binding((address.host[1], address.udp_port))
        async with lab(tmp_path, stun=False) as made, client() as user:
            (ready,) = made.of(events.RelayReady)
            assert ready.stun == ()
            assert made.relay.snapshot().stun is None
            address = ready.overlay[0]
            assert not await user.binding((address.host[1], address.udp_port))

    asyncio.run(main())


def test_the_second_port_answers_too(tmp_path: Path):
    async def main() -> None:
        port = free_pair("127.0.0.1")
        async with lab(tmp_path, listen=listening("127.0.0.1", port=port)), client() as user:
            found = await user.binding(("127.0.0.1", port), change_request(Change(False, True)))
            assert found.source == ("127.0.0.1", port + 1)
            assert (await user.binding(("127.0.0.1", port + 1))).source[1] == port + 1
            refused = await user.ask(("127.0.0.1", port), change_request(Change(True, False)))
            assert refused.error[0] == 420

    asyncio.run(main())


def test_two_addresses_of_the_host(tmp_path: Path):
    async def main() -> None:
        hosts = ("127.0.0.1", "127.0.0.2")
        port = free_pair(*hosts)
        async with lab(tmp_path, listen=listening(*hosts, port=port)), client() as user:
            found = await user.binding((hosts[0], port))
            assert found.other == (hosts[1], port + 1)
            for host, other in (hosts, hosts[::-1]):
                for at, change in ((port, port + 1), (port + 1, port)):
                    for wish in (Change(True, False), Change(True, True), Change(False, True)):
                        answer = await user.binding((host, at), change_request(wish))
                        expected = other if wish.ip else host, change if wish.port else at
                        assert answer.source == answer.origin == expected
            assert await user.binding((hosts[0], port), response_port(user.port.address[1]))

    asyncio.run(main())


def test_padding_makes_long_answers(tmp_path: Path):
    async def main() -> None:
        async with lab(tmp_path) as made, client() as user:
            address = made.of(events.RelayReady)[0].stun[0]
            server = (address.host[1], address.udp_port)
            outcome = await user.ask(server, (PADDING, bytes(1500)))
            assert len(outcome.response.raw) > 1500

    asyncio.run(main())


@contextlib.asynccontextmanager
async def two_relays(tmp_path: Path, secrets=(SECRET, SECRET), ports=(STUN_PORT, STUN_PORT)):
    hosts = ("127.0.0.1", "127.0.0.2")
    port = free_pair(*hosts)
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for host, other, secret, second in zip(hosts, hosts[::-1], secrets, ports, strict=True):
            options = {
                "listen": listening(host, port=port),
                "stun_peers": listening(other, port=port),
                "stun_secret": secret,
                "stun_port": second,
            }
            made.append(await stack.enter_async_context(lab(tmp_path / host, **options)))
        yield (*made, port)


async def heard(one: Lab) -> None:
    await one.until(lambda: one.of(events.StunPeer))


def test_two_relays_answer_for_each_other(tmp_path: Path):
    async def main() -> None:
        async with two_relays(tmp_path) as (one, two, port), client() as user:
            await heard(one)
            await heard(two)
            assert one.of(events.StunPeer)[0].answers
            for here, there in (("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1")):
                assert (await user.binding((here, port))).other == (there, port + 1)
                for wish in (Change(True, False), Change(True, True), Change(False, True)):
                    found = await user.binding((here, port), change_request(wish))
                    host = there if wish.ip else here
                    assert found.source == (host, port + wish.port)
                    assert found.mapped == user.port.address
            counts = one.relay.snapshot().stun
            assert counts["other relay, forwarded"] == 2
            assert counts["other relay, sent for the other"] == 2

    asyncio.run(main())


def test_two_relays_with_different_secrets(tmp_path: Path):
    async def main() -> None:
        secrets = (SECRET, "another secret of two relays")
        async with two_relays(tmp_path, secrets) as (one, _, port), client() as user:
            reason = "other relay, dropped: not the other server"
            async with asyncio.timeout(10):
                while not one.relay.snapshot().stun.get(reason):
                    await asyncio.sleep(0.01)
            assert (await user.binding(("127.0.0.1", port))).other is None
            refused = await user.ask(("127.0.0.1", port), change_request(Change(True, False)))
            assert refused.error[0] == 420
            assert one.of(events.StunPeer) == []

    asyncio.run(main())


def test_two_relays_with_different_second_ports(tmp_path: Path):
    async def main() -> None:
        other = free_pair("127.0.0.1", "127.0.0.2")
        async with (
            two_relays(tmp_path, ports=(STUN_PORT, other)) as (one, _, port),
            client() as user,
        ):
            await heard(one)
            assert f"ports {port} and {other}, this" in one.of(Warned)[0].message
            assert (await user.binding(("127.0.0.1", port))).other is None

    asyncio.run(main())


def test_a_second_port_that_is_taken(tmp_path: Path):
    async def main() -> None:
        port = free_pair("127.0.0.1")
        held = UdpPort(("127.0.0.1", port + 1))
        listen = listening("127.0.0.1", port=port)
        async with lab(tmp_path, listen=listen) as made, client() as user:
            assert "--stun-port" in made.of(Warned)[0].message
            assert await user.binding(("127.0.0.1", port))
            wish = change_request(Change(False, True))
            assert (await user.ask(("127.0.0.1", port), wish)).error[0] == 420
        held.close()

    asyncio.run(main())


def test_another_address_than_those_two_is_served_plainly(tmp_path: Path):
    async def main() -> None:
        hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
        port = free_pair(*hosts)
        async with lab(tmp_path, listen=listening(*hosts, port=port)), client() as user:
            found = await user.binding((hosts[2], port))
            assert (found.source, found.origin, found.other) == ((hosts[2], port), None, None)

    asyncio.run(main())


def test_over_tcp(tmp_path: Path):
    async def main() -> None:
        hosts = ("127.0.0.1", "127.0.0.2")
        port = free_pair(*hosts)
        async with lab(tmp_path, listen=listening(*hosts, port=port)):
            for at in (port, port + 1):
                found, local = await bind_over_tcp((hosts[0], at))
                assert found.mapped == local
                assert found.origin == (hosts[0], at)
                assert found.other == (hosts[1], 2 * port + 1 - at)

    asyncio.run(main())


def test_it_connects_to_who_asks_for_it(tmp_path: Path):
    async def main() -> None:
        hosts = ("127.0.0.1", "127.0.0.2")
        port = free_pair(*hosts)
        async with lab(tmp_path, listen=listening(*hosts, port=port)):
            for host in hosts:
                found = await discover_tcp((host, port))
                assert found.facts.filtering is Dependence.INDEPENDENT
                assert len(found.mapped) == 4

    asyncio.run(main())


def test_two_relays_connect_for_each_other(tmp_path: Path):
    async def main() -> None:
        async with two_relays(tmp_path) as (one, two, port):
            await heard(one)
            await heard(two)
            found = await discover_tcp(("127.0.0.1", port))
            assert found.facts.filtering is Dependence.INDEPENDENT
            assert two.relay.snapshot().stun["other relay, sent for the other"] == 1

    asyncio.run(main())


def test_without_another_address_what_is_let_in_over_tcp_is_not_known(tmp_path: Path):
    async def main() -> None:
        port = free_pair("127.0.0.1")
        async with lab(tmp_path, listen=listening("127.0.0.1", port=port)):
            found = await discover_tcp(("127.0.0.1", port))
        assert found.facts.works
        assert found.facts.filtering is Dependence.UNKNOWN

    asyncio.run(main())


def test_connections_are_few(tmp_path: Path):
    async def main() -> None:
        hosts = ("127.0.0.1", "127.0.0.2")
        port = free_pair(*hosts)
        async with lab(tmp_path, listen=listening(*hosts, port=port)):
            with socket.create_server(("127.0.0.1", 0), reuse_port=True) as listener:
                listener.setblocking(False)
                loop = asyncio.get_running_loop()
                wish = (CONNECT_BACK, change_request(Change(True, True))[1])
                request = encode(Kind.REQUEST, BINDING, bytes(12), [wish])
                with socket.socket() as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    sock.bind(listener.getsockname())
                    sock.connect(("127.0.0.1", port))
                    sock.setblocking(False)
                    await loop.sock_sendall(sock, request * 8)
                    callers = []
                    with contextlib.suppress(TimeoutError):
                        while True:
                            async with asyncio.timeout(0.5):
                                caller, name = await loop.sock_accept(listener)
                            caller.close()
                            callers.append(name)
            assert {name[1] for name in callers} == {port + 1}
            assert 2 <= len(callers) <= 8

    asyncio.run(main())


@pytest.mark.parametrize("second", [0, 1])
def test_it_says_something_later_over_either_port(tmp_path: Path, second: int, monkeypatch):
    monkeypatch.setattr(stun, "STREAM_LIFE", 0.1)  # and it is held for longer than others

    async def main() -> None:
        port = free_pair("127.0.0.1")
        async with lab(tmp_path, listen=listening("127.0.0.1", port=port)) as made:
            server = ("127.0.0.1", port + second)
            found = await measure_tcp_lifetime(server, (0.05, 0.15, 0.3), 0.0, 2.0)
            assert found == TcpLifetime(0.3)
            assert made.relay.snapshot().stun == {"answered": 3}

    asyncio.run(main())


def test_who_speaks_or_goes_is_not_held(tmp_path: Path):
    async def main() -> None:
        port = free_pair("127.0.0.1")
        request = encode(Kind.REQUEST, BINDING, bytes(12), [later(60.0)])
        async with lab(tmp_path, listen=listening("127.0.0.1", port=port)) as made:
            held = made.relay._stun._held
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(10):
                answer = decode(await say(port, request, end=True))
                assert answer.get(LATER) == later(60.0)[1]
                assert len(held) == 0
                with socket.create_connection(("127.0.0.1", port)) as sock:
                    sock.setblocking(False)
                    await loop.sock_sendall(sock, request)
                    await loop.sock_recv(sock, 100)
                    assert len(held) == 1
                    await loop.sock_sendall(sock, b"x")
                    assert await loop.sock_recv(sock, 100) == b""
                    assert len(held) == 0
                last = socket.create_connection(("127.0.0.1", port))
                last.setblocking(False)
                await loop.sock_sendall(last, request)
                await loop.sock_recv(last, 100)
                assert len(held) == 1
        last.close()
        assert len(held) == 0  # the relay's end is theirs

    asyncio.run(main())


async def say(port: int, data: bytes, *, end: bool = False) -> bytes:
    """What a TCP connection brings until the other side closes it."""
    loop = asyncio.get_running_loop()
    answers = b""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setblocking(False)
        await loop.sock_sendall(sock, data)
        if end:
            sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while part := await loop.sock_recv(sock, 65536):
                answers += part
    return answers


@pytest.mark.parametrize("second", [False, True])
def test_a_tcp_connection_has_so_many_requests(tmp_path: Path, second: bool):
    async def main() -> None:
        port = free_pair("127.0.0.1")
        async with lab(tmp_path, listen=listening("127.0.0.1", port=port)):
            requests = encode(Kind.REQUEST, BINDING, bytes(12)) * 40
            answers = await say(port + second, requests)
            assert answers.count(b"\x01\x01\x00") == 16

    asyncio.run(main())


@pytest.mark.parametrize("begun", [b"\0", b"\0\1", b"\0\1" + bytes(40), b"\0pt-raw\1" + bytes(32)])
def test_tcp_connections_that_say_something_else_end(tmp_path: Path, begun: bytes):
    async def main() -> None:
        port = free_pair("127.0.0.1")
        async with lab(tmp_path, listen=listening("127.0.0.1", port=port)):
            assert await say(port, begun, end=True) == b""

    asyncio.run(main())


def test_a_relay_behind_a_nat_tells_its_announced_address(tmp_path: Path):
    async def main() -> None:
        announce = (Multiaddr.parse("/ip4/11.0.0.7/tcp/4001"),)
        async with lab(tmp_path, announce=announce) as made, client() as user:
            assert [each.host[1] for each in made.of(events.RelayReady)[0].stun] == ["11.0.0.7"]
            udp = made.of(events.RelayReady)[0].stun[0].udp_port
            found = await user.binding(("127.0.0.1", udp))
            assert found.origin == ("11.0.0.7", udp)

    asyncio.run(main())


def test_a_reload_tells_what_needs_a_restart(tmp_path: Path):
    async def main() -> None:
        async with lab(tmp_path) as made:
            made.relay.reload(RelayConfig(listen=made.config.listen, stun=False))
            assert made.of(events.RelayReloaded)[0].ignored == ("stun",)

    asyncio.run(main())


def test_the_rest_of_the_port_is_for_others():
    async def main() -> None:
        port, other = UdpPort(("127.0.0.1", 0)), UdpPort(("127.0.0.1", 0))
        stun, rest = [], []
        shared = SharedPort(port, lambda data, _: stun.append(data))
        shared.received = lambda data, _: rest.append(data)
        request = encode(Kind.REQUEST, BINDING, bytes(12))
        got = asyncio.Event()
        other.received = lambda *_: got.set()
        for data in (request, b"\0something else", b"\x40" + request[1:]):
            other.send(data, port.address)
        shared.send(b"back", other.address)
        async with asyncio.timeout(5):
            await got.wait()
            while len(stun) + len(rest) < 3:
                await asyncio.sleep(0)
        assert stun == [request]
        assert rest == [b"\0something else", b"\x40" + request[1:]]
        shared.close()
        port.close()
        other.close()

    asyncio.run(main())


PEER = (Multiaddr.parse("/ip4/11.0.0.1/tcp/4001"),)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"stun_port": 65536}, "port number"),
        ({"stun_peers": PEER}, "--stun-secret-file"),
        ({"stun_secret": SECRET}, "--stun-peer"),
        ({"stun_peers": PEER, "stun_secret": "short"}, "--make-secret"),
        ({"stun_peers": PEER, "stun_secret": SECRET, "stun": False}, "needs STUN"),
        ({"stun_peers": PEER * 2, "stun_secret": SECRET}, "one of each"),
        (
            {"stun_peers": (Multiaddr.parse("/dns4/a.example/tcp/1"),), "stun_secret": SECRET},
            "IP address",
        ),
    ],
)
def test_what_makes_no_sense(options, why):
    with pytest.raises(UsageError, match=why):
        RelayConfig(**options)


def test_secrets_are_not_shown():
    config = RelayConfig(stun_peers=PEER, stun_secret=SECRET)
    assert SECRET not in repr(config)
