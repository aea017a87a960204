"""Each kind of NAT is what it is called, in the user-space engine and in the kernel's."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Iterator

import pytest

from pt.lab.lab import Lab, LabError
from pt.lab.machine import Machine
from tests.unit.lab.prober import (
    PATIENCE,
    WAIT,
    Findings,
    Servers,
    filtering,
    mapping,
    probe,
    receive,
    servers,
    udp,
)

pytestmark = pytest.mark.netns
ENGINES = ("user", "kernel")
KINDS = [
    f"{mapping}-{filtering}"
    for mapping, filtering in itertools.product(("eim", "adm", "apdm"), ("eif", "adf", "apdf"))
]
EXPECTED_PORTS = {"preserve": "preserve", "seq": "seq+1", "random": "random"}


@contextlib.contextmanager
def sides(engine: str, *specs: str, **words: object) -> Iterator[tuple[Lab, list[Machine]]]:
    """A laboratory with these sides."""
    names = "abcdefgh"[: len(specs)]
    with Lab(engine=engine, public=1, **dict(zip(names, specs, strict=True)), **words) as lab:
        yield lab, [lab[name] for name in names]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("ports", EXPECTED_PORTS)
@pytest.mark.parametrize("kinds", [KINDS[:5], KINDS[5:]], ids=["hard-and-easy", "hard"])
def test_every_kind_proves_what_it_is(engine: str, ports: str, kinds: list[str]) -> None:
    specs = [f"{kind}-{ports}" for kind in kinds]
    with sides(engine, *specs) as (lab, hosts), servers(lab["s1"]) as on:
        found = {spec: probe(host, on) for spec, host in zip(specs, hosts, strict=True)}
    expected = {}
    for spec, kind in zip(specs, kinds, strict=True):
        words = kind.split("-")
        expected[spec] = Findings(words[0], words[1], EXPECTED_PORTS[ports])
    assert found == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_presets_chains_and_walls(engine: str) -> None:
    specs = {
        "linux": Findings("eim", "apdf", "preserve"),
        "public": Findings("eim", "eif", "preserve"),
        "fw-adf": Findings("eim", "adf", "preserve"),
        "eim-eif,hairpin=on": Findings("eim", "eif", "preserve"),
        "fw-eif": Findings("eim", "eif", "preserve"),
        "eim-eif+apdm-apdf-random": Findings("apdm", "apdf", "random"),
        "apdm-seq,step=3": Findings("apdm", "apdf", "seq+3"),
        "symmetric,ports=5000-5499": Findings("apdm", "apdf", "random"),
    }
    with sides(engine, *specs) as (lab, hosts), servers(lab["s1"]) as on:
        found = {spec: probe(host, on) for spec, host in zip(specs, hosts, strict=True)}
        with udp(hosts[-1]) as client:
            seen = on.seen(client, 0, 0)
    assert found == specs
    assert 5000 <= seen[1] <= 5499


@pytest.mark.parametrize("engine", ENGINES)
def test_ipv6_walls(engine: str) -> None:
    walls = ("eif", "adf", "apdf")
    with (
        sides(engine, *(f"none,v6={wall}" for wall in walls)) as (lab, hosts),
        servers(lab["s1"], v6=True) as on,
    ):
        for wall, host in zip(walls, hosts, strict=True):
            with udp(host, host.ip6) as client, udp(host, host.ip6) as closed:
                assert not on.reaches(closed, closed.getsockname()[:2], 0, 0)
                assert mapping(client, on) == "eim"
            with udp(host, host.ip6) as fresh:
                assert filtering(fresh, on) == wall


@pytest.mark.parametrize("engine", ENGINES)
def test_a_mapping_lives_as_long_as_it_says(engine: str) -> None:
    with (
        sides(engine, "eim-eif,timeout=3") as (lab, (host,)),
        servers(lab["s1"]) as on,
        udp(host) as client,
        udp(host) as kept,
    ):
        seen, other = on.seen(client, 0, 0), on.seen(kept, 0, 0)
        assert receive(client, 1.8) is None
        assert on.reaches(kept, other, 0, 0)
        assert on.seen(kept, 0, 0) == other
        assert receive(client, 1.8) is None
        assert not on.reaches(client, seen, 1, 1)
        assert on.reaches(kept, other, 0, 0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("hairpin", "arrives"), [("on", True), ("off", False)])
def test_hairpin(engine: str, hairpin: str, arrives: bool) -> None:
    with (
        sides(engine, f"eim-eif,hairpin={hairpin}", lan=2) as (lab, (host,)),
        servers(lab["s1"]) as on,
        udp(host) as one,
        udp(lab["a2"]) as two,
    ):
        seen = on.seen(one, 0, 0)
        two.sendto(b"over", seen)
        got = receive(one, PATIENCE if arrives else WAIT)
        assert (got is not None) == arrives
        if got is not None:
            assert got[1][0] == "11.100.0.1"


@pytest.mark.parametrize("engine", ENGINES)
def test_blocked_udp_and_only_443(engine: str) -> None:
    with (
        sides(engine, "udpblock", "tcp443") as (lab, (none, web)),
        udp(lab["s1"]) as server,
        udp(none) as client,
    ):
        client.sendto(b"?", (lab["s1"].ip, server.getsockname()[1]))
        assert receive(server, WAIT) is None
        for host, port, passes in ((none, 80, True), (web, 443, True), (web, 80, False)):
            with lab["s1"].inside():
                listener = socket.create_server(("0.0.0.0", port))
            with listener, host.inside():
                try:
                    with socket.create_connection((lab["s1"].ip, port), 3 if passes else 0.2):
                        assert passes
                except TimeoutError:
                    assert not passes


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["eim-eif", "adm-adf", "apdm-apdf"])
def test_tcp_is_mapped_alike(engine: str, kind: str) -> None:
    with sides(engine, kind) as (lab, (host,)):
        seen = []
        listeners = []
        with contextlib.ExitStack() as stack:
            for address in lab["s1"].addresses[:2]:
                with lab["s1"].inside():
                    listener = socket.create_server((address, 0))
                listeners.append(stack.enter_context(listener))
            for listener in listeners:
                with host.inside():
                    client = socket.socket()
                stack.enter_context(client)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                client.bind(("0.0.0.0", 45000))
                client.settimeout(PATIENCE)
                client.connect(listener.getsockname())
                accepted, peer = listener.accept()
                stack.enter_context(accepted)
                seen.append(peer)
        assert (seen[0] == seen[1]) == kind.startswith("eim")


@pytest.mark.parametrize(
    ("spec", "moves"),
    [("linux", False), ("linux,input=accept", True), ("eim-apdf,input=accept", True)],
)
def test_an_early_packet_poisons_a_port_only_if_the_router_takes_it(spec, moves) -> None:
    with sides("user", spec) as (lab, (host,)), servers(lab["s1"]) as on, udp(host) as client:
        seen = on.seen(client, 0, 0)
        assert not on.reaches(client, seen, 1, 0)
        assert (on.seen(client, 1, 0) != seen) == moves


def test_an_early_packet_poisons_the_kernel_too() -> None:
    for spec, moves in (("linux", False), ("linux,input=accept", True)):
        with sides("kernel", spec) as (lab, (host,)), servers(lab["s1"]) as on, udp(host) as client:
            seen = on.seen(client, 0, 0)
            assert not on.reaches(client, seen, 1, 0)
            assert (on.seen(client, 1, 0) != seen) == moves


@pytest.mark.parametrize("engine", ENGINES)
def test_a_rude_nat_answers(engine: str) -> None:
    with (
        sides(engine, "eim,unsolicited=reject") as (lab, (host,)),
        servers(lab["s1"]) as on,
        udp(host) as client,
        udp(lab["s1"], lab["s1"].addresses[1]) as stranger,
    ):
        seen = on.seen(client, 0, 0)
        stranger.connect(seen)
        stranger.send(b"!")
        with pytest.raises(ConnectionRefusedError):
            receive(stranger, PATIENCE)


def test_the_kernel_engine_refuses_what_it_cannot() -> None:
    for spec, named in (
        ("eim,maxage=5", "maxage="),
        ("eim,refresh=out", "refresh="),
        ("eim,simopen=0", "simopen="),
        ("apdm-block", "port blocks"),
        ("eim,hairpin=on", "only with eif"),
        ("eim,pool=2", "pool="),
    ):
        with pytest.raises(LabError) as error, sides("kernel", spec):
            pass
        assert named in str(error.value)


def test_the_kernel_engine_has_slow_links_and_forgets_on_order() -> None:
    with (
        sides("kernel", "eim-eif", link="delay=10") as (lab, (host,)),
        servers(lab["s1"]) as on,
        udp(host) as client,
    ):
        began = time.monotonic()
        seen = on.seen(client, 0, 0)
        assert time.monotonic() - began >= 0.020
        assert receive_after(on, client, seen)
        assert lab.mappings()["a"]
        lab.flush("a")
        assert not receive_after(on, client, seen)
        lab.set_nat("a", "symmetric")
        assert on.seen(client, 0, 0) != on.seen(client, 1, 0)
        with pytest.raises(LabError, match="renumber"):
            lab.flush("a", renumber=True)
        lab.set_link("a", "delay=30")
        began = time.monotonic()
        on.seen(client, 0, 0)
        assert time.monotonic() - began >= 0.040


def receive_after(on: Servers, client: socket.socket, seen) -> bool:
    on.sockets[1][1].sendto(b"!", seen)
    return receive(client, 0.3) is not None


def test_same_side_and_other_side_in_the_kernel() -> None:
    with (
        sides("kernel", "eim-eif", "symmetric", lan=2) as (lab, (host, other)),
        udp(host) as one,
        udp(lab["a2"]) as two,
        udp(other) as far,
    ):
        two.sendto(b"lan", (host.ip, one.getsockname()[1]))
        assert receive(one, PATIENCE) == (b"lan", (lab["a2"].ip, two.getsockname()[1]))
        one.sendto(b"out", (lab["s1"].ip, 9))
        far.sendto(b"in", ("11.100.0.1", one.getsockname()[1]))
        got = receive(one, PATIENCE)
        assert got is not None
        assert got[1][0] == "11.101.0.1"
