"""The goal table of hole punching, row by row, on a virtual clock, and what is done to a punch."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace

import pytest

from pt.punch import Budget, Candidate, Kind, Strategy
from pt.punch.commands import MAIN
from pt.punch.planner import MAX_PINGS, SPRAY_999
from pt.punch.strategies import OPENER_TTL
from pt.trace import Tracer
from tests.sim.punch_world import World
from tests.unit.punch.classes import facts

RTT = 0.05


def attempts(one: str, other: str, count: int, **how: object) -> list[World]:
    """`count` attempts, half of them with each side controlling."""
    worlds = []
    for seed in range(count):
        left, right = (one, other) if seed % 2 else (other, one)
        world = World(
            facts(left, external="11.1.0.1"),
            facts(right, external="11.2.0.1"),
            seed=seed,
            rtt=RTT,
            **how,  # type: ignore[arg-type]
        )
        worlds.append(world.run())
    return worlds


def quantile(worlds: list[World], part: float) -> float:
    times = sorted(world.time for world in worlds if world.direct)
    return times[min(len(times) - 1, int(part * len(times)))]


def won_by(worlds: list[World]) -> set[Strategy]:
    return {host.won.strategy for world in worlds for host in world.hosts if host.won}


EASY = ["public", "fw", "eim-eif", "eim-adf", "eim-apdf"]


@pytest.mark.parametrize("one", EASY)
def test_easy_pairs_take_one_round_trip(one: str) -> None:
    for other in EASY:
        worlds = attempts(one, other, 4)
        assert all(world.direct for world in worlds)
        assert quantile(worlds, 1) <= 1.05 * RTT
        assert won_by(worlds) == {Strategy.SIMULTANEOUS}


def test_easy_pairs_with_loss() -> None:
    worlds = attempts("eim-apdf", "eim-apdf", 200, loss=0.1)
    assert all(world.direct for world in worlds)
    assert quantile(worlds, 0.5) <= 1.05 * RTT
    assert quantile(worlds, 0.99) <= 3 * RTT


@pytest.mark.parametrize("easy", ["public", "eim-eif", "eim-adf"])
@pytest.mark.parametrize("hard", ["adm-random-apdf", "apdm-random-apdf", "apdm-seq-adf"])
def test_a_hard_side_is_met_by_one_that_looks_at_addresses_only(easy: str, hard: str) -> None:
    worlds = attempts(easy, hard, 10)
    assert all(world.direct for world in worlds)
    assert quantile(worlds, 1) <= 1.5 * RTT + 0.001


@pytest.mark.parametrize("hard", ["adm-random-eif", "apdm-random-eif", "apdm-seq-eif"])
def test_a_hard_side_with_an_open_filter_waits(hard: str) -> None:
    worlds = attempts("eim-apdf", hard, 10)
    assert all(world.direct for world in worlds)
    assert quantile(worlds, 1) <= 1.5 * RTT + 0.001
    assert won_by(worlds) == {Strategy.WAIT}


def test_two_hard_sides_of_which_one_is_open() -> None:
    for other in ("apdm-random-apdf", "adm-random-adf", "apdm-random-eif"):
        worlds = attempts("apdm-random-eif", other, 10)
        assert all(world.direct for world in worlds), other
        assert quantile(worlds, 1) <= 1.5 * RTT + 0.001


@pytest.mark.parametrize("ports", ["seq", "preserve"])
@pytest.mark.parametrize("mapping", ["adm", "apdm"])
def test_the_next_ports_are_foretold(mapping: str, ports: str) -> None:
    worlds = attempts("eim-apdf", f"{mapping}-{ports}-apdf", 30, presample=True, noise=60.0)
    assert all(world.direct for world in worlds)
    assert quantile(worlds, 1) <= 2 * RTT
    assert max(max(world.packets) for world in worlds) <= 32
    unsampled = attempts("eim-apdf", f"{mapping}-{ports}-apdf", 30, noise=60.0)
    assert all(world.direct for world in unsampled)
    assert quantile(unsampled, 1) <= 2.5 * RTT + 0.001


@pytest.mark.parametrize(("noise", "count"), [(0.0, 20), (5.0, 20), (20.0, 100), (60.0, 100)])
def test_two_sequential_allocations_meet_in_the_first_round(noise: float, count: int) -> None:
    worlds = attempts("apdm-seq-apdf", "apdm-seq-apdf", count, presample=True, noise=noise)
    direct = [world for world in worlds if world.direct]
    assert len(direct) >= 0.99 * count
    assert quantile(worlds, 0.95) <= 2 * RTT
    assert won_by(worlds) == {Strategy.LOCKSTEP}


def test_steps_of_other_sizes() -> None:
    for step in (2, -1, 7):
        moving = replace(facts("apdm-seq-apdf"), step=step)
        world = World(moving, replace(moving, external="11.2.0.1"), seed=step, noise=20.0).run()
        assert world.direct, step


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("adm-seq-apdf", "apdm-seq-apdf"),
        ("adm-preserve-apdf", "apdm-seq-apdf"),
        ("adm-preserve-apdf", "apdm-preserve-apdf"),
        ("apdm-preserve-apdf", "apdm-preserve-apdf"),
    ],
)
def test_other_pairs_that_can_both_be_foretold(one: str, other: str) -> None:
    worlds = attempts(one, other, 20, noise=20.0)
    assert all(world.direct for world in worlds)
    assert quantile(worlds, 1) <= 2.5 * RTT + 0.001


def test_birthday() -> None:
    worlds = attempts("eim-apdf", "apdm-random-apdf", 400)
    direct = sum(world.direct for world in worlds)
    assert direct >= 399  # 999 of 1,000 within the budget
    assert quantile(worlds, 0.5) <= 0.21 + RTT
    assert quantile(worlds, 0.99) <= 1.25 + RTT
    assert won_by(worlds) <= {Strategy.BIRTHDAY, Strategy.SIMULTANEOUS}
    assert max(max(world.packets) for world in worlds) <= SPRAY_999 + 100


def test_a_block_is_found_at_once() -> None:
    worlds = attempts("eim-apdf", "apdm-block-apdf", 40)
    assert all(world.direct for world in worlds)
    assert quantile(worlds, 0.5) <= 0.05 + RTT
    assert max(host.most_socks for world in worlds for host in world.hosts) <= 65


def test_a_block_that_is_wrong_costs_little() -> None:
    lying = replace(facts("apdm-random-apdf", external="11.2.0.1"), block=(30000, 30511))
    direct = 0
    for seed in range(20):
        world = World(
            facts("eim-apdf"),
            facts("apdm-random-apdf", external="11.2.0.1"),
            seed=seed,
            told=(facts("eim-apdf"), lying),
        ).run()
        direct += world.direct
    assert direct == 20


@pytest.mark.parametrize(
    ("one", "other", "strategy"),
    [
        ("apdm-random-adf", "apdm-random-adf", Strategy.ONE_SIDED_BIRTHDAY),
        ("apdm-random-adf", "apdm-random-apdf", Strategy.ONE_SIDED_BIRTHDAY),
        ("adm-random-adf", "adm-random-apdf", Strategy.ONE_SIDED_BIRTHDAY),
        ("adm-seq-apdf", "apdm-random-apdf", Strategy.BIRTHDAY),
        ("adm-preserve-apdf", "apdm-random-apdf", Strategy.BIRTHDAY),
    ],
)
def test_hard_pairs_as_easy_as_one_hard_side(one: str, other: str, strategy: Strategy) -> None:
    worlds = attempts(one, other, 20, presample=True)
    assert all(world.direct for world in worlds)
    assert strategy in won_by(worlds)
    assert quantile(worlds, 0.5) <= 0.45 + RTT


def test_a_full_scan_of_two_address_dependent_sides() -> None:
    world = World(
        facts("adm-random-apdf"),
        facts("adm-random-apdf", external="11.2.0.1"),
        seed=1,
        budget=Budget(full_scan=True, seconds=60),
    )
    begun = time.process_time()
    world.run()
    assert world.direct
    assert world.time <= 10
    # no work per packet that grows with the packets
    assert (time.process_time() - begun) / sum(world.packets) < 300e-6


def test_what_only_a_relay_can_do_is_decided_at_once() -> None:
    worlds = attempts("apdm-random-apdf", "apdm-random-apdf", 4)
    for world in worlds:
        assert not world.direct
        assert world.clock.now <= 0.5
        assert max(world.packets) <= 12
        assert "no port can be guessed" in (world.hosts[0].ended or "")


# --- wrong facts ---------------------------------------------------------------------------------


def test_facts_that_promise_too_little_cost_nothing() -> None:
    truth = facts("eim-apdf", external="11.2.0.1")
    told = facts("apdm-random-apdf", external="11.2.0.1")
    world = World(facts("eim-apdf"), truth, seed=3, told=(facts("eim-apdf"), told)).run()
    assert world.direct
    assert world.time <= 1.05 * RTT


def test_of_an_unknown_nat_the_worst_is_tried_last() -> None:
    truth = facts("apdm-random-apdf", external="11.2.0.1")
    told = (facts("eim-apdf"), facts("unknown"))
    world = World(facts("eim-apdf"), truth, seed=3, told=told).run()
    assert world.direct
    assert won_by([world]) == {Strategy.BIRTHDAY}
    assert 1.0 < world.time < 4.0


def test_a_hopeless_attempt_ends_within_its_budget() -> None:
    truth = facts("apdm-random-apdf", external="11.2.0.1")
    told = (facts("eim-apdf"), facts("eim-apdf", external="11.2.0.1"))
    world = World(facts("eim-apdf"), truth, seed=3, told=told).run()
    assert not world.direct
    for host in world.hosts:
        assert len(host.sent) <= host.puncher.plan.packets
        assert host.socks == {MAIN: 4000}
        assert host.puncher.over


# --- one network, equal networks, strangers ------------------------------------------------------


def test_one_network_is_used_from_inside() -> None:
    nat = replace(facts("apdm-random-apdf"), hairpin=True)
    world = World(nat, nat, seed=1, same_nat=True).run()
    assert world.direct
    assert world.hosts[0].won is not None
    assert world.hosts[0].won.strategy is Strategy.LAN
    assert world.hosts[0].won.addr == ("192.168.1.3", 4000)
    assert world.time <= 0.01


def test_equal_subnets_never_lead_to_the_wrong_host() -> None:
    """The peer's private address belongs to somebody here, who answers whatever it is sent."""
    world = World(
        facts("eim-apdf"), facts("eim-apdf", external="11.2.0.1"), seed=1, same_subnet=True
    )
    stranger = ("192.168.1.3", 4000)
    host = world.hosts[0]
    forward = world.send

    def send(sender, port, data, addr, ttl):  # type: ignore[no-untyped-def]
        forward(sender, port, data, addr, ttl)
        if sender is host and addr == stranger:  # its own packet comes back, and then nonsense
            for echo in (data, bytes(len(data)), data[:-1] + b"\0"):
                host.puncher.receive(world.clock.now, MAIN, echo, stranger)

    world.send = send  # type: ignore[method-assign]
    world.run()
    assert world.direct
    assert host.won is not None
    assert host.won.addr[0] == "11.2.0.1"
    assert stranger in world.strangers


def test_an_address_that_does_not_answer_gets_a_bounded_number_of_packets() -> None:
    victims = tuple(Candidate(Kind.REFLEXIVE, f"11.66.0.{n}", 53) for n in range(1, 9))
    truth = facts("apdm-random-apdf", external="11.2.0.1")
    world = World(
        facts("eim-apdf"),
        truth,
        seed=1,
        told=(facts("eim-apdf"), facts("eim-apdf", external="11.2.0.1")),
    )
    offer_side = replace(world.hosts[1].puncher.ours, candidates=victims)
    world.hosts[0].puncher.theirs = offer_side
    world.run()
    assert world.strangers
    assert all(len(packets) <= MAX_PINGS for packets in world.strangers.values())


def test_guesses_go_only_to_the_address_that_was_told() -> None:
    world = World(
        facts("eim-apdf"), facts("apdm-random-apdf", external="11.2.0.1"), seed=5, loss=1.0
    ).run()
    assert not world.direct
    remote = {addr[0] for _, addr, _ in world.hosts[0].sent}
    assert remote == {"11.2.0.1", "192.168.2.3"}
    ports = [addr[1] for _, addr, _ in world.hosts[0].sent if addr[0] == "11.2.0.1"]
    assert min(ports) >= 1024
    spray = world.hosts[0].sent
    per_second = max(sum(1 for t, _, _ in spray if s <= t < s + 1) for s in (0.0, 0.5, 1.0))
    assert per_second <= 1000 + 100


def test_every_port_is_guessed_once() -> None:
    world = World(
        facts("eim-apdf"), facts("apdm-random-apdf", external="11.2.0.1"), seed=5, loss=1.0
    ).run()
    told = world.hosts[0].puncher.theirs.wan(4)[0].port
    ports = [addr[1] for _, addr, _ in world.hosts[0].sent if addr[0] == "11.2.0.1"]
    guessed = [port for port in ports if port != told]
    assert len(guessed) == len(set(guessed)) >= SPRAY_999 - 1


# --- one side is late ---------------------------------------------------------------------------


@pytest.mark.parametrize("late", [0.5, 1.5, 4.0])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("eim-apdf", "eim-apdf"),
        ("eim-apdf", "apdm-random-apdf"),
        ("apdm-random-apdf", "eim-apdf"),
        ("apdm-seq-apdf", "apdm-seq-apdf"),
        ("apdm-random-eif", "eim-apdf"),
    ],
)
def test_an_offer_that_is_late_costs_time_only(one: str, other: str, late: float) -> None:
    """The controlling side has the other's offer long after that one began."""
    worlds = []
    for seed in range(4):
        world = World(
            facts(one),
            facts(other, external="11.2.0.1"),
            seed=seed,
            skew=-late,
            presample=True,
            ahead=late,
        )
        worlds.append(world.run())
    assert all(world.direct for world in worlds)
    assert all(world.time <= 2.5 for world in worlds)


def test_a_peer_that_never_begins_is_given_up() -> None:
    world = World(facts("eim-apdf"), facts("eim-apdf", external="11.2.0.1"), seed=1, loss=1.0)
    world.hosts[0].puncher.over = True
    world.run()
    other = world.hosts[1]
    assert other.ended is not None
    assert len(other.sent) <= other.puncher.plan.packets


# --- early packets -------------------------------------------------------------------------------


def test_an_early_packet_poisons_some_nats_if_one_side_is_late() -> None:
    """Why both begin at the same time, or with a packet that does not get far."""
    worlds = attempts("eim-apdf", "eim-apdf", 4, poison=True, skew=RTT)
    assert not any(world.direct for world in worlds)


@pytest.mark.parametrize("jitter", [0.0, 0.01, -0.01])
def test_waiting_for_half_a_round_trip_avoids_it(jitter: float) -> None:
    how = {"poison": True, "skew": RTT / 2 + jitter, "wait": RTT / 2}
    worlds = attempts("eim-apdf", "eim-apdf", 4, **how)
    assert all(world.direct for world in worlds)
    assert all(world.time <= RTT + abs(jitter) + 0.016 for world in worlds)
    early = [ttl for when, _, ttl in worlds[0].hosts[0].sent if when < RTT / 2]
    assert early == [OPENER_TTL]


def test_birthday_sockets_open_with_packets_that_do_not_arrive() -> None:
    world = World(facts("apdm-random-apdf"), facts("eim-apdf", external="11.2.0.1"), seed=2).run()
    assert world.direct
    first = [ttl for _, addr, ttl in world.hosts[0].sent if addr[0] == "11.2.0.1"]
    assert first.count(OPENER_TTL) > 200


# --- traces --------------------------------------------------------------------------------------


def test_the_trace_has_every_packet_and_decision() -> None:
    sink = io.StringIO()
    clock = [0.0]
    tracer = Tracer(sink, lambda: clock[0])
    world = World(
        facts("eim-apdf"), facts("apdm-random-apdf", external="11.2.0.1"), seed=2, tracer=tracer
    )
    world.clock.at(0.0, lambda: None)
    world.run()
    records = [json.loads(line) for line in sink.getvalue().splitlines()]
    kinds = [record["event"] for record in records]
    assert kinds[1] == "punch_plan"
    assert kinds.count("punch_sent") == len(world.hosts[0].sent)
    assert kinds.count("punch_won") == 1
    won = next(record for record in records if record["event"] == "punch_won")
    assert won["strategy"] == "birthday"
    plan = records[1]
    assert plan["ours"] == ["udp4 eim-apdf"]
    assert plan["theirs"] == ["udp4 apdm-random-apdf"]
    for event in ("punch_step", "punch_received", "punch_pair"):
        assert event in kinds
