"""Behaviour discovery against the laboratory's NATs, whose rules are known, on virtual time."""

from __future__ import annotations

import itertools
import struct
from dataclasses import replace

import pytest

from pt.stun.attributes import Address
from pt.stun.discovery import Discovery, Wishes, discover
from pt.stun.limits import BURST
from pt.stun.messages import decode
from pt.stun.server import Answer, Place
from pt.stun.transactions import Schedule
from pt.wire.nat_facts import Allocation, Dependence, NatFacts
from tests.sim.stun_world import StunWorld

MAPPINGS = {
    "eim": Dependence.INDEPENDENT,
    "adm": Dependence.ADDRESS,
    "apdm": Dependence.ADDRESS_AND_PORT,
}
FILTERINGS = {
    "eif": Dependence.INDEPENDENT,
    "adf": Dependence.ADDRESS,
    "apdf": Dependence.ADDRESS_AND_PORT,
}
PORTS = {
    "preserve": Allocation.PRESERVING,
    "seq": Allocation.SEQUENTIAL,
    "random": Allocation.RANDOM,
    "block": Allocation.RANDOM,
}
FAST = Wishes(mtu=False)


def found(nat: str, wishes: Wishes = FAST, **words) -> tuple[Discovery, StunWorld]:
    world = StunWorld(nat, **words)
    return world.run(discover(world.prober, [world.address("s1")], wishes)), world


def facts(nat: str, wishes: Wishes = FAST, **words) -> NatFacts:
    return found(nat, wishes, **words)[0].facts


@pytest.mark.parametrize("serve", ["alone", "pair"])
@pytest.mark.parametrize("ports", PORTS)
@pytest.mark.parametrize("filtering", FILTERINGS)
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_every_kind_of_nat(mapping, filtering, ports, serve):
    told = facts(f"{mapping}-{filtering}-{ports}", serve=serve)
    assert told.works
    assert told.translated
    assert told.mapping is MAPPINGS[mapping]
    assert told.filtering is FILTERINGS[filtering]
    assert told.ports is PORTS[ports]
    assert told.step == (1 if ports == "seq" else 0)
    assert (told.block is not None) == (ports == "block")
    assert told.external == "11.100.0.1"
    assert told.quota is None
    assert told.label.startswith(f"{mapping}-")
    assert told.label.endswith(filtering)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("nat", ["eim-apdf", "adm-adf-random", "apdm-apdf-seq,step=3"])
def test_on_links_that_lose_and_delay(nat, seed):
    told = facts(nat, link="delay=20,loss=5,jitter=5", seed=seed)
    mapping, filtering = nat.partition(",")[0].split("-")[:2]
    assert told.mapping is MAPPINGS[mapping]
    assert told.filtering is FILTERINGS[filtering]


@pytest.mark.parametrize("step", [1, 2, 7])
def test_ports_in_a_row(step):
    told = facts(f"apdm-apdf-seq,step={step}")
    assert (told.ports, told.step) == (Allocation.SEQUENTIAL, step)
    assert told.noise == 0.0


@pytest.mark.parametrize("rate", [5, 50])
def test_ports_in_a_row_that_others_use(rate):
    world = StunWorld("apdm-apdf-seq", lan=2)
    other = itertools.count(2000)

    def foreign() -> None:
        source = (world.addresses["a2"][0], next(other))
        world.datagram("a2", source, ("11.1.0.1", 9), b"somebody else's")
        world.at(1 / rate, foreign)

    foreign()
    told = world.run(discover(world.prober, [world.address("s1")], FAST)).facts
    assert (told.ports, told.step) == (Allocation.SEQUENTIAL, 1)
    assert told.noise == pytest.approx(rate, rel=0.5)


def test_a_block_of_ports():
    told = facts("apdm-apdf-block,block=512")
    first, last = told.block
    assert last - first < 2048
    assert told.label == "apdm-block-apdf"


def test_no_nat_and_no_firewall():
    told = facts("public")
    assert told.translated is False
    assert told.label == "public"
    assert told.carrier_grade is False
    assert told.hairpin is None


@pytest.mark.parametrize("filtering", FILTERINGS)
def test_a_firewall_without_nat(filtering):
    told = facts(f"fw-{filtering}")
    assert told.translated is False
    assert told.mapping is Dependence.INDEPENDENT
    assert told.filtering is FILTERINGS[filtering]


@pytest.mark.parametrize("serve", ["alone", "pair"])
@pytest.mark.parametrize("filtering", FILTERINGS)
def test_an_ipv6_firewall(filtering, serve):
    told = facts(f"eim-apdf,v6={filtering}", six=True, serve=serve)
    assert (told.family, told.translated) == (6, False)
    assert told.filtering is FILTERINGS[filtering]


@pytest.mark.parametrize(
    ("words", "works", "internal"),
    [("on", True, False), ("off", False, False), ("internal", True, True)],
)
@pytest.mark.parametrize("nat", ["eim-eif", "eim-adf", "eim-apdf", "apdm-eif-random"])
def test_hairpins(nat, words, works, internal):
    if internal and "-eif" not in nat:  # the filter does not know the internal address
        works = internal = False
    told, _ = found(f"{nat},hairpin={words}")
    assert told.facts.hairpin is works
    assert told.hairpin_internal is internal


def test_no_hairpin_where_the_filter_may_be_in_the_way_is_not_known():
    assert facts("apdm-apdf-random,hairpin=off").hairpin is None


@pytest.mark.parametrize(("refresh", "inbound"), [("both", True), ("out", False)])
@pytest.mark.parametrize("timeout", [15, 30, 65])
@pytest.mark.parametrize("nat", ["eim-apdf", "apdm-adf-random"])
def test_how_long_a_mapping_lives(nat, timeout, refresh, inbound):
    cliffs = (10.0, 20.0, 28.0, 40.0, 58.0, 88.0)
    told, world = found(
        f"{nat},timeout={timeout},refresh={refresh}", Wishes(mtu=False, cliffs=cliffs)
    )
    lifetime = told.lifetime
    assert lifetime.at_least == max(each for each in cliffs if each < timeout)
    assert lifetime.at_most == min(each for each in cliffs if each > timeout)
    assert told.facts.lifetime == lifetime.at_least
    assert told.facts.inbound_refreshes is inbound
    assert told.facts.max_age is None
    assert world.host.most < 30


def test_a_mapping_that_outlives_what_is_tried():
    told, _ = found("eim-apdf,timeout=300", Wishes(mtu=False, cliffs=(10.0, 40.0)))
    assert (told.lifetime.at_least, told.lifetime.at_most) == (40.0, None)
    assert told.facts.inbound_refreshes is None


def test_a_mapping_that_is_gone_at_once():
    told, _ = found("eim-apdf,timeout=4", Wishes(mtu=False, cliffs=(10.0, 40.0)))
    assert (told.lifetime.at_least, told.lifetime.at_most) == (0.0, 10.0)
    assert told.facts.lifetime == 5.0


@pytest.mark.parametrize("nat", ["apdm-apdf-random", "eim-apdf", "eim-eif"])
def test_a_mapping_that_ends_whatever_the_traffic(nat):
    """Even where the next one is on the same port."""
    told, _ = found(f"{nat},timeout=50,maxage=45", Wishes(mtu=False, cliffs=(20.0, 40.0, 60.0)))
    assert 40 <= told.facts.max_age <= 62
    assert told.facts.inbound_refreshes is None


def test_no_lifetime_from_a_server_that_answers_to_no_other_port():
    world = StunWorld("eim-apdf,timeout=15")
    world.answers = lambda answer, _: replace(answer, to=world.asker)
    wishes = Wishes(mtu=False, cliffs=(10.0, 20.0))
    told = world.run(discover(world.prober, [world.address("s1")], wishes))
    assert told.facts.works
    assert told.lifetime is None


def test_a_quota():
    told = facts("apdm-apdf-random,max=12")
    assert told.quota == 12
    assert facts("apdm-apdf-random,max=64").quota is None


@pytest.mark.parametrize(("pooling", "pooled"), [("paired", False), ("arbitrary", True)])
def test_several_external_addresses(pooling, pooled):
    told, _ = found(f"eim-eif,pool=4,pooling={pooling}")
    assert told.pooled is pooled


def test_linux_looks_independent_until_two_hosts_clash():
    told = facts("linux")
    assert (told.mapping, told.ports) == (Dependence.INDEPENDENT, Allocation.PRESERVING)
    assert told.filtering is Dependence.ADDRESS_AND_PORT


def test_a_carriers_nat_behind_ours():
    told = facts("eim-apdf+apdm-random")
    assert told.mapping is Dependence.ADDRESS_AND_PORT
    assert told.carrier_grade is None  # addresses alone do not tell


def test_blocked():
    told, world = found("udpblock")
    assert told.facts.works is None
    assert told.silent == (world.address("s1"),)
    assert told.server is None


# --- what servers lack, and liars ---------------------------------------------------------------


def test_one_server_with_one_address():
    for nat in ("eim-eif", "adm-adf-random"):
        told = facts(nat, serve="single")
        assert told.works
        assert told.mapping is Dependence.UNKNOWN
        assert told.filtering is Dependence.UNKNOWN


def test_two_servers_that_know_nothing_of_each_other():
    for nat, dependence in (
        ("eim-eif", Dependence.INDEPENDENT),
        ("adm-adf-random", Dependence.ADDRESS_AND_PORT),  # the worse of what it may be
        ("apdm-apdf-random", Dependence.ADDRESS_AND_PORT),
    ):
        world = StunWorld(nat, serve="single")
        servers = [world.address("s1"), world.address("s2")]
        told = world.run(discover(world.prober, servers, FAST)).facts
        assert told.mapping is dependence
        assert told.filtering is Dependence.UNKNOWN


def test_a_dead_server_beside_a_live_one():
    world = StunWorld("eim-adf")
    servers = [("11.1.9.9", 3478), world.address("s1")]
    told = world.run(discover(world.prober, servers, FAST))
    assert told.facts.filtering is Dependence.ADDRESS
    assert told.silent == (servers[0],)


@pytest.mark.parametrize("shut", [Place(0, 1), Place(1, 1), Place(1, 0)])
def test_a_port_that_the_servers_own_firewall_shuts_is_not_taken_for_a_filter(shut):
    for nat in ("eim-eif", "eim-adf", "eim-apdf"):
        world = StunWorld(nat)
        world.answers = lambda answer, _: None if answer.place == shut else answer
        told = world.run(discover(world.prober, [world.address("s1")], FAST)).facts
        wanted = FILTERINGS[nat.partition("-")[2]]
        assert told.filtering in (wanted, Dependence.UNKNOWN)


def test_answers_from_elsewhere_that_are_not_count_for_nothing():
    world = StunWorld("eim-apdf")

    def from_the_same(answer: Answer, _: str) -> Answer:
        return replace(answer, place=Place(0, 0)) if answer.place != Place(0, 0) else answer

    world.answers = from_the_same
    told = world.run(discover(world.prober, [world.address("s1")], FAST)).facts
    assert told.filtering is not Dependence.INDEPENDENT


def lie(answer: Answer, mapped: Address, *, what: int = 0x0020) -> Answer:
    """The answer with another address in it, as ours (0x0020) or as the server's other one."""
    data = bytearray(answer.data)
    at = 20
    while at < len(data) - 8:
        kind, length = struct.unpack_from("!HH", data, at)
        if kind == what:
            mask = data[4:8] if what == 0x0020 else bytes(4)
            port = mapped[1] ^ int.from_bytes(mask[:2])
            ip = bytes(int(a) ^ b for a, b in zip(mapped[0].split("."), mask, strict=True))
            data[at + 6 : at + 12] = port.to_bytes(2) + ip
        at += 4 + length + -length % 4
    import zlib  # noqa: PLC0415

    data[-4:] = (zlib.crc32(data[:-8]) ^ 0x5354554E).to_bytes(4)
    decode(bytes(data))
    return replace(answer, data=bytes(data))


def hits(victim: Address, what: int, wishes: Wishes = FAST) -> list[int]:
    """Bytes of the packets that a client sends to a victim that a lying server names."""
    world = StunWorld("eim-apdf")
    found = []
    send = world.datagram

    def watch(name, source, to, data) -> None:
        if to[0] == victim[0]:
            found.append(len(data))
        send(name, source, to, data)

    world.datagram = watch
    world.answers = lambda answer, _: lie(answer, victim, what=what)
    world.run(discover(world.prober, [world.address("s1")], wishes))
    return found


def test_a_server_that_lies_about_our_address_is_not_written_to_it_without_end():
    found = hits(("11.1.1.99", 53), 0x0020, Wishes(mtu=False, cliffs=(10.0,)))
    assert 0 < len(found) <= 10  # the hairpin test: two sockets, five times
    assert sum(found) <= 280


def test_a_server_that_lies_about_its_other_address_is_not_written_there_without_end():
    found = hits(("11.1.1.99", 53), 0x802C)
    assert 0 < len(found) <= 8  # two places at that address, four times
    assert sum(found) <= 224


@pytest.mark.parametrize("victim", ["192.168.1.1", "10.0.0.1", "127.0.0.1"])
@pytest.mark.parametrize("what", [0x0020, 0x802C])
def test_a_server_on_the_internet_cannot_send_us_to_private_addresses(victim, what):
    assert hits((victim, 53), what) == []


def test_a_whole_discovery_stays_within_what_one_source_may_ask():
    _, world = found("apdm-apdf-random", Wishes(cliffs=(10.0, 20.0)), link="loss=10")
    assert world.sent < BURST


def test_it_ends_in_time_when_nobody_answers():
    world = StunWorld("eim-apdf")
    world.answers = lambda *_: None
    began = world.now
    wishes = Wishes(schedule=Schedule((0.0, 0.5), 2.0))
    world.run(discover(world.prober, [world.address("s1")], wishes))
    assert world.now - began <= 2.6


def test_closed_in_the_middle_nothing_is_left():
    world = StunWorld("eim-apdf", link="delay=50")
    results = []
    script = discover(world.prober, [world.address("s1")], FAST)
    world.prober.run(script, results.append, world.now, failed=results.append)
    world.settle(0.9)
    assert len(world.host.socks) > 1
    world.prober.close()
    assert list(world.host.socks) == [0]
    world.settle(1.0)
    assert results == []
    assert not world.prober.busy
