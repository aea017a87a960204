"""The network as a whole, on a clock of the test's own."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest

from pt.lab.model.builder import Reason, echo, icmp_error, tcp, udp
from pt.lab.model.packet import SYN, Packet
from pt.lab.model.plan import make_plan
from pt.lab.model.spec import parse_link, parse_nat
from pt.lab.model.world import UnknownError, World


class Net:
    """A world with a clock, and datagrams as people think of them."""

    def __init__(self, seed: int = 1, **words) -> None:
        sides = {name: words.pop(name) for name in list(words) if len(name) == 1}
        self.plan = make_plan(sides, **words)
        self.ip = {host.name: host.addresses for host in self.plan.hosts}
        self.now = 0.0
        self.notes: list[dict] = []
        self.tapped: list[tuple[float, bytes]] = []
        self.world = World(
            self.plan,
            lambda name: random.Random(f"{seed}/{name}"),
            lambda event, now, facts: self.notes.append({"t": now, "event": event, **facts}),
            lambda now, data: self.tapped.append((now, data)),
        )

    def address(self, host: str, index: int = 0) -> bytes:
        return ip_address(self.ip[host][index]).packed

    def send(self, host: str, packet: Packet) -> list[tuple[float, str, Packet]]:
        """Let a host send; all that arrives anywhere because of it, with times."""
        self.world.send(host, bytes(packet.data), self.now)
        return self.run()

    def run(self) -> list[tuple[float, str, Packet]]:
        found = []
        while True:
            found += [(self.now, host, Packet(raw)) for host, raw in self.world.advance(self.now)]
            due = self.world.next_due()
            if due is None:
                return found
            self.now = max(self.now, due)

    def udp(self, host: str, port: int, to: tuple[bytes, int], **more):
        return self.send(host, udp((self.address(host), port), to, b"data", **more))

    def why(self) -> str:
        drops = [note for note in self.notes if note["event"] == "drop"]
        return f"{drops[-1]['at']}: {drops[-1]['why']}"


def test_a_datagram_and_its_answer() -> None:
    net = Net(a="eim", b="apdm")
    ((_, host, got),) = net.udp("a", 4000, (net.address("s1"), 3478))
    assert host == "s1"
    assert (got.source, got.sport) == (ip_address("11.100.0.1").packed, 4000)
    assert got.ttl == 64 - 1 - 8
    ((_, host, back),) = net.udp("s1", 3478, (got.source, got.sport))
    assert host == "a"
    assert (back.target, back.dport) == (net.address("a"), 4000)
    assert net.udp("s2", 3478, (got.source, got.sport)) == []
    assert net.why() == "a: filtered"
    assert len(net.tapped) == 3


def test_four_links_make_a_round_trip() -> None:
    net = Net(a="eim", b="eim", link="delay=10", links={"s1": "delay=30"})
    ((now, _, got),) = net.udp("a", 4000, (net.address("s1"), 3478))
    assert now == pytest.approx(0.04)
    net.udp("b", 4000, (net.address("s1"), 3478))
    other = ip_address("11.101.0.1").packed
    assert net.udp("b", 4000, (got.source, got.sport)) == []
    start = net.now
    ((now, host, _),) = net.udp("a", 4000, (other, 4000))
    assert (host, round(now - start, 6)) == ("b", 0.02)


def test_lost_cut_and_copied() -> None:
    net = Net(a="eim", links={"a": "loss=100"})
    assert net.udp("a", 4000, (net.address("s1"), 1)) == []
    assert net.why() == "a: lost on the link"
    net.world.set_link("a", parse_link("dup=100"))
    assert len(net.udp("a", 4000, (net.address("s1"), 1))) == 2
    net.world.cut("a", cut=True)
    assert net.udp("a", 4000, (net.address("s1"), 1)) == []
    assert net.why() == "a: cut"
    net.world.cut("a", cut=False)
    assert len(net.udp("a", 4000, (net.address("s1"), 1))) == 2
    stats = net.world.stats()
    assert stats["drops"]["a"] == {"cut": 1, "lost on the link": 1}
    assert stats["links"]["a"]["up"]["packets"] == 2


@pytest.mark.parametrize(
    ("ttl", "router"),
    [(1, "192.168.1.1"), (5, "11.255.0.1"), (9, "11.255.0.1"), (10, "11.101.0.1?"), (12, None)],
)
def test_low_ttls_die_on_the_way_and_say_so(ttl, router) -> None:
    net = Net(a="eim", b="eim")
    net.udp("b", 5000, (ip_address("11.100.0.1").packed, 4000))
    got = net.udp("a", 4000, (ip_address("11.101.0.1").packed, 5000), ttl=ttl)
    if router is None:
        assert [host for _, host, _ in got] == ["b"]
        return
    ((_, host, error),) = got
    assert (host, error.icmp_type) == ("a", 11)
    if not router.endswith("?"):
        assert error.source == ip_address(router).packed
    assert error.error is not None
    assert (error.error.source, error.error.sport) == (net.address("a"), 4000)


def test_too_big() -> None:
    net = Net(a="eim", link="mtu=1300")
    big = udp((net.address("a"), 4000), (net.address("s1"), 1), bytes(1400))
    ((_, host, error),) = net.send("a", big)
    assert (host, error.icmp_type) == ("a", 3)
    assert int.from_bytes(error.data[24:28], "big") == 1300
    big.data[6] = 0  # may be fragmented
    big = Packet(bytes(big.data))
    pieces = net.send("a", big)
    assert [host for _, host, _ in pieces] == ["s1", "s1"]
    six = Net(a="v6", link="mtu=1300")
    big = udp((six.address("a"), 4000), (six.address("s1", 2), 1), bytes(1400))
    ((_, host, error),) = six.send("a", big)
    assert (host, error.icmp_type) == ("a", 2)
    assert int.from_bytes(error.data[44:48], "big") == 1300


def test_chains_translate_twice_and_hairpin_at_the_carrier() -> None:
    net = Net(a="eim+eim")
    ((_, _, got),) = net.udp("a", 4000, (net.address("s1"), 1))
    assert got.source == ip_address("11.100.0.1").packed
    assert got.ttl == 64 - 2 - 8
    ((_, host, _),) = net.udp("s1", 1, (got.source, got.sport))
    assert host == "a"
    for hairpin, arrives in (("on", True), ("off", False)):
        net = Net(a="eim-eif", b="eim-eif", cgn=f"eim-eif,hairpin={hairpin}")
        ((_, _, one),) = net.udp("a", 4000, (net.address("s1"), 1))
        net.udp("b", 5000, (net.address("s1"), 1))
        got = net.udp("b", 5000, (one.source, one.sport))
        assert ([host for _, host, _ in got] == ["a"]) == arrives


def test_a_lan_is_one_network_and_private_addresses_end_there() -> None:
    net = Net(a="eim", b="eim", lan=2, overlap=True)
    ((_, host, _),) = net.udp("a", 1, (net.address("a2"), 2))
    assert host == "a2"
    # The same address is another host on the other side.
    ((_, host, _),) = net.udp("b", 1, (net.address("a"), 2))
    assert host == "b2"
    assert net.udp("a", 1, (ip_address("10.1.1.1").packed, 2)) == []
    assert net.why() == "core: no route"
    got = net.udp("a", 1, (ip_address("224.0.0.251").packed, 5353))
    assert [host for _, host, _ in got] == ["a2"]
    assert net.udp("s1", 1, (ip_address("224.0.0.251").packed, 5353)) == []


def test_routers_answer_pings_and_nothing_else() -> None:
    net = Net(a="eim")
    ((_, host, reply),) = net.send("a", echo(net.address("a"), ip_address("192.168.1.1").packed, 7))
    assert (host, reply.icmp_type, reply.sport) == ("a", 0, 7)
    assert net.udp("a", 1, (ip_address("192.168.1.1").packed, 5351)) == []
    ((_, host, reply),) = net.send("a", echo(net.address("a"), net.address("s1"), 7))
    assert (host, reply.icmp_type) == ("s1", 8)


def test_spoofed_and_malformed_packets_go_nowhere() -> None:
    net = Net(a="eim")
    assert net.send("a", udp((net.address("s2"), 1), (net.address("s1"), 2))) == []
    assert net.why() == "a: source address is not the host's"
    net.world.send("a", b"junk", 0.0)
    assert "malformed" in net.why()


def test_random_bytes_do_no_harm() -> None:
    net = Net(a="eim", b="fw,v6=apdf")
    rng = random.Random(5)
    for number in range(3000):
        host = rng.choice(["a", "b", "s1"])
        packet = udp((net.address(host), 1), (net.address("s2"), 2), rng.randbytes(40))
        if number % 3 == 0:
            packet = icmp_error(packet, Reason.PORT, net.address(host))
        raw = bytearray(packet.data)
        for _ in range(rng.randrange(6)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        net.world.send(host, bytes(raw), net.now)
        net.run()
    assert len(net.udp("a", 4000, (net.address("s1"), 1))) == 1


def test_ipv6_walls() -> None:
    for wall, arrives in (("open", True), ("eif", False), ("apdf", False)):
        net = Net(a=f"eim,v6={wall}")
        six = (net.address("s1", 2), 1)
        sent = udp(six, (net.address("a", 1), 9), b"x")
        assert bool(net.send("s1", sent)) == arrives
        net.send("a", udp((net.address("a", 1), 9), six, b"x"))
        assert len(net.send("s1", sent)) == 1
        other = udp((net.address("s2", 2), 1), (net.address("a", 1), 9))
        assert bool(net.send("s2", other)) == (wall != "apdf")


def test_a_reboot_and_another_address() -> None:
    net = Net(a="eim")
    ((_, _, got),) = net.udp("a", 4000, (net.address("s1"), 1))
    assert net.world.flush("a", net.now) == ("11.100.0.1",)
    assert net.udp("s1", 1, (got.source, got.sport)) == []
    assert net.world.flush("a", net.now, renumber=True) == ("11.100.0.2",)
    ((_, _, again),) = net.udp("a", 4000, (net.address("s1"), 1))
    assert again.source == ip_address("11.100.0.2").packed
    assert net.udp("s1", 1, (got.source, got.sport)) == []
    assert net.why() == "core: no route"
    net.world.change_nat("a", parse_nat("symmetric")[0], net.now)
    ((_, _, hard),) = net.udp("a", 4000, (net.address("s1"), 1))
    assert hard.sport != 4000
    assert net.world.mappings(net.now)["a"][0]["protocol"] == "udp"
    assert net.world.nats == ("a",)
    with pytest.raises(UnknownError, match="there are a"):
        net.world.flush("x", 0.0)


def test_an_unknown_tcp_segment_is_answered_by_a_rude_nat() -> None:
    net = Net(a="eim,unsolicited=reject")
    ((_, host, reset),) = net.send(
        "s1", tcp((net.address("s1"), 1), (ip_address("11.100.0.1").packed, 2), SYN)
    )
    assert (host, reset.flags & 4) == ("s1", 4)


def test_a_seed_decides_everything() -> None:
    def fates(seed: int) -> list:
        net = Net(seed, a="apdm", link="loss=20,jitter=5,reorder=10,dup=5,delay=5")
        for port in range(200):
            net.udp("a", 4000, (net.address("s1"), 1 + port))
        return [(note["event"], note.get("external"), round(note["t"], 9)) for note in net.notes]

    assert fates(3) == fates(3) != fates(4)


def test_bindings_that_end_are_told() -> None:
    net = Net(a="eim,timeout=5")
    net.udp("a", 4000, (net.address("s1"), 1))
    net.world.expire(4.0)
    assert [note["event"] for note in net.notes] == ["map"]
    net.world.expire(6.0)
    assert [note["event"] for note in net.notes] == ["map", "unmap"]
