"""A relay's overlay: where it listens, whom it joins, what it keeps, and what outlives it."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time

import pytest

from pt.aio.udp import UdpPort
from pt.errors import LocalPortError, LocalProtocolError
from pt.identity.keys import PrivateKey
from pt.node.resolve import Resolver
from pt.overlay.address import overlay_address
from pt.overlay.aio import OverlayClient
from pt.overlay.state import State, dump, dump_record
from pt.overlay.storage import Entry
from pt.relayd import events, overlay
from pt.relayd.config import RelayConfig
from pt.relayd.overlay import Overlay
from pt.rendezvous import ipns
from pt.tunnel.events import Warned
from pt.tunnel.media.stored import validate
from pt.wire.multiaddr import Multiaddr
from tests.unit.relayd.lab import LOOPBACK, Lab, lab
from tests.unit.relayd.rig import open_descriptors

NOW = int(time.time())


def mailbox(number: int, seq: int = 1, expires: int = NOW + 7200, size: int = 700):
    """The key and the value of somebody's record."""
    key = PrivateKey(number.to_bytes(32, "big"))
    value = ipns.create(key, bytes(size), seq=seq, expires=expires, ttl=60)
    return ipns.overlay_key(ipns.name_of(key.public)), value


def client(made: Lab) -> OverlayClient:
    return OverlayClient([overlay_address(made.relay.addresses[0])], validate)


async def values(user: OverlayClient, key: bytes) -> list[bytes]:
    return [found.value async for found in user.get(key)]


def warnings(made: Lab) -> list[str]:
    return [event.message for event in made.of(Warned)]


def test_it_serves_at_the_number_of_the_tcp_port(tmp_path):
    async def main() -> None:
        async with lab(tmp_path, listen=(LOOPBACK, Multiaddr.tcp("127.0.0.2", 0))) as made:
            (ready,) = made.of(events.RelayReady)
            points = {overlay_address(each) for each in ready.addresses}
            assert points == {overlay_address(each) for each in ready.overlay}
            assert {host for host, _ in points} == {"127.0.0.1", "127.0.0.2"}
            key, value = mailbox(1)
            for point in points:
                async with OverlayClient([point], validate) as user:
                    assert (await user.put(key, value)).acknowledged == 1
                    assert await values(user, key) == [value]
            view = made.relay.snapshot().overlay
            assert (view.records, view.bytes, view.nodes) == (1, len(value), 0)
            assert view.requests["store"] >= 2
            assert view.requests["find_value"] >= 2
            assert view.datagrams["out"] >= 4
            assert view.traffic["in"] > len(value)

    before = open_descriptors()
    asyncio.run(main())
    assert open_descriptors() <= before


def test_without_overlay_and_stun_no_udp_port_is_opened(tmp_path):
    async def main() -> None:
        async with lab(tmp_path, overlay=False, stun=False) as made:
            assert made.of(events.RelayReady)[0].overlay == ()
            assert made.relay.snapshot().overlay is None
            UdpPort(overlay_address(made.relay.addresses[0])).close()
        assert not (tmp_path / "relay" / "overlay.jsonl").exists()

    asyncio.run(main())


def test_a_udp_port_that_is_taken_is_told_with_what_to_do(tmp_path):
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            point = server.getsockname()
        held = UdpPort(point)
        with pytest.raises(LocalPortError, match="--no-overlay"):
            await Lab(tmp_path, listen=(Multiaddr.tcp(*point),)).relay.start()
        held.close()
        with socket.create_server(point):
            pass  # TCP was given back as well

    asyncio.run(main())


def test_a_port_of_the_systems_choice_is_one_that_udp_has_too(tmp_path, monkeypatch):
    opened = []

    def reluctant(*points):
        opened.append(points)
        if len(opened) < 3:
            raise LocalPortError("taken")
        return UdpPort(*points)

    monkeypatch.setattr(overlay, "UdpPort", reluctant)

    async def main() -> None:
        async with lab(tmp_path) as made:
            assert len(opened) == 3
            assert opened[2] == (overlay_address(made.relay.addresses[0]),)
            async with made.guest():
                pass

    asyncio.run(main())


@pytest.mark.parametrize("udp", [False, True])
def test_joined_relays_are_one_overlay(tmp_path, udp):
    async def main() -> None:
        async with lab(tmp_path / "a") as first:
            address = first.relay.addresses[0]
            if udp:
                (address,) = first.of(events.RelayReady)[0].overlay
            async with lab(tmp_path / "b", bootstrap=(address,)) as second:
                await second.until(lambda: second.of(events.OverlayJoined))
                await first.until(lambda: first.of(events.OverlayJoined))
                assert second.relay.snapshot().overlay.nodes == 1
                key, value = mailbox(1)
                async with client(first) as user:
                    assert (await user.put(key, value)).acknowledged == 2
                async with client(second) as user:
                    assert await values(user, key) == [value]

    asyncio.run(main())


def test_bootstrap_can_change_and_names_itself_in_vain(tmp_path):
    async def main() -> None:
        async with lab(tmp_path / "a") as first, lab(tmp_path / "b") as second:
            own = second.relay.addresses[0]
            given = second.config.__class__(
                listen=second.config.listen, bootstrap=(own, first.relay.addresses[0])
            )
            second.relay.reload(given)
            await second.until(lambda: second.of(events.OverlayJoined))
            assert second.of(events.RelayReloaded)[0].ignored == ()
            assert second.relay.snapshot().overlay.dropped.get("forged sender", 0) == 0

    asyncio.run(main())


def test_nobody_at_the_bootstrap_address_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(overlay, "PATIENCE", 0.05)

    async def main() -> None:
        hole = UdpPort(("127.0.0.1", 0))
        async with lab(tmp_path, bootstrap=(Multiaddr.tcp(*hole.address),)) as made:
            await made.until(lambda: warnings(made))
            assert "no relay given with --bootstrap answers" in warnings(made)[0]
        hole.close()

    asyncio.run(main())


def test_records_and_company_outlive_a_restart(tmp_path):
    async def main() -> None:
        async with lab(tmp_path / "other") as other:
            found = [mailbox(number) for number in range(1, 41)]
            address = other.relay.addresses[0]
            async with lab(tmp_path / "relay", bootstrap=(address,)) as made:
                await made.until(lambda: made.of(events.OverlayJoined))
                async with client(made) as user:
                    for key, value in found:
                        await user.put(key, value)
            async with lab(tmp_path / "relay") as made:
                await made.until(lambda: made.of(events.OverlayJoined))  # nobody named it
                await made.until(lambda: made.of(events.OverlayRestored))
                (restored,) = made.of(events.OverlayRestored)
                assert (restored.records, restored.dropped) == (40, 0)
                view = made.relay.snapshot().overlay
                assert view.records == 40
                assert view.refused == {}
                async with client(made) as user:
                    for key, value in found:
                        assert await values(user, key) == [value]

    asyncio.run(main())


def home(tmp_path):
    (tmp_path / "relay").mkdir(mode=0o700, exist_ok=True)
    return tmp_path / "relay" / "overlay.jsonl"


def test_what_comes_from_the_file_is_checked_like_what_strangers_bring(tmp_path):
    good, forged, expired, other = mailbox(1), mailbox(2), mailbox(3), mailbox(4)
    late = mailbox(5, expires=NOW - 10)
    lines = [
        dump(State(b"i" * 32, ())),
        dump_record(good[0], Entry(good[1], 0, NOW + 3600, "11.0.0.1")),
        dump_record(forged[0], Entry(forged[1][:-1] + b"!", 0, NOW + 3600, "11.0.0.1")),
        dump_record(expired[0], Entry(expired[1], 0, NOW - 1, "11.0.0.1")),
        dump_record(late[0], Entry(late[1], 0, NOW + 3600, "11.0.0.1")),
        dump_record(good[0], Entry(other[1], 0, NOW + 3600, "11.0.0.1")),
        "no record",
    ]
    file = home(tmp_path)
    file.write_text("\n".join(lines) + "\n")

    async def main() -> None:
        async with lab(tmp_path) as made:
            await made.until(lambda: made.of(events.OverlayRestored))
            (restored,) = made.of(events.OverlayRestored)
            assert (restored.records, restored.dropped) == (1, 4)
            assert "1 damaged lines" in warnings(made)[0]
            async with client(made) as user:
                assert await values(user, good[0]) == [good[1]]

    asyncio.run(main())
    assert len(file.read_text().splitlines()) == 2
    assert '"id": "' + (b"i" * 32).hex() in file.read_text()


@pytest.mark.parametrize("damage", [b"", b"\x80\x04pickle\n", b"{}\n", b"[" * 100_000])
def test_a_damaged_file_is_a_warning(tmp_path, damage):
    file = home(tmp_path)
    file.write_bytes(damage)

    async def main() -> None:
        async with lab(tmp_path) as made:
            assert "is damaged: starting afresh" in warnings(made)[0]
            key, value = mailbox(1)
            async with client(made) as user:
                await user.put(key, value)

    asyncio.run(main())
    assert len(file.read_text().splitlines()) == 2


def test_a_file_that_cannot_be_written_is_a_warning_each_time_it_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(overlay, "FIRST_SAVE", 0.01)
    monkeypatch.setattr(overlay, "SAVE_EVERY", 0.02)
    full, written = True, threading.Event()
    write = overlay.OverlayFile.write

    def broken(self, *args):
        if full:
            raise OSError(28, os.strerror(28))
        write(self, *args)
        written.set()

    monkeypatch.setattr(overlay.OverlayFile, "write", broken)

    async def main() -> None:
        nonlocal full
        async with lab(tmp_path) as made:
            await made.until(lambda: warnings(made))
            assert "No space left on device" in warnings(made)[0]
            key, value = mailbox(1)
            async with client(made) as user:
                assert (await user.put(key, value)).acknowledged == 1
            full = False
            assert await asyncio.to_thread(written.wait, 10)
            assert home(tmp_path).exists()
            assert len(warnings(made)) == 1
            full = True
            async with client(made) as user:
                await user.put(*mailbox(2))
            await made.until(lambda: len(warnings(made)) == 2)

    asyncio.run(main())


def test_a_directory_in_the_files_place_is_a_warning(tmp_path):
    home(tmp_path).mkdir()

    async def main() -> None:
        async with lab(tmp_path) as made:
            assert "cannot be read" in warnings(made)[0]
        assert "cannot be saved" in warnings(made)[1]

    asyncio.run(main())


def test_two_relays_of_one_home_are_two_nodes(tmp_path):
    async def main() -> None:
        async with lab(tmp_path) as first:
            async with lab(tmp_path, bootstrap=(first.relay.addresses[0],)) as second:
                assert "another relay keeps the overlay's records" in warnings(second)[0]
                await second.until(lambda: second.of(events.OverlayJoined))
            assert warnings(first) == []

    asyncio.run(main())


def test_a_relay_that_stops_in_the_middle_of_reading_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(overlay, "RESTORED", 1)
    monkeypatch.setattr(overlay, "PAUSE", 3600)
    records = [mailbox(number) for number in range(1, 6)]
    text = "\n".join(
        [
            dump(State(b"i" * 32, ())),
            *(dump_record(key, Entry(value, 0, NOW + 3600, "11.0.0.1")) for key, value in records),
        ]
    )
    home(tmp_path).write_text(text + "\n")

    async def main() -> None:
        async with lab(tmp_path) as made:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert made.relay.snapshot().overlay.records == 1

    asyncio.run(main())
    assert home(tmp_path).read_text() == text + "\n"


def test_refusals_are_counted_by_reason(tmp_path):
    async def main() -> None:
        async with lab(tmp_path) as made, client(made) as user:
            key, value = mailbox(1, seq=5)
            await user.put(key, value)
            assert (await user.put(key, mailbox(1, seq=4)[1])).refusals == ("stale",)
            assert (await user.put(key, mailbox(2)[1])).refusals == ("invalid",)
            late = mailbox(3, expires=NOW - 4000)
            assert (await user.put(*late)).refusals == ("expired",)
            with pytest.raises(LocalProtocolError):
                await user.put(key, bytes(20_000))
            view = made.relay.snapshot().overlay
            assert view.refused == {"stale": 1, "invalid": 1, "expired": 1}
            assert view.records == 1

    asyncio.run(main())


def test_a_dnsaddr_leads_to_company(tmp_path):
    class Names:
        async def expand(self, address):
            assert str(address) == "/dnsaddr/relays.example"
            return [Multiaddr.tcp("127.0.0.1", ports[0].addresses[0][1])]

        async def addresses(self, kind, host):
            raise AssertionError("there is no name among them")

    async def main() -> None:
        said = []
        ports.extend(UdpPort(("127.0.0.1", 0)) for _ in range(2))
        one, two = (
            Overlay(port, tmp_path / str(number), said.append, names=Names())
            for number, port in enumerate(ports)
        )
        one.start(())
        two.start(RelayConfig(bootstrap=(Multiaddr.parse("/dnsaddr/relays.example"),)).bootstrap)
        async with asyncio.timeout(10):
            while not one.view().nodes or not two.view().nodes:
                await asyncio.sleep(0.01)
        await two.close()
        await one.close()
        assert all(isinstance(event, events.OverlayJoined) for event in said)

    ports = []
    asyncio.run(main())


def test_overlays_without_a_file_can_be_written_to(tmp_path):
    async def main() -> None:
        said = []
        port = UdpPort(("127.0.0.1", 0))
        one = Overlay(port, tmp_path / "new" / "home", said.append, names=Resolver())
        one.start(())
        assert one.view().records == 0
        await one.close()
        assert said == []
        assert (tmp_path / "new" / "home" / "overlay.jsonl").exists()

    asyncio.run(main())
