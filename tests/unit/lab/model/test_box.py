"""NATs and firewalls do what RFC 4787, 5382 and 5508 call what they are called."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pt.lab.model.box import Box
from pt.lab.model.builder import Reason, echo, fragments, icmp_error, tcp, udp
from pt.lab.model.packet import ACK, FIN, RST, SYN, Endpoint
from pt.lab.model.spec import FILTERINGS, MAPPINGS, parse_nat
from tests.unit.lab.model.test_packet import is_intact

E, E2 = b"\x0b\x64\0\x01", b"\x0b\x64\0\x02"
A = (b"\xc0\xa8\x01\x0a", 40000)
A2 = (b"\xc0\xa8\x01\x0b", 40000)
R1, R2, R3 = ((b"\x0b\x01\0\x01", 3478), (b"\x0b\x01\0\x01", 3479), (b"\x0b\x01\x01\x01", 3478))


class Probe:
    """A box, and what an experimenter does with it."""

    def __init__(self, text: str, seed: int = 1) -> None:
        spec = parse_nat(text)[0]
        self.notes: list[tuple[str, dict]] = []
        addresses = [E, E2][: spec.pool]
        self.box = Box(spec, addresses, random.Random(seed), self.note)

    def note(self, event: str, now: float, facts: dict) -> None:
        self.notes.append((event, facts))

    def out(self, remote: Endpoint = R1, now: float = 0.0, source: Endpoint = A) -> Endpoint | str:
        """The outer endpoint of a datagram, or why it was dropped."""
        return self.send(udp(source, remote, b"x"), now)

    def send(self, packet, now: float = 0.0) -> Endpoint | str:
        verdict = self.box.outbound(packet, now)
        assert verdict.drop or is_intact(packet)
        return verdict.drop or (packet.source, packet.sport)

    def back(self, remote: Endpoint, external: Endpoint, now: float = 0.0) -> Endpoint | str:
        """The inner endpoint that a datagram reaches, or why it was dropped."""
        return self.receive(udp(remote, external, b"y"), now)

    def receive(self, packet, now: float = 0.0) -> Endpoint | str:
        verdict = self.box.inbound(packet, now)
        assert verdict.drop or is_intact(packet)
        return verdict.drop or (packet.target, packet.dport)


@pytest.mark.parametrize("filtering", FILTERINGS)
@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("ports", ["preserve", "seq", "random", "block"])
def test_mapping_and_filtering_are_independent_of_each_other(mapping, filtering, ports) -> None:
    probe = Probe(f"{mapping}-{filtering}-{ports}")
    first, port, address = (probe.out(remote) for remote in (R1, R2, R3))
    assert probe.out(R1) == first
    if mapping == "apdm":
        assert len({first, port, address}) == 3
    else:
        assert first == port
        assert (first == address) == (mapping == "eim")
    fresh = Probe(f"{mapping}-{filtering}-{ports}")
    external = fresh.out(R1)
    assert fresh.back(R1, external) == A
    assert (fresh.back(R2, external) == A) == (filtering != "apdf")
    assert (fresh.back(R3, external) == A) == (filtering == "eif")
    if ports == "preserve":
        assert external == (E, 40000)


@given(
    st.sampled_from(MAPPINGS),
    st.sampled_from(FILTERINGS),
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 2), st.integers(0, 3), st.integers(0, 5)),
        max_size=40,
    ),
)
@settings(max_examples=60)
def test_nothing_passes_that_its_rule_does_not_allow(mapping, filtering, steps) -> None:
    probe = Probe(f"{mapping}-{filtering}-random,ports=2000-2063")
    remotes = [R1, R2, R3, (R3[0], 3479)]
    owners: dict[Endpoint, Endpoint] = {}
    sent: dict[Endpoint, list[Endpoint]] = {}
    for outward, inside, which, guess in steps:
        remote = remotes[which]
        if outward:
            source = (A[0], 40000 + inside)
            external = probe.out(remote, source=source)
            assert owners.setdefault(external, source) == source  # never two behind one
            sent.setdefault(external, []).append(remote)
            continue
        external = (list(sent) or [(E, 2000)])[guess % max(len(sent), 1)]
        allowed = {
            "eif": external in sent,
            "adf": any(to[0] == remote[0] for to in sent.get(external, ())),
            "apdf": remote in sent.get(external, ()),
        }[filtering]
        result = probe.back(remote, external)
        assert (result == owners.get(external)) == allowed, result


def test_a_hard_nat_answers_by_the_binding_that_it_was_reached_by() -> None:
    probe = Probe("apdm-eif-random")
    external = probe.out(R1)
    assert probe.back(R3, external) == A
    assert probe.out(R3) == external
    assert probe.out(R2) != external


def test_timeouts_and_what_refreshes() -> None:
    for text, alive in (("eim,timeout=30", True), ("eim,timeout=30,refresh=out", False)):
        probe = Probe(text)
        external = probe.out(R1, 0)
        assert probe.back(R1, external, 29) == A
        assert (probe.back(R1, external, 45) == A) == alive
        assert ("unmap" in [event for event, _ in probe.notes]) != alive
    probe = Probe("eim,timeout=30")
    external = probe.out(R1, 0)
    probe.out(R1, 20)
    assert probe.back(R1, external, 49) == A
    assert probe.back(R1, external, 79.5) == "no mapping"
    assert probe.notes[-1][1]["why"] == "timeout"


def test_a_mapping_that_nobody_answered_ends_earlier() -> None:
    probe = Probe("linux,new=30,timeout=120")
    external = probe.out(R1, 0)
    assert probe.back(R1, external, 31) == "no mapping"
    external = probe.out(R1, 40)
    assert probe.back(R1, external, 41) == A
    assert probe.back(R1, external, 160) == A


def test_maxage_ends_a_mapping_in_use() -> None:
    probe = Probe("eim-apdf-random,maxage=60")
    external = probe.out(R1, 0)
    for now in range(1, 60):
        assert probe.out(R1, now) == external
    assert probe.out(R1, 60) != external
    assert ("unmap", "maxage") in [(event, facts.get("why")) for event, facts in probe.notes]


def test_filters_time_out_for_themselves() -> None:
    probe = Probe("eim-apdf,timeout=30")
    external = probe.out(R1, 0)
    for now in range(0, 100, 10):
        probe.out(R3, now)
    assert probe.back(R1, external, 95) == "filtered"
    assert probe.back(R3, external, 95) == A


@pytest.mark.parametrize(
    ("hairpin", "expected"), [("off", None), ("on", "external"), ("internal", "internal")]
)
def test_hairpin(hairpin, expected) -> None:
    probe = Probe(f"eim-eif,hairpin={hairpin}")
    external = probe.out(R1)
    packet = udp(A2, external, b"x")
    verdict = probe.box.outbound(packet, 0)
    if expected is None:
        assert verdict.drop == "hairpin is off"
        return
    assert verdict.back
    assert (packet.target, packet.dport) == A
    assert (packet.source != A2[0]) == (expected == "external")
    assert is_intact(packet)


def test_hairpin_is_filtered() -> None:
    probe = Probe("eim-apdf,hairpin=on")
    external = probe.out(R1)
    assert probe.box.outbound(udp(A2, external), 0).drop == "filtered"


def test_quota_pool_and_exhaustion() -> None:
    probe = Probe("apdm-random,max=8")
    results = [probe.out((R1[0], 1000 + n)) for n in range(12)]
    assert results[8:] == ["quota"] * 4
    assert probe.out(R1, source=A2) != "quota"
    probe = Probe("apdm-random,ports=2000-2003")
    assert [probe.out((R1[0], n)) for n in range(5)][-1] == "no free port"
    probe = Probe("eim,pool=2")
    assert {probe.out(source=each)[0] for each in (A, A2)} == {E, E2}
    assert {probe.out(source=(A[0], port))[0] for port in range(2000, 2040)} == {E}
    probe = Probe("eim,pool=2,pooling=arbitrary")
    assert {probe.out(source=(A[0], port))[0] for port in range(2000, 2040)} == {E, E2}


def test_linux_keeps_the_port_until_a_clash() -> None:
    probe = Probe("linux")
    assert {probe.out(remote) for remote in (R1, R2, R3)} == {(E, 40000)}
    clash = probe.out(R1, source=A2)
    assert clash != (E, 40000)
    assert probe.back(R1, clash) == A2
    assert probe.back(R1, (E, 40000)) == A
    assert probe.out((R3[0], 9), source=A2) == (E, 40000)  # no clash there


@pytest.mark.parametrize("text", ["linux", "eim-apdf"])
def test_an_early_packet_moves_the_port_if_the_router_takes_it(text) -> None:
    for input_, same in (("drop", True), ("accept", False)):
        probe = Probe(f"{text},input={input_}")
        assert probe.out(R1) == (E, 40000)
        assert probe.back(R3, (E, 40000)) in ("no mapping", "filtered")
        moved = probe.out(R3)
        assert (moved == (E, 40000)) == same
        assert probe.out(R3) == moved
        assert probe.out(R1) == (E, 40000)
        assert probe.back(R3, moved) == A


def test_blocked_and_unsolicited_in_silence_or_not() -> None:
    assert Probe("udpblock").out() == "udp is blocked"
    probe = Probe("tcp443")
    assert probe.send(tcp(A, R1, SYN)) == "tcp is blocked"
    assert probe.send(tcp(A, (R1[0], 443), SYN)) == (E, 40000)
    assert Probe("eim").box.inbound(udp(R1, (E, 9)), 0).reply is None
    rude = Probe("eim,unsolicited=reject")
    answer = rude.box.inbound(udp(R1, (E, 9)), 0).reply
    assert answer is not None
    assert (answer.icmp_type, answer.target) == (3, R1[0])
    answer = rude.box.inbound(tcp(R1, (E, 9), SYN), 0).reply
    assert answer is not None
    assert answer.flags & RST


def test_tcp_connections_and_their_timers() -> None:
    probe = Probe("eim,tcpnew=10,tcpest=100,tcpfin=5")
    external = probe.send(tcp(A, R1, SYN), 0)
    assert probe.receive(tcp(R1, external, SYN | ACK), 1) == A
    probe.send(tcp(A, R1, ACK), 1)
    assert probe.receive(tcp(R1, external, ACK), 100) == A
    assert probe.receive(tcp(R1, external, FIN | ACK), 110) == A
    assert probe.send(tcp(A, R1, FIN | ACK), 111) == external
    assert probe.receive(tcp(R1, external, ACK), 112) == A
    assert probe.receive(tcp(R1, external, ACK), 118) == "no mapping"
    assert probe.send(tcp(A, R1, ACK), 118) == "no such connection"
    external = probe.send(tcp(A, R1, SYN), 200)
    assert probe.receive(tcp(R1, external, SYN | ACK), 211) == "no mapping"


def test_a_reset_ends_a_connection() -> None:
    probe = Probe("eim")
    external = probe.send(tcp(A, R1, SYN), 0)
    probe.receive(tcp(R1, external, SYN | ACK), 0)
    probe.receive(tcp(R1, external, RST), 1)
    assert probe.receive(tcp(R1, external, ACK), 30) == "no mapping"


@pytest.mark.parametrize(("simopen", "passes"), [(1, True), (0, False)])
def test_simultaneous_open(simopen, passes) -> None:
    probe = Probe(f"eim-apdf,simopen={simopen}")
    external = probe.send(tcp(A, R1, SYN))
    assert (probe.receive(tcp(R1, external, SYN)) == A) == passes
    assert probe.receive(tcp(R1, external, SYN | ACK)) == A


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_errors_are_translated_with_what_they_quote(mapping) -> None:
    probe = Probe(f"{mapping}-apdf-random")
    sent = udp(A, R1, b"hello")
    assert not probe.box.outbound(sent, 0).drop
    router = b"\x0b\xff\0\x01"
    error = icmp_error(sent, Reason.TTL_EXCEEDED, router)
    assert probe.receive(error) == (A[0], 0)
    assert error.error is not None
    assert (error.error.source, error.error.sport) == A
    stranger = icmp_error(udp((E, 9), R1), Reason.PORT, R1[0])
    assert probe.receive(stranger) == "icmp error about nothing known"
    got = udp(R1, (sent.source, sent.sport), b"x")
    assert not probe.box.inbound(got, 0).drop
    refused = icmp_error(got, Reason.PORT, A[0])
    assert not probe.box.outbound(refused, 0).drop
    assert refused.source == E
    assert refused.error is not None
    assert (refused.error.target, refused.error.dport) == (sent.source, sent.sport)
    assert probe.send(icmp_error(udp(R3, A), Reason.PORT, A[0])) == "icmp error about nothing known"


def test_an_error_does_not_keep_a_mapping() -> None:
    probe = Probe("eim,timeout=30")
    sent = udp(A, R1, b"hello")
    probe.box.outbound(sent, 0)
    assert probe.receive(icmp_error(sent, Reason.NO_ROUTE, R1[0]), 29) == (A[0], 0)
    assert probe.back(R1, (sent.source, sent.sport), 31) == "no mapping"


def test_echo() -> None:
    probe = Probe("eim")
    request = echo(A[0], R1[0], 7)
    assert not probe.box.outbound(request, 0).drop
    assert request.source == E
    reply = echo(R1[0], E, request.sport)
    reply.data[20] = 0
    reply = type(reply)(bytes(reply.data))
    assert not probe.box.inbound(reply, 0).drop
    assert (reply.target, reply.dport) == (A[0], 7)


def test_fragments_follow_the_first() -> None:
    probe = Probe("apdm-random")
    first, *rest = fragments(udp(A, R1, bytes(3000)), 1500)
    assert probe.box.outbound(rest[0], 0).drop == "fragment before its first"
    for piece in (first, *rest):
        assert not probe.box.outbound(piece, 0).drop
        assert piece.source == E
    assert probe.box.outbound(rest[0], 60).drop == "fragment before its first"
    back = fragments(udp(R1, (E, first.sport), bytes(3000)), 1500)
    for piece in back:
        assert not probe.box.inbound(piece, 0).drop
        assert piece.target == A[0]
    assert Probe("eim,frag=0").box.outbound(first, 0).drop == "fragment"


def test_a_firewall_filters_and_leaves_addresses_alone() -> None:
    for filtering in FILTERINGS:
        probe = Probe(f"fw-{filtering}")
        assert probe.back(R1, A) == "no mapping"
        assert probe.out(R1) == A
        assert probe.back(R1, A) == A
        assert (probe.back(R2, A) == A) == (filtering != "apdf")
        assert (probe.back(R3, A) == A) == (filtering == "eif")
    assert Probe("public").back(R1, A) == A


def test_a_reboot_forgets() -> None:
    probe = Probe("eim-eif-random")
    external = probe.out(R1)
    probe.box.flush(1.0, [E2])
    assert probe.back(R1, external, 1.0) == "no mapping"
    assert probe.out(R1, 1.0)[0] == E2
    assert probe.box.mappings(1.0)[0]["internal"] == "192.168.1.10:40000"
    assert probe.box.next_due() is not None


def test_the_same_seed_gives_the_same_ports() -> None:
    one, same, other = Probe("apdm", 7), Probe("apdm", 7), Probe("apdm", 8)
    remotes = [(R1[0], 1000 + n) for n in range(20)]
    ports = [[probe.out(remote) for remote in remotes] for probe in (one, same, other)]
    assert ports[0] == ports[1] != ports[2]


def test_unknown_protocols_do_not_pass() -> None:
    packet = udp(A, R1)
    packet.protocol = 47
    assert Probe("eim").send(packet) == "protocol is not translated"


def test_a_scan_of_every_port_keeps_one_mapping() -> None:
    probe = Probe("eim-apdf")
    externals = {probe.out((R1[0], port)) for port in range(1024, 65536)}
    assert externals == {(E, 40000)}
    assert probe.back((R1[0], 1024), (E, 40000)) == A
    assert len(list(itertools.islice(probe.box.mappings(0.0), 2))) == 1
