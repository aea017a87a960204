"""Real `pt relay`s as one overlay: mailboxes from behind NATs, relays that end, a flood."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.lab.nat import Internet, Site
from pt.lab.netns import Host
from pt.overlay.address import overlay_address
from pt.overlay.aio import OverlayClient
from pt.overlay.messages import encode_request
from pt.relayd.overlay import validate
from pt.rendezvous.epoch import EpochKeys, epochs_to_publish, epochs_to_search
from pt.rendezvous.mailbox import LIFE, Signed, open_mailbox, pack
from pt.rendezvous.name import NameKeys
from pt.rendezvous.record import Record
from pt.wire.multiaddr import Multiaddr
from tests.e2e.harness import TIMEOUT, PtProcess, relay_addresses

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]

KEYS = NameKeys.from_master(bytes(range(32)))
IDENTITY = PrivateKey.generate(b"exposer".ljust(32))
T = TypeVar("T")
Point = tuple[str, int]


class OverlayRig:
    """Relays on `r1`, `r2`, `r3`; `a` and `b` behind NATs; `c` public."""

    def __init__(self, net: Internet, tmp: Path) -> None:
        self.net = net
        self.tmp = tmp
        self.processes: list[PtProcess] = []

    def relay(self, name: str, *argv: str, listen: tuple[str, ...] = ()) -> PtProcess:
        """Start one, or start it again, and wait until it serves."""
        host = self.net[name]
        home = self.tmp / name
        home.mkdir(exist_ok=True)
        where = listen or (f"/ip4/{host.ip}/tcp/4001",)
        log = self.tmp / f"{len(self.processes)}.log"
        command = ("relay", "--json", "--http", "127.0.0.1:9090", "--listen", *where, *argv)
        process = PtProcess(host, command, home / "state", log, subprocess.DEVNULL)
        self.processes.append(process)
        process.wait("relay_ready")
        return process

    def as_client(
        self, name: str, bootstrap: list[Point], do: Callable[[OverlayClient], Awaitable[T]]
    ) -> T:
        """What `do` returns, done on a host by a client that knows these servers."""

        async def main() -> T:
            async with OverlayClient(bootstrap, validate) as client, asyncio.timeout(30):
                return await do(client)

        with self.net[name].inside():
            return asyncio.run(main())

    def publish(self, name: str, bootstrap: list[Point]) -> int:
        """Put a mailbox for today and one for tomorrow; how many servers keep one at least."""
        now = time.time()
        record = Record(
            peer_id=PeerId.from_public_key(IDENTITY.public),
            addresses=(Multiaddr.parse("/ip4/11.5.0.9/tcp/4001"),),
            seq=1,
            expires=int(now) + LIFE,
            services=(22,),
        )
        signed = Signed.make(record, KEYS, IDENTITY)

        async def put(client: OverlayClient) -> int:
            kept = []
            for epoch in epochs_to_publish(now):
                keys = EpochKeys.derive(KEYS, epoch)
                sealed = pack([signed], keys, after=-1, now=now, nonce=os.urandom(12))
                stored = await client.put(sealed.overlay_key, sealed.value)
                assert stored.refusals == ()
                kept.append(stored.acknowledged)
            return min(kept)

        return self.as_client(name, bootstrap, put)

    def search(self, name: str, bootstrap: list[Point]) -> list[Record]:
        """The records of all mailboxes that are found first."""
        now = time.time()

        async def get(client: OverlayClient) -> list[Record]:
            records: list[Record] = []
            for epoch in epochs_to_search(now):
                keys = EpochKeys.derive(KEYS, epoch)
                async with contextlib.aclosing(client.get(keys.overlay_key)) as values:
                    async for found in values:
                        box = open_mailbox(found.value, keys, KEYS, now)
                        records += [one.record for one in box.signed]
                        break
            return records

        return self.as_client(name, bootstrap, get)

    def status(self, name: str) -> dict[str, object]:
        """What the relay's status page says of its overlay."""
        done = self.net[name].run(["curl", "-sf", "http://127.0.0.1:9090/status.json"])
        found = json.loads(done.stdout)["overlay"]
        assert isinstance(found, dict)
        return found

    def wait_for(self, name: str, **numbers: int) -> None:
        """Until the status page, which is taken anew now and then, says so."""
        deadline = time.monotonic() + TIMEOUT
        while not numbers.items() <= (status := self.status(name)).items():
            assert time.monotonic() < deadline, f"{name}: {status}\n{self.describe()}"

    def describe(self) -> str:
        return "\n".join(process.describe() for process in self.processes)


def point(process: PtProcess) -> Point:
    """Where a relay serves the overlay, from its TCP address alone."""
    found = overlay_address(Multiaddr.parse(address(process)))
    assert found is not None
    return found


def address(process: PtProcess) -> str:
    return relay_addresses(process)[0]


def end(process: PtProcess, number: int) -> int:
    process.signal(number)
    return process.exit_code()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[OverlayRig]:
    with Internet(["r1", "r2", "r3", "c"], {"a": Site(), "b": Site()}, congestion="reno") as net:
        made = OverlayRig(net, tmp_path)
        try:
            yield made
        except AssertionError:
            print(made.describe())
            raise


def test_a_mailbox_outlives_lost_and_restarted_relays(rig: OverlayRig) -> None:
    one = rig.relay("r1")
    two = rig.relay("r2", "--bootstrap", address(one))
    three = rig.relay("r3", "--bootstrap", address(one), address(two))
    for name in ("r1", "r2", "r3"):
        rig.wait_for(name, nodes=2)
    places = [point(process) for process in (one, two, three)]

    assert rig.publish("a", places[:1]) == 3
    (found,) = set(rig.search("b", places[2:]))
    assert found.peer_id == PeerId.from_public_key(IDENTITY.public)
    assert found.services == (22,)
    for name in ("r1", "r2", "r3"):
        rig.wait_for(name, records=2)

    assert end(one, signal.SIGKILL) == -signal.SIGKILL
    assert rig.search("b", places[:1] + places[2:]) == rig.search("b", places[1:]) != []

    assert end(two, signal.SIGTERM) == 143
    assert end(three, signal.SIGKILL) == -signal.SIGKILL
    again = rig.relay("r2")
    restored = again.wait("overlay_restored")
    assert (restored["records"], restored["dropped"]) == (2, 0)
    assert set(rig.search("b", [point(again)])) == {found}
    assert rig.publish("a", [point(again)]) == 1

    third = rig.relay("r3")  # lost everything, and knows nobody; the second looks for it
    third.wait("overlay_joined")
    again.wait("overlay_joined")


def test_ipv6_and_wildcards(rig: OverlayRig) -> None:
    everywhere = ("/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001")
    one = rig.relay("r1", listen=everywhere)
    first = rig.net["r1"]
    two = rig.relay("r2", "--bootstrap", f"/ip6/{first.ip6}/tcp/4001", listen=everywhere)
    two.wait("overlay_joined")
    one.wait("overlay_joined")
    assert rig.publish("c", [(first.ip6, 4001)]) == 2
    assert rig.search("c", [(rig.net["r2"].ip6, 4001)])
    assert rig.search("b", [(first.ip, 4001)])


def flood(host: Host, target: Point, seconds: float) -> int:
    """Requests with and without a token, as fast as they can be sent; how many there were."""
    key, count = os.urandom(32), 0
    requests = [encode_request(os.urandom(20), "find_value", b"", b"", key, size=400)]
    requests.append(encode_request(os.urandom(20), "find_value", b"", b"token678", key))
    requests.append(os.urandom(900))
    with host.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for request in requests * 20:
                with contextlib.suppress(OSError):  # a full buffer
                    sock.sendto(request, target)
                    count += 1
    return count


def test_a_flood_from_one_source_does_not_keep_others_out(rig: OverlayRig) -> None:
    one = rig.relay("r1")
    where = point(one)
    assert rig.publish("a", [where]) == 1

    async def get_while_flooded() -> tuple[list[Record], int]:
        flooding = asyncio.to_thread(flood, rig.net["c"], where, 2.0)
        searching = asyncio.to_thread(rig.search, "b", [where])
        sent, found = await asyncio.gather(flooding, searching)
        return found, sent

    found, sent = asyncio.run(get_while_flooded())
    assert found
    assert sent > 5000
    status = rig.status("r1")
    dropped, datagrams = status["dropped"], status["datagrams"]
    assert isinstance(dropped, dict)
    assert isinstance(datagrams, dict)
    assert dropped["rate"] > 1000
    assert datagrams["out"] < 1500
    assert one.running()
