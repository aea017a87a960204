"""The plan of every pair of NATs, as data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pt.punch import Budget, Candidate, Job, Kind, Plan, Side, Strategy, make_plan
from pt.punch.planner import SPRAY_999
from pt.wire.nat_facts import NatFacts
from tests.unit.punch.classes import NAMES, facts, side

RTT = 0.05


def plans(one: Side, other: Side, rtt: float = RTT) -> tuple[Plan, Plan]:
    return (
        make_plan(one, other, controlling=True, rtt=rtt),
        make_plan(other, one, controlling=False, rtt=rtt),
    )


def expected(one: str, other: str) -> Strategy:
    """The rows of the goal table, said once more and in another way than the planner does."""

    def word(name: str) -> tuple[str, str, str]:
        mapping, *ports, filtering = name.split("-")
        return mapping, ports[0] if ports else "", filtering

    (m1, p1, f1), (m2, p2, f2) = sorted([word(one), word(other)], key=lambda w: w[0] != "eim")
    guess = {
        "preserve": Strategy.PREDICT,
        "seq": Strategy.PREDICT,
        "block": Strategy.BLOCK_BIRTHDAY,
    }
    if m1 == m2 == "eim":
        return Strategy.SIMULTANEOUS
    if m1 == "eim":
        if f1 != "apdf":
            return Strategy.SIMULTANEOUS
        return Strategy.WAIT if f2 == "eif" else guess.get(p2, Strategy.BIRTHDAY)
    if "eif" in (f1, f2):
        return Strategy.WAIT if "apdf" in (f1, f2) else Strategy.SIMULTANEOUS
    if "adf" in (f1, f2):
        lax = [p for p, f in ((p1, f1), (p2, f2)) if f == "adf"]
        for ports in ("preserve", "seq", "block"):
            if ports in lax:
                return guess[ports]
        return Strategy.ONE_SIDED_BIRTHDAY
    known = {"preserve", "seq"}
    fixed = [m1 == "adm", m2 == "adm"]
    if p1 in known and p2 in known:
        moving = all((m, p) == ("apdm", "seq") for m, p in ((m1, p1), (m2, p2)))
        return Strategy.LOCKSTEP if moving else Strategy.PREDICT
    for p, is_fixed, peer in ((p1, fixed[0], p2), (p2, fixed[1], p1)):
        if p in known and is_fixed:
            return Strategy.BLOCK_BIRTHDAY if peer == "block" else Strategy.BIRTHDAY
    return Strategy.RELAY


@pytest.mark.parametrize("one", NAMES)
def test_every_pair_has_its_strategy(one: str) -> None:
    for other in NAMES:
        ours, theirs = plans(side(one, 1), side(other, 2))
        assert ours.best is theirs.best is expected(one, other), other
        assert ours.why
        assert ours.why[0].isupper()
        assert ours.why.endswith(".")


MORE = [*NAMES, "public", "fw", "unknown"]


@pytest.mark.parametrize("one", MORE)
def test_both_ends_make_the_same_plan(one: str) -> None:
    for other in MORE:
        ours, theirs = plans(side(one, 1, tcp="eim-apdf"), side(other, 2, tcp="eim-adf"))
        check_symmetry(ours, theirs)


def check_symmetry(ours: Plan, theirs: Plan) -> None:
    assert ours.best is theirs.best
    assert len(ours.steps) == len(theirs.steps)
    for mine, yours in zip(ours.steps, theirs.steps, strict=True):
        assert mine.strategy is yours.strategy
        assert (mine.ours, mine.theirs) == (yours.theirs, yours.ours)
        assert (mine.start, mine.seconds, mine.block) == (yours.start, yours.seconds, yours.block)
        assert mine.packets <= Budget().packets
        assert mine.sockets <= Budget().sockets
        assert mine.seconds > 0 or mine.strategy is Strategy.RELAY
    assert ours.steps[-1].strategy is Strategy.RELAY
    assert ours.steps[-1].why


@pytest.mark.parametrize("one", NAMES)
def test_what_the_facts_promise_begins_at_once(one: str) -> None:
    for other in NAMES:
        plan = make_plan(side(one, 1), side(other, 2), controlling=True, rtt=RTT)
        if plan.best is Strategy.RELAY:
            assert plan.seconds <= 0.5  # decided without an attempt but on the LAN
        else:
            first = next(step for step in plan.steps if step.strategy is plan.best)
            assert first.start == 0


def test_who_foretells_ports_spends_little_on_what_is_unlikely() -> None:
    easy, hard = plans(side("eim-apdf", 1), side("apdm-seq-apdf", 2))
    gaps = [
        next(step.gap for step in plan.steps if step.strategy is Strategy.SIMULTANEOUS)
        for plan in (easy, hard)
    ]
    assert gaps[0] >= 0.1
    assert gaps[1] < 0.02


def test_a_firewall_is_an_easy_nat() -> None:
    ours, _ = plans(side("fw", 1), side("fw", 2))
    assert ours.best is Strategy.SIMULTANEOUS
    assert "firewalls" in ours.why


def test_a_public_side_needs_one_packet() -> None:
    ours, theirs = plans(side("apdm-random-apdf", 1), side("public", 2))
    assert ours.best is Strategy.SIMULTANEOUS
    assert "The other side's NAT lets in whoever" in ours.why
    assert "This side's NAT lets in whoever" in theirs.why


def test_the_waiting_side_is_the_one_with_the_hard_mapping() -> None:
    ours, theirs = plans(side("apdm-random-eif", 1), side("eim-apdf", 2))
    assert ours.steps[1].strategy is Strategy.WAIT
    assert (ours.steps[1].ours, ours.steps[1].theirs) == (Job.WAIT, Job.SEND)
    assert not any(step.strategy is Strategy.SIMULTANEOUS for step in ours.steps)
    assert Strategy.BIRTHDAY in [step.strategy for step in theirs.steps]


def test_the_sockets_are_on_the_side_with_the_hard_mapping() -> None:
    ours, theirs = plans(side("eim-apdf", 1), side("apdm-random-apdf", 2))
    spray = next(step for step in ours.steps if step.strategy is Strategy.BIRTHDAY)
    many = next(step for step in theirs.steps if step.strategy is Strategy.BIRTHDAY)
    assert (spray.ours, spray.packets, spray.sockets) == (Job.SPRAY, SPRAY_999, 1)
    assert (many.ours, many.packets, many.sockets) == (Job.SOCKETS, 512, 256)
    assert spray.opener_ttl is None
    assert many.opener_ttl is not None


def test_the_sockets_are_where_the_filter_ignores_ports() -> None:
    for number, names in enumerate(
        [("apdm-random-adf", "apdm-random-apdf"), ("adm-random-apdf",) * 2]
    ):
        ours, theirs = plans(side(names[0], 1), side(names[1], 2))
        if number == 0:
            assert ours.best is Strategy.ONE_SIDED_BIRTHDAY
            step = next(step for step in ours.steps if step.strategy is ours.best)
            assert step.ours is Job.SOCKETS
        else:
            assert ours.best is Strategy.RELAY
            assert theirs.hopeless


def test_a_quota_is_respected() -> None:
    hard = side("apdm-random-apdf", 2)
    hard = replace(hard, facts=(replace(hard.facts[0], quota=256),))
    plan = make_plan(hard, side("eim-apdf", 1), controlling=False, rtt=RTT)
    assert max(step.sockets for step in plan.steps) == 64


def test_a_narrow_block_takes_few_sockets_first_and_all_later() -> None:
    plan = make_plan(side("apdm-block-apdf", 1), side("eim-apdf", 2), controlling=True, rtt=RTT)
    chain = [step for step in plan.steps if "birthday" in step.strategy.value]
    assert [(step.strategy, step.sockets) for step in chain] == [
        (Strategy.BLOCK_BIRTHDAY, 64),
        (Strategy.BIRTHDAY, 128),  # a quarter of the block: others of this user need ports, too
    ]
    assert chain[0].block == (20000, 20511)
    assert chain[1].start == chain[0].start + chain[0].seconds


SCAN = Budget(full_scan=True, seconds=60)


@pytest.mark.parametrize("other", ["adm-random-apdf", "apdm-random-apdf"])
def test_a_full_scan_is_made_if_both_ask(other: str) -> None:
    one, two = side("adm-random-apdf", 1, budget=SCAN), side(other, 2, budget=SCAN)
    plan = make_plan(one, two, controlling=True, rtt=RTT)
    assert plan.best is Strategy.FULL_SCAN
    refused = make_plan(one, side(other, 2), controlling=True, rtt=RTT)
    assert refused.best is Strategy.RELAY
    assert "scan" in refused.why
    assert "full scan on both sides" in refused.cure


def test_two_moving_random_sides_are_not_scanned_even_if_asked() -> None:
    one, two = (side("apdm-random-apdf", n, budget=SCAN) for n in (1, 2))
    plan = make_plan(one, two, controlling=True, rtt=RTT)
    assert plan.hopeless
    assert "port mapping" in plan.cure


def test_without_udp_there_is_tcp() -> None:
    ours, theirs = plans(side("blocked", 1, tcp="eim-apdf"), side("eim-apdf", 2, tcp="eim-apdf"))
    assert ours.best is theirs.best is Strategy.TCP_SIMULTANEOUS_OPEN
    step = next(step for step in ours.steps if step.ours is Job.CONNECT)
    assert step.start == 0


@pytest.mark.parametrize(
    ("one", "other", "possible"),
    [
        ("eim-apdf", "eim-apdf", True),
        ("apdm-random-apdf", "eim-adf", True),
        ("apdm-random-apdf", "eim-apdf", False),
        ("apdm-random-apdf", "apdm-random-apdf", False),
        ("blocked", "eim-eif", False),
    ],
)
def test_tcp_pairs(one: str, other: str, possible: bool) -> None:
    plan = make_plan(
        side("blocked", 1, tcp=one), side("blocked", 2, tcp=other), controlling=True, rtt=RTT
    )
    assert (plan.best is Strategy.TCP_SIMULTANEOUS_OPEN) is possible
    if not possible:
        assert "lets no UDP out" in plan.why
        assert plan.cure


def test_tcp_with_two_nats_that_refuse_crossing_syns_takes_the_relay() -> None:
    sides = []
    for number in (1, 2):
        one = side("blocked", number, tcp="eim-apdf")
        tcp = replace(one.facts[1], simultaneous_open=False)
        sides.append(replace(one, facts=(one.facts[0], tcp)))
    plan = make_plan(sides[0], sides[1], controlling=True, rtt=RTT)
    assert plan.hopeless
    assert "neither NAT lets in a SYN" in plan.why


def test_tcp_is_the_last_thing_tried_where_udp_is_likely_to_work() -> None:
    ours, _ = plans(side("eim-apdf", 1, tcp="eim-apdf"), side("eim-apdf", 2, tcp="eim-apdf"))
    assert ours.steps[-2].strategy is Strategy.TCP_SIMULTANEOUS_OPEN
    assert ours.steps[-2].start > 0


def test_ipv6_firewalls_are_opened_by_both() -> None:
    sides = []
    for number in (1, 2):
        one = side("apdm-random-apdf", number)
        v6 = replace(facts("fw"), family=6, external=f"2a00:6000::{number}")
        host = Candidate(Kind.HOST, f"2a00:6000::{number}", 4000)
        sides.append(replace(one, facts=(*one.facts, v6), candidates=(*one.candidates, host)))
    plan = make_plan(sides[0], sides[1], controlling=True, rtt=RTT)
    assert plan.best is Strategy.IPV6_PINHOLE
    half = make_plan(sides[0], side("apdm-random-apdf", 2), controlling=True, rtt=RTT)
    assert half.hopeless


def test_a_port_mapping_makes_a_hard_nat_easy() -> None:
    hard = side("apdm-random-apdf", 1)
    mapped = replace(hard, candidates=(*hard.candidates, Candidate(Kind.MAPPED, "11.1.0.1", 9000)))
    plan = make_plan(mapped, side("apdm-random-apdf", 2), controlling=True, rtt=RTT)
    assert plan.best is Strategy.SIMULTANEOUS


def test_one_nat_in_common_goes_inside_first_and_through_its_hairpin_later() -> None:
    one, two = side("eim-apdf", 1), side("eim-apdf", 1)
    plan = make_plan(one, two, controlling=True, rtt=RTT)
    assert plan.best is Strategy.LAN
    hairpin = next(step for step in plan.steps if step.strategy is Strategy.HAIRPIN)
    assert hairpin.start >= 0.15
    deaf = [replace(each, facts=(replace(each.facts[0], hairpin=False),)) for each in (one, two)]
    plan = make_plan(deaf[0], deaf[1], controlling=True, rtt=RTT)
    assert Strategy.HAIRPIN not in [step.strategy for step in plan.steps]
    assert "does not return" in plan.steps[-1].why


def test_of_an_unknown_side_plain_sending_is_tried_first_and_guessing_later() -> None:
    plan = make_plan(side("unknown", 1), side("eim-apdf", 2), controlling=True, rtt=RTT)
    strategies = [step.strategy for step in plan.steps]
    assert plan.best is Strategy.SIMULTANEOUS
    assert "not known" in plan.why
    assert strategies[-2] is Strategy.BIRTHDAY


def test_the_smaller_budget_counts() -> None:
    polite = Budget(pps=200, packets=1000, sockets=32, seconds=3)
    plan = make_plan(
        side("eim-apdf", 1), side("apdm-random-apdf", 2, budget=polite), controlling=True, rtt=RTT
    )
    step = next(step for step in plan.steps if step.strategy is Strategy.BIRTHDAY)
    assert (step.pps, step.packets) == (200, 1000)
    other = make_plan(
        side("apdm-random-apdf", 2, budget=polite), side("eim-apdf", 1), controlling=False, rtt=RTT
    )
    step = next(step for step in other.steps if step.strategy is Strategy.BIRTHDAY)
    assert step.sockets == 32


def test_addresses_that_are_nobodys_are_not_usable() -> None:
    for host in ("224.0.0.1", "0.0.0.0", "127.0.0.1", "255.255.255.255", "::", "::1", "ff02::1"):
        assert not Candidate(Kind.HOST, host, 4000).usable
    assert not Candidate(Kind.HOST, "11.0.0.1", 0).usable
    assert Candidate(Kind.HOST, "11.0.0.1", 4000).usable


def test_unknown_facts_have_a_label() -> None:
    assert Side().nat(4, NatFacts().protocol).label == "?m-?f"
