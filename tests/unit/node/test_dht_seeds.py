"""Bootstrap addresses: what they lead to, with a DNS server on loopback."""

from __future__ import annotations

import asyncio

import pytest

from pt.dnsaddr.aio import TxtResolver
from pt.dnsaddr.resolution import DnsCause
from pt.errors import DnsError, UsageError
from pt.kad.messages import MAX_ADDRESSES, PeerInfo
from pt.node.dht_seeds import DEFAULT_BOOTSTRAP, Seeds
from pt.node.resolve import Asking, Resolver
from pt.node.system_dns import look_up
from pt.wire.multiaddr import Multiaddr
from tests.unit.dnsaddr.server import running
from tests.unit.kad.peers import peer_id

ONE, TWO, RSA = (
    str(peer_id(1)),
    str(peer_id(2)),
    "QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN",
)


def found(
    *bootstrap: str,
    zone: dict[str, list[bytes]] = {},  # noqa: B006
    ask: Asking = look_up,
) -> tuple[list[PeerInfo], Seeds]:
    async def main() -> tuple[list[PeerInfo], Seeds]:
        async with running(zone=zone) as dns:
            seeds = Seeds(
                [Multiaddr.parse(text) for text in bootstrap],
                TxtResolver([("127.0.0.1", dns.port)]),
                Resolver(ask=ask),
            )
            offered: list[PeerInfo] = []
            await seeds.find(offered.extend)
            return offered, seeds

    return asyncio.run(main())


def texts(infos: list[PeerInfo]) -> dict[str, list[str]]:
    return {str(info.id): [str(each) for each in info.addresses] for info in infos}


def zone_of(**names: list[str]) -> dict[str, list[bytes]]:
    return {
        f"_dnsaddr.{name.replace('_', '.')}": [f"dnsaddr={text}".encode() for text in entries]
        for name, entries in names.items()
    }


def test_plain_addresses() -> None:
    offered, seeds = found(f"/ip4/11.0.0.1/tcp/4001/p2p/{ONE}", f"/ip4/11.0.0.2/tcp/1/p2p/{TWO}")
    assert texts(offered) == {ONE: ["/ip4/11.0.0.1/tcp/4001"], TWO: ["/ip4/11.0.0.2/tcp/1"]}
    assert seeds.dns is None


def test_addresses_of_the_same_server_are_put_together() -> None:
    offered, _ = found(*(f"/ip4/11.0.0.{n}/tcp/4001/p2p/{ONE}" for n in range(40)))
    addresses = texts(offered)[ONE]
    assert len(addresses) == len(set(addresses)) == MAX_ADDRESSES


def test_names_lead_to_servers_with_the_id_that_was_given() -> None:
    zone = zone_of(
        boot_test=[f"/dnsaddr/eu.boot.test/p2p/{RSA}", f"/dnsaddr/us.boot.test/p2p/{TWO}"],
        eu_boot_test=[
            f"/ip4/11.0.0.1/tcp/4001/p2p/{RSA}",
            f"/ip4/11.0.0.1/udp/4001/quic-v1/p2p/{RSA}",
            f"/dns4/eu.boot.test/tcp/443/wss/p2p/{RSA}",
            f"/ip4/11.6.6.6/tcp/4001/p2p/{ONE}",
        ],
    )
    offered, seeds = found(f"/dnsaddr/boot.test/p2p/{RSA}", zone=zone)
    (addresses,) = texts(offered).values()
    assert set(addresses) == {"/ip4/11.0.0.1/tcp/4001", "/ip4/11.0.0.1/udp/4001/quic-v1"}
    assert seeds.dns is None


def test_a_name_without_an_id_leads_to_all() -> None:
    zone = zone_of(
        boot_test=[f"/ip4/11.0.0.{n}/tcp/4001/p2p/{each}" for n, each in enumerate((ONE, TWO))]
    )
    offered, _ = found("/dnsaddr/boot.test", zone=zone)
    assert {str(each.id) for each in offered} == {ONE, TWO}


def test_names_of_hosts_are_looked_up_so_that_no_name_is_dialed() -> None:
    offered, _ = found(f"/dns4/localhost/tcp/4001/p2p/{ONE}")
    assert texts(offered) == {ONE: ["/ip4/127.0.0.1/tcp/4001"]}


def test_a_host_that_has_no_address() -> None:
    async def fail(host: str, family: int) -> list[str]:
        raise DnsError("the resolver fails", DnsCause.FAILED)

    bad = f"/dns4/boot.test/tcp/4001/p2p/{ONE}"
    offered, seeds = found(bad, ask=fail)
    assert offered == []
    assert seeds.dns is not None
    assert seeds.dns.cause is DnsCause.FAILED
    zone = zone_of(all_test=[bad, f"/ip4/11.0.0.2/tcp/4001/p2p/{TWO}"])
    offered, seeds = found("/dnsaddr/all.test", zone=zone, ask=fail)
    assert set(texts(offered)) == {TWO}, "what one entry lacks is no failure"
    assert seeds.dns is None


def test_a_failure_is_kept_until_the_name_is_found() -> None:
    async def main() -> None:
        async with running() as server:
            address = Multiaddr.parse(f"/dnsaddr/boot.test/p2p/{ONE}")
            seeds = Seeds(
                [address, Multiaddr.parse(f"/ip4/11.0.0.2/tcp/1/p2p/{TWO}")],
                TxtResolver([("127.0.0.1", server.port)]),
                Resolver(),
            )
            offered: list[PeerInfo] = []
            await seeds.find(offered.extend)
            assert set(texts(offered)) == {TWO}, "others are not spoilt"
            assert seeds.dns is not None
            assert seeds.dns.cause is DnsCause.NO_NAME
            entry = f"dnsaddr=/ip4/11.0.0.1/tcp/1/p2p/{ONE}".encode()
            server.zone["_dnsaddr.boot.test"] = [entry]
            await seeds.find(offered.extend)
            assert seeds.dns is None
            assert set(texts(offered)) == {ONE, TWO}

    asyncio.run(main())


def test_a_silent_resolver_does_not_hold_up_the_others() -> None:
    async def main() -> None:
        async with running(trouble=lambda question: None) as server:
            seeds = Seeds(
                [
                    Multiaddr.parse(f"/dnsaddr/boot.test/p2p/{ONE}"),
                    Multiaddr.parse(f"/ip4/11.0.0.2/tcp/1/p2p/{TWO}"),
                ],
                TxtResolver([("127.0.0.1", server.port)]),
                Resolver(),
            )
            first: asyncio.Future[list[PeerInfo]] = asyncio.get_running_loop().create_future()
            finding = asyncio.create_task(seeds.find(first.set_result))
            assert set(texts(await asyncio.wait_for(first, 0.5))) == {TWO}
            finding.cancel()
            await asyncio.wait([finding])

    asyncio.run(main())


def test_an_address_has_to_say_who_is_there() -> None:
    with pytest.raises(UsageError, match="/p2p/ID"):
        Seeds([Multiaddr.parse("/ip4/11.0.0.1/tcp/4001")], None, Resolver())


def test_the_public_bootstrap_peers_are_all_named() -> None:
    assert len(DEFAULT_BOOTSTRAP) == 6
    assert all(each.peer_id_bytes is not None for each in DEFAULT_BOOTSTRAP)
