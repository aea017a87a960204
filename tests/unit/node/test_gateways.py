import asyncio
import socket

from pt.node import gateways
from pt.portmap.aio import Place
from pt.portmap.gateway import Gateway


def test_the_default_routes_and_our_address_there(monkeypatch, tmp_path):
    four, six = tmp_path / "route", tmp_path / "ipv6_route"
    head = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
    four.write_text(
        head + "eth0 00000000 0101A8C0 0003 0 0 100 00000000 0 0 0\n"
        "eth1 00000000 0102A8C0 0003 0 0 200 00000000 0 0 0\n"
    )
    routes = ((four, gateways.parse_route4), (six, gateways.parse_route6))
    monkeypatch.setattr(gateways, "_ROUTES", routes)
    monkeypatch.setattr(gateways, "_local", lambda gateway: "192.168.1.9")
    assert gateways.find_places() == [Place(Gateway(100, "192.168.1.1", "eth0"), "192.168.1.9")]
    monkeypatch.setattr(gateways, "_local", lambda gateway: None)
    assert gateways.find_places() == []


def test_every_address_of_ours_is_told_over_ipv6_within_bounds(monkeypatch, tmp_path):
    zero, via = "0" * 32, "fe80000000000000000000000000abcd"
    routes, addresses = tmp_path / "ipv6_route", tmp_path / "if_inet6"
    routes.write_text(f"{zero} 00 {zero} 00 {via} 00000400 00000001 0 00000003 eth0\n")
    addresses.write_text(
        "".join(f"2a0060000000000000000000000{each:05x} 02 40 00 80 eth0\n" for each in range(1, 9))
    )
    monkeypatch.setattr(gateways, "_ROUTES", ((routes, gateways.parse_route6),))
    monkeypatch.setattr(gateways, "_ADDRESSES6", addresses)
    monkeypatch.setattr(gateways, "_local", lambda gateway: "2a00:6000::2")
    found = gateways.find_places()
    assert [each.local for each in found] == [f"2a00:6000::{each}" for each in (2, 1, 3, 4)]
    assert {each.host for each in found} == {"fe80::abcd"}
    addresses.unlink()
    assert [each.local for each in gateways.find_places()] == ["2a00:6000::2"]


def test_only_the_gateway_announces(monkeypatch):
    async def main():
        heard = []
        monkeypatch.setattr(gateways, "ANNOUNCEMENTS", ("127.0.0.1", 0))
        for host in ("127.0.0.1", "127.0.0.2"):
            made = gateways.Announcements(
                Place(Gateway(0, "127.0.0.2", "lo"), "127.0.0.1"), lambda: heard.append(1)
            )
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind((host, 0))
                for data in (b"x", bytes(8)):
                    sock.sendto(data, made._sock.getsockname())
            await asyncio.sleep(0.05)
            made.close()
            assert len(heard) == (host == "127.0.0.2")

    asyncio.run(main())


def test_a_port_that_is_taken_is_no_reason_to_fail(monkeypatch):
    async def main():
        monkeypatch.setattr(gateways, "ANNOUNCEMENTS", ("192.0.2.1", 5350))
        monkeypatch.setattr(socket.socket, "bind", _refuse)
        gateways.Announcements(
            Place(Gateway(0, "127.0.0.2", "lo"), "127.0.0.1"), lambda: None
        ).close()

    asyncio.run(main())


def _refuse(*_):
    raise OSError("taken")
