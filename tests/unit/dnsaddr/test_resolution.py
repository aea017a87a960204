from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.dnsaddr.resolution import MAX_QUERIES, MAX_RESULTS, DnsCause, DnsError, resolve
from pt.errors import UsageError
from pt.wire.multiaddr import Multiaddr

ONE = "QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN"
TWO = "QmQCU2EcMqAqQPR2i9bChDtGNJchTbq5TbXJJ16u19uLTa"


class Zone:
    """TXT strings by name; a name that is not there does not exist."""

    def __init__(self, **records: list[str]) -> None:
        self.records = records
        self.asked: list[str] = []

    async def query(self, name: str) -> list[str]:
        assert name.startswith("_dnsaddr.")
        self.asked.append(name.removeprefix("_dnsaddr."))
        found = self.records.get(self.asked[-1].replace(".", "_"))
        if found is None:
            raise DnsError(f"{name} does not exist", DnsCause.NO_NAME)
        return found


def run(zone: Zone, address: str) -> list[str]:
    return [str(one) for one in asyncio.run(resolve(Multiaddr.parse(address), zone.query))]


def test_the_public_bootstrap_domains_shape() -> None:
    """One domain a region, and there addresses of all kinds."""
    zone = Zone(
        boot_test=[
            f"dnsaddr=/dnsaddr/sv15.boot.test/p2p/{ONE}",
            f"dnsaddr=/dnsaddr/ny5.boot.test/p2p/{TWO}",
        ],
        sv15_boot_test=[
            f"dnsaddr=/ip4/11.0.0.1/tcp/4001/p2p/{ONE}",
            f"dnsaddr=/dns4/sv15.boot.test/tcp/443/wss/p2p/{ONE}",
            f"dnsaddr=/ip6/fd11::1/udp/4001/quic-v1/p2p/{ONE}",
        ],
    )
    assert run(zone, f"/dnsaddr/boot.test/p2p/{ONE}") == [
        f"/ip4/11.0.0.1/tcp/4001/p2p/{ONE}",
        f"/dns4/sv15.boot.test/tcp/443/wss/p2p/{ONE}",
        f"/ip6/fd11::1/udp/4001/quic-v1/p2p/{ONE}",
    ]
    assert zone.asked == ["boot.test", "sv15.boot.test"]


def test_without_a_peer_all_count() -> None:
    zone = Zone(
        a_test=[f"dnsaddr=/dnsaddr/b.test/p2p/{ONE}", f"dnsaddr=/ip4/11.0.0.2/tcp/1/p2p/{TWO}"],
        b_test=[f"dnsaddr=/ip4/11.0.0.1/tcp/1/p2p/{who}" for who in (ONE, TWO)],
    )
    assert run(zone, "/dnsaddr/a.test") == [
        f"/ip4/11.0.0.2/tcp/1/p2p/{TWO}",
        f"/ip4/11.0.0.1/tcp/1/p2p/{ONE}",
    ]


def test_another_peers_addresses_are_skipped() -> None:
    zone = Zone(a_test=[f"dnsaddr=/ip4/11.0.0.1/tcp/1/p2p/{TWO}", "dnsaddr=/ip4/11.0.0.1/tcp/1"])
    with pytest.raises(DnsError) as caught:
        run(zone, f"/dnsaddr/a.test/p2p/{ONE}")
    assert caught.value.cause is DnsCause.NO_RECORD


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v=spf1 -all",
        "dnsaddr=",
        "dnsaddr=nonsense",
        "dnsaddr=/ip4/11.0.0.999/tcp/1",
        "dnsaddr=/ip4/11.0.0.1/carrier-pigeon/p2p/" + ONE,
        "DNSADDR=/ip4/11.0.0.1/tcp/1/p2p/" + ONE,
        "dnsaddr=/p2p/" + ONE,
        "dnsaddr=/ip4/11.0.0.1/tcp/1/dnsaddr/b.test/p2p/" + ONE,
        "dnsaddr=/" + "ip4/11.0.0.1/" * 400,
    ],
)
def test_unusable_entries_are_skipped(text: str) -> None:
    good = f"/ip4/11.0.0.1/tcp/1/p2p/{ONE}"
    assert run(Zone(a_test=[text, f"dnsaddr={good}"]), f"/dnsaddr/a.test/p2p/{ONE}") == [good]
    assert run(Zone(a_test=[text, f"dnsaddr={good}"]), "/dnsaddr/a.test") == [good]


def test_no_dnsaddr_stands_for_itself() -> None:
    zone = Zone()
    assert run(zone, "/dns4/a.test/tcp/1") == ["/dns4/a.test/tcp/1"]
    assert zone.asked == []
    with pytest.raises(UsageError):
        run(zone, "/ip4/11.0.0.1/tcp/1/dnsaddr/a.test")


def test_loops_end() -> None:
    zone = Zone(
        a_test=["dnsaddr=/dnsaddr/a.test", "dnsaddr=/dnsaddr/b.test"],
        b_test=["dnsaddr=/dnsaddr/a.test", "dnsaddr=/ip4/11.0.0.1/tcp/1"],
    )
    assert run(zone, "/dnsaddr/a.test") == ["/ip4/11.0.0.1/tcp/1"]
    assert zone.asked == ["a.test", "b.test"]


def test_depth() -> None:
    zone = Zone(
        **{
            f"d{n}_test": [f"dnsaddr=/dnsaddr/d{n + 1}.test", f"dnsaddr=/ip4/11.0.0.{n}/tcp/1"]
            for n in range(1, 9)
        }
    )
    assert run(zone, "/dnsaddr/d1.test") == [f"/ip4/11.0.0.{n}/tcp/1" for n in range(1, 5)]
    assert len(zone.asked) == 4


def test_width() -> None:
    wide = [f"dnsaddr=/dnsaddr/w{n}.test" for n in range(200)]
    zone = Zone(a_test=wide, **{f"w{n}_test": wide for n in range(200)})
    with pytest.raises(DnsError):
        run(zone, "/dnsaddr/a.test")
    assert len(zone.asked) == MAX_QUERIES


def test_results() -> None:
    zone = Zone(a_test=[f"dnsaddr=/ip4/11.0.{n // 250}.{n % 250}/tcp/1" for n in range(300)])
    assert len(run(zone, "/dnsaddr/a.test")) == MAX_RESULTS


def test_one_failure_does_not_spoil_the_rest() -> None:
    zone = Zone(a_test=["dnsaddr=/dnsaddr/missing.test", "dnsaddr=/dnsaddr/b.test"])
    zone.records["b_test"] = ["dnsaddr=/ip4/11.0.0.1/tcp/1"]
    assert run(zone, "/dnsaddr/a.test") == ["/ip4/11.0.0.1/tcp/1"]


def test_the_first_failure_is_told() -> None:
    with pytest.raises(DnsError, match=r"x\.test does not exist") as caught:
        run(Zone(a_test=["dnsaddr=/dnsaddr/x.test", "dnsaddr=/dnsaddr/y.test"]), "/dnsaddr/a.test")
    assert caught.value.cause is DnsCause.NO_NAME
    assert caught.value.exit_code == 12


names = st.sampled_from(["a", "b", "c", "d", "e"])
entries = names.map(lambda name: f"dnsaddr=/dnsaddr/{name}.test") | st.integers(1, 250).map(
    lambda n: f"dnsaddr=/ip4/11.0.0.{n}/tcp/1"
)


@given(st.dictionaries(names, st.lists(entries | st.text(max_size=20), max_size=20)))
def test_any_zone_ends(records: dict[str, list[str]]) -> None:
    zone = Zone(**{f"{name}_test": texts for name, texts in records.items()})
    try:
        got = run(zone, "/dnsaddr/a.test")
    except DnsError:
        got = []
    assert len(zone.asked) == len(set(zone.asked)) <= 5
    assert len(got) == len(set(got))
    assert not [one for one in got if "dnsaddr" in one]
