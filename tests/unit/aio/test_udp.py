"""UDP ports on loopback: which address an answer leaves from, and what an end leaves behind."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys

import pytest

from pt.aio import udp
from pt.aio.udp import UdpPort
from pt.errors import LocalPortError
from pt.lab.netns import DEVICE, Lan

HERE = ("127.0.0.1", 0)


class Asker:
    """A socket of its own that waits for one datagram."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.bind((host, 0))
        self.sock.setblocking(False)
        self.address = self.sock.getsockname()[:2]

    async def ask(self, address, data: bytes = b"?"):
        """The answer, and where it came from."""
        loop = asyncio.get_running_loop()
        self.sock.sendto(data, address)
        async with asyncio.timeout(5):
            data, name = await loop.sock_recvfrom(self.sock, 4096)
        return data, name[:2]

    def close(self) -> None:
        self.sock.close()


def echo(port: UdpPort) -> None:
    port.received = port.send


def test_each_socket_answers_from_where_it_was_asked():
    async def main() -> None:
        port = UdpPort(HERE, ("127.0.0.2", 0), HERE)
        echo(port)
        asker = Asker()
        for address in port.addresses * 2:
            assert await asker.ask(address) == (b"?", address)
        assert [address[0] for address in port.addresses] == ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
        port.close()
        asker.close()

    asyncio.run(main())


def test_a_client_opens_what_it_needs():
    async def main() -> None:
        port, server = UdpPort(), UdpPort(HERE)
        echo(server)
        got = asyncio.Event()
        port.received = lambda data, addr: got.set() if addr == server.address else None
        assert port.addresses == []
        port.send(b"?", server.address)
        async with asyncio.timeout(5):
            await got.wait()
        assert len(port.addresses) == 1
        server.send(b"!", ("::1", 9))  # of a family it does not listen on: dropped
        assert len(server.addresses) == 1
        port.close()
        server.close()

    asyncio.run(main())


def test_a_port_that_is_taken_leaves_nothing_open():
    async def main() -> None:
        held = UdpPort(HERE)
        with pytest.raises(LocalPortError, match=f"port {held.address[1]} on 127.0.0.1"):
            UdpPort(HERE, held.address)
        address = held.address
        held.close()
        held.close()
        UdpPort(address).close()  # free again

    asyncio.run(main())


def test_nothing_is_heard_or_said_after_close():
    async def main() -> None:
        port = UdpPort(HERE)
        heard = []

        def received(data, addr) -> None:
            heard.append(data)
            port.close()
            port.send(data, addr)

        port.received = received
        asker = Asker()
        address = port.address
        for data in (b"1", b"2"):
            asker.sock.sendto(data, address)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert heard == [b"1"]
        with pytest.raises(BlockingIOError):
            asker.sock.recv(10)
        asker.close()

    asyncio.run(main())


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(udp, "MAX_PATHS", 3)

    async def main() -> None:
        port = UdpPort(HERE, HERE)
        echo(port)
        for _ in range(5):
            asker = Asker()
            assert await asker.ask(port.addresses[1]) == (b"?", port.addresses[1])
            asker.close()
        assert len(port._paths) == 3
        port.close()

    asyncio.run(main())


def test_one_says_where_it_heard_somebody_and_answers_from_another_address():
    async def main() -> None:
        port = UdpPort(("127.0.0.1", 0), ("127.0.0.2", 0))
        heard = []
        port.received = lambda _, addr: (
            heard.append(port.local_address(addr)),
            port.send_from("127.0.0.1", b"!", addr),
        )
        asker = Asker()
        first, second = port.addresses
        assert await asker.ask(second) == (b"!", first)
        assert heard == [second]
        assert port.local_address(("::1", 9)) is None
        port.send_from("::1", b"!", asker.address)  # not ours: dropped
        port.send_from("127.0.0.3", b"!", asker.address)
        port.close()
        port.send_from("127.0.0.1", b"!", asker.address)
        asker.close()

    asyncio.run(main())


WILDCARD = """
import asyncio, socket, sys
from pt.aio.udp import UdpPort

async def main():
    port = UdpPort(("0.0.0.0", 4001), ("::", 4001))
    def received(data, addr):
        local = port.local_address(addr)
        port.send(data, addr)
        if local[0].startswith("11."):
            port.send_from("11.2.0.1", b"also", addr)
        print(*local)
    port.received = received
    loop = asyncio.get_running_loop()
    for host in sys.argv[1:]:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as asker:
            asker.setblocking(False)
            asker.sendto(host.encode(), (host, 4001))
            async with asyncio.timeout(5):
                data, name = await loop.sock_recvfrom(asker, 99)
            print(name[0], data.decode())
            if host.startswith("11."):
                async with asyncio.timeout(5):
                    data, name = await loop.sock_recvfrom(asker, 99)
                print(name[0], data.decode())
    port.close()

asyncio.run(main())
"""


@pytest.mark.netns
def test_a_wildcard_answers_from_the_address_that_was_asked():
    with Lan(hosts=1) as lan:
        (host,) = lan.hosts
        for address in ("11.1.0.1/24", "11.2.0.1/24", "2a00:11::1/64", "2a00:11::2/64"):
            family = "-6" if ":" in address else "-4"
            dad = ["nodad"] if ":" in address else []
            host.run(["ip", family, "addr", "add", address, "dev", "lo", *dad], check=True)
        asked = ["127.0.0.1", "127.0.0.9", "11.1.0.1", "11.2.0.1", "::1", "2a00:11::2"]
        done = host.run([sys.executable, "-c", WILDCARD, *asked])
        expected = []
        for each in asked:
            expected += [f"{each} 4001", f"{each} {each}"]
            if each.startswith("11."):
                expected.append("11.2.0.1 also")
        assert done.stdout.decode().splitlines() == expected


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_datagram_may_be_told_how_far_to_go(host):
    async def main() -> None:
        port = UdpPort((host, 0))
        asker = Asker(host)
        level, ask, told = socket.IPPROTO_IP, getattr(socket, "IP_RECVTTL", 12), socket.IP_TTL
        if host == "::1":
            level, ask = socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT
            told = socket.IPV6_HOPLIMIT
        asker.sock.setsockopt(level, ask, 1)
        loop = asyncio.get_running_loop()
        hops = []
        for send in (
            lambda: port.send_near(b"x", asker.address, 5),
            lambda: port.send(b"x", asker.address),
        ):
            send()
            ready = asyncio.Event()
            loop.add_reader(asker.sock, ready.set)
            await ready.wait()
            loop.remove_reader(asker.sock)
            _, control, _, _ = asker.sock.recvmsg(10, 100)
            hops += [
                int.from_bytes(data, sys.byteorder) for _, kind, data in control if kind == told
            ]
        assert hops[0] == 5
        assert hops[1] > 5
        port.close()
        port.send_near(b"x", asker.address, 5)  # as if the network had lost it
        asker.close()

    asyncio.run(main())


# --- trains ------------------------------------------------------------------------------------


class Reads:
    """What a port read, and where from; `turns` counts wake-ups."""

    def __init__(self, port: UdpPort) -> None:
        self.got: list[bytes] = []
        self.sizes: list[int] = []
        self.turns = 0
        self.event = asyncio.Event()
        port.use_trains(self._received, self._drained)

    def _received(self, data: bytes, size: int, addr: udp.Address) -> None:
        self.sizes.append(size)
        self.got += [data[at : at + size] for at in range(0, len(data), size)]

    def _drained(self) -> None:
        self.turns += 1
        self.event.set()

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.got) < count:
                self.event.clear()
                await self.event.wait()


@pytest.mark.parametrize("offload", [True, False])
def test_a_train_arrives_datagram_by_datagram(offload: bool) -> None:
    async def main() -> None:
        ours, theirs = UdpPort(HERE), UdpPort(HERE)
        reads = Reads(theirs)
        if not offload:
            ours._no_gso.update(ours._sockets)
        train = [bytes((n,)) * 1200 for n in range(20)] + [b"short"]
        ours.send_train(train, theirs.address)
        ours.send_train([b"alone"], theirs.address)
        await reads.wait(22)
        assert reads.got == [*train, b"alone"]
        assert not ours.full
        ours.close()
        theirs.close()

    asyncio.run(main())


def test_a_full_socket_keeps_the_order_and_says_when_there_is_room(monkeypatch) -> None:
    async def main() -> None:
        ours, theirs = UdpPort(HERE), UdpPort(HERE)
        reads = Reads(theirs)
        room = asyncio.Event()
        ours.on_room = room.set
        real, full = udp._send, [True]

        def send(sock, data, control, addr) -> None:
            if full[0]:
                raise BlockingIOError
            real(sock, data, control, addr)

        monkeypatch.setattr(udp, "_send", send)
        trains = [[bytes((n,)) * 100] * 3 for n in range(4)]
        for train in trains:
            ours.send_train(train, theirs.address)
        assert ours.full
        assert reads.got == []
        full[0] = False
        async with asyncio.timeout(5):
            await room.wait()
        await reads.wait(12)
        assert reads.got == [datagram for train in trains for datagram in train]
        assert not ours.full
        for _ in range(2 * udp.MAX_WAITING):
            full[0] = True
            ours.send_train([b"x"], theirs.address)
        assert len(ours._waiting) == udp.MAX_WAITING
        ours.close()
        theirs.close()

    asyncio.run(main())


def test_a_kernel_without_offload_is_not_asked_again() -> None:
    async def main() -> None:
        ours, theirs = UdpPort(HERE), UdpPort(HERE)
        reads = Reads(theirs)
        too_many = [b"x" * 10] * 200  # more segments than the kernel takes at once
        ours.send_train(too_many, theirs.address)
        await reads.wait(200)
        assert ours._no_gso
        ours.close()
        theirs.close()

    asyncio.run(main())


def test_where_nobody_listens_is_told_and_costs_no_other_datagram() -> None:
    async def main() -> None:
        ours, theirs = UdpPort(HERE), UdpPort(HERE)
        reads = Reads(theirs)
        Reads(ours)
        told: asyncio.Queue[tuple[udp.Address, int]] = asyncio.Queue()
        ours.on_refused = lambda addr, code: told.put_nowait((addr, code))
        nobody = UdpPort(HERE)
        gone = nobody.address
        nobody.close()
        ours.send(b"?", gone)  # its error waits for the next call on the socket,
        ours.send(b"!", theirs.address)  # which is about somebody else
        async with asyncio.timeout(5):
            assert await told.get() == (gone, errno.ECONNREFUSED)
        await reads.wait(1)
        assert reads.got == [b"!"]
        ours.close()
        theirs.close()

    asyncio.run(main())


@pytest.mark.netns
def test_datagrams_that_are_too_long_for_a_while_cost_no_offload() -> None:
    async def main(lan: Lan) -> None:
        a, b = lan.hosts
        with a.inside():
            ours = UdpPort((str(a.ip), 0))
        with b.inside():
            theirs = UdpPort((str(b.ip), 0))
        Reads(ours)
        reads = Reads(theirs)
        train = [bytes((n,)) * 1400 for n in range(10)]
        a.run(["ip", "link", "set", DEVICE, "mtu", "1300"])
        ours.send_train(train, theirs.address)
        assert not ours.full
        ours.send_train([b"short"], theirs.address)
        await reads.wait(1)
        assert reads.got == [b"short"]
        a.run(["ip", "link", "set", DEVICE, "mtu", "1500"])
        ours.send_train(train, theirs.address)
        await reads.wait(11)
        assert reads.got[1:] == train
        assert not ours._no_gso
        ours.close()
        theirs.close()

    with Lan(hosts=2) as lan:
        asyncio.run(main(lan))


def test_what_comes_one_by_one_is_put_together() -> None:
    """As far as it is of one address and one size; order and sizes stay."""

    async def main() -> None:
        theirs = UdpPort(HERE)
        reads = Reads(theirs)
        one, two = Asker(), Asker()
        sent = [b"a" * 100] * 3 + [b"b" * 40] + [b"c" * 100] * 2 + [b"d" * 120] + [b"e" * 120] * 60
        for datagram in sent:
            one.sock.sendto(datagram, theirs.address)
        two.sock.sendto(b"f" * 120, theirs.address)
        await reads.wait(len(sent) + 1)
        assert reads.got == [*sent, b"f" * 120]
        assert reads.sizes == [100, 100, 120, 120]
        assert reads.turns == 1
        theirs.close()
        one.close()
        two.close()

    asyncio.run(main())
