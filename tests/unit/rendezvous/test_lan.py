"""The sockets on loopback: explicit interface, so nothing leaves this host.

Other tests may speak mDNS on loopback at the same time, hence random instance names.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from pt.errors import NetworkError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.rendezvous import lan
from pt.rendezvous.lan import LanBrowser, LanPublisher, LanRecord, lan_interfaces
from pt.rendezvous.mdns import INSTANCE_RANDOM, instance_name
from pt.wire.multiaddr import Multiaddr
from tests.unit.rendezvous.test_mdns import instance_wire, packet, record

LO = ("127.0.0.1",)
PEER = PeerId.from_public_key(PrivateKey.generate(b"\1" * 32).public)
ADDRESS = Multiaddr.parse(f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}")
WAIT = 10.0


class Heard:
    """What a browser says about the instances of this test."""

    def __init__(self, *instances: str) -> None:
        self.instances = set(instances)
        self.queue: asyncio.Queue[LanRecord] = asyncio.Queue()
        self.others = 0

    def __call__(self, record: LanRecord) -> None:
        if record.instance in self.instances:
            self.queue.put_nowait(record)
        else:
            self.others += 1

    async def next(self) -> LanRecord:
        return await asyncio.wait_for(self.queue.get(), WAIT)


def fresh() -> str:
    return instance_name(os.urandom(INSTANCE_RANDOM))


@asynccontextmanager
async def browsing(heard: Callable[[LanRecord], None]) -> AsyncIterator[LanBrowser]:
    browser = LanBrowser(heard, LO)
    await browser.start()
    try:
        yield browser
    finally:
        await browser.close()


def test_found_updated_and_gone() -> None:
    async def run() -> None:
        name, sealed = fresh(), os.urandom(512)
        publisher = LanPublisher(name, [ADDRESS], sealed, 4001, LO)
        await publisher.start()
        heard = Heard(name)
        async with browsing(heard):
            found = await heard.next()
            assert found == LanRecord(name, (ADDRESS,), sealed, found.ttl)
            assert found.ttl > 0
            await publisher.update([], sealed[::-1])
            assert await heard.next() == LanRecord(name, (), sealed[::-1], found.ttl)
            await publisher.close()
            assert await heard.next() == LanRecord(name, (), None, 0)
            await publisher.close()
        assert heard.queue.empty()

    asyncio.run(run())


def test_announced_after_the_browser_started() -> None:
    async def run() -> None:
        name = fresh()
        heard = Heard(name)
        async with browsing(heard):
            publisher = LanPublisher(name, [ADDRESS], None, 4001, LO)
            await publisher.start()
            assert (await heard.next()).addresses == (ADDRESS,)
            await publisher.close()

    asyncio.run(run())


def test_several_on_one_host() -> None:
    """Publishers and browsers of one host share port 5353 and steal nothing from each other."""

    async def run() -> None:
        names = [fresh() for _ in range(4)]
        publishers = [LanPublisher(name, [ADDRESS], os.urandom(256), 1, LO) for name in names]
        for publisher in publishers:
            await publisher.start()
        ears = [Heard(*names) for _ in range(3)]
        async with browsing(ears[0]), browsing(ears[1]), browsing(ears[2]):
            for heard in ears:
                found = {(await heard.next()).instance for _ in names}
                assert found == set(names)
        for publisher in publishers:
            await publisher.close()

    asyncio.run(run())


def test_update_before_start_is_kept() -> None:
    async def run() -> None:
        name = fresh()
        publisher = LanPublisher(name, [ADDRESS], b"\1" * 256, 4001, LO)
        await publisher.update([ADDRESS], b"\2" * 256)
        await publisher.start()
        heard = Heard(name)
        async with browsing(heard):
            assert (await heard.next()).sealed == b"\2" * 256
        await publisher.close()

    asyncio.run(run())


def send(*packets: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LO[0]))
        for data in packets:
            sock.sendto(data, (lan.GROUP, lan.PORT))


def news(name: str, text: bytes = b"\x07pt=AAEC", ttl: int = 120) -> bytes:
    return packet(record(instance_wire(name), 16, text, ttl))


def test_garbage_is_survived_and_repetition_is_silent() -> None:
    async def run() -> None:
        name = fresh()
        heard = Heard(name)
        async with browsing(heard):
            send(b"", b"\xff", os.urandom(600), bytes(9001), news(name), news(name))
            send(news(name, b"\x07pt=AAED"), news(name, ttl=0), news(name, ttl=0), news(name))
            said = [await heard.next() for _ in range(4)]
            assert [(r.sealed, r.ttl) for r in said] == [
                (b"\0\1\2", 120),
                (b"\0\1\3", 120),
                (None, 0),
                (b"\0\1\2", 120),
            ]
            assert heard.queue.empty()

    asyncio.run(run())


def test_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lan, "MAX_INSTANCES", 8)

    async def run() -> None:
        names = [fresh() for _ in range(20)]
        heard = Heard(*names)
        async with browsing(heard) as browser:
            for name in names:
                send(news(name))
                await heard.next()
            assert len(browser._known) == 8
            send(news(names[0]))  # forgotten, so it is news again
            assert (await heard.next()).instance == names[0]

    asyncio.run(run())


def test_silence_ends_an_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lan, "RECORD_TTL", 0)
    monkeypatch.setattr(lan, "RESCAN", 0.01)

    async def run() -> None:
        name = fresh()
        heard = Heard(name)
        async with browsing(heard):
            send(news(name, ttl=1))
            assert (await heard.next()).ttl == 1
            assert await heard.next() == LanRecord(name, (), None, 0)

    asyncio.run(run())


def test_interfaces_leave_loopback_out() -> None:
    assert not [ip for ip in lan_interfaces() if ip.startswith("127.")]


@pytest.mark.parametrize("what", ["no interface", "not ours"])
def test_no_network(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    interfaces = None if what == "no interface" else ["11.255.255.254"]
    monkeypatch.setattr(lan, "lan_interfaces", lambda: ())

    async def run() -> None:
        browser = LanBrowser(lambda _: None, interfaces)
        publisher = LanPublisher(fresh(), [ADDRESS], None, 1, interfaces)
        for peer in (browser, publisher):
            with pytest.raises(NetworkError, match="--peer ADDRESS"):
                await peer.start()
            await peer.close()

    asyncio.run(run())


@pytest.mark.parametrize("number", [errno.ENETUNREACH, errno.EPERM, errno.ENODEV])
def test_questions_that_cannot_be_sent(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    class Mute(socket.socket):
        def sendto(self, *_: object) -> int:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lan.socket, "socket", Mute)

    async def run() -> None:
        browser = LanBrowser(lambda _: None, LO)
        with pytest.raises(NetworkError, match=os.strerror(number)):
            await browser.start()
        assert browser._ear is None
        assert not browser._askers

    asyncio.run(run())


def test_close_before_start() -> None:
    async def run() -> None:
        await LanBrowser(lambda _: None, LO).close()
        await LanPublisher(fresh(), [], None, 1, LO).close()

    asyncio.run(run())
