"""When a silent path is asked, left and given up: on a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from pt.tunnel.suspicion import GIVE_UP, MAX_HOLD, RECENT, Alarms, Step, Suspicion

TICK = 0.02


@dataclass
class World:
    """A path and a standby that answer after a round trip, or not."""

    rtt: float = 0.02
    spare_rtt: float | None = 0.04
    quick: bool = True
    now: float = 100.0
    heard: float = 100.0
    spare: float = 100.0
    alarms: Alarms = field(default_factory=Alarms)
    steps: list[tuple[float, Step]] = field(default_factory=list)
    _due: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.suspicion = Suspicion(self.alarms)
        self.suspicion.begin(self.now, "there")

    def run(self, seconds: float, *, alive: bool, bytes_come: bool = False) -> None:
        end = self.now + seconds
        while self.now < end:
            self.look(alive=alive)
            if bytes_come:
                self.heard = self.now
            self.now += TICK

    def look(self, *, alive: bool, late: float = 0.0) -> Step:
        for at, which in list(self._due):
            if at <= self.now:
                self._due.remove((at, which))
                setattr(self, which, at)
        step = self.suspicion.look(
            self.now,
            late=late,
            heard=self.heard,
            spare=None if self.spare_rtt is None else self.spare,
            rtt=self.rtt,
            quick=self.quick,
        )
        if step is Step.ASK:
            if alive:
                self._due.append((self.now + self.rtt, "heard"))
            if self.spare_rtt is not None:
                self._due.append((self.now + self.spare_rtt, "spare"))
        if step is not Step.WAIT:
            self.steps.append((self.now, step))
        return step

    def first(self, step: Step) -> float:
        return next(at for at, each in self.steps if each is step) - 100.0

    def count(self, step: Step) -> int:
        return sum(each is step for _, each in self.steps)


@pytest.mark.parametrize(("rtt", "most"), [(0.001, 0.16), (0.02, 0.16), (0.05, 0.18), (0.2, 0.6)])
def test_a_path_that_is_dead_is_left_within_a_few_round_trips(rtt: float, most: float) -> None:
    world = World(rtt=rtt)
    world.run(most, alive=False)
    assert world.first(Step.LEAVE) <= most
    assert world.first(Step.LEAVE) >= 1.5 * rtt + 0.04


def test_bytes_that_come_are_proof_enough() -> None:
    world = World()
    world.run(10, alive=True, bytes_come=True)
    assert not world.steps


def test_a_path_that_answers_is_kept() -> None:
    world = World()
    world.run(10, alive=True)
    assert world.count(Step.ASK)
    assert not world.count(Step.LEAVE)


@pytest.mark.parametrize("spare_rtt", [None, 5.0])
def test_silence_on_both_paths_is_the_machine_and_not_the_path(spare_rtt: float | None) -> None:
    world = World(spare_rtt=spare_rtt)
    world.run(0.5, alive=False)
    assert not world.count(Step.LEAVE)
    world.run(0.5, alive=False)
    assert GIVE_UP < world.first(Step.LOSE) < 1.0


def test_a_look_that_comes_late_says_nothing_of_the_peer() -> None:
    world = World()
    world.run(0.1, alive=False)
    world.now += 0.4
    assert world.look(alive=False, late=0.4) is Step.WAIT
    world.now += TICK
    assert world.look(alive=False) is Step.WAIT
    world.run(0.2, alive=False)
    assert world.count(Step.LEAVE) == 1  # it is dead all the same


def test_one_silence_is_one_suspicion() -> None:
    world = World()
    world.run(0.6, alive=False)
    assert world.count(Step.LEAVE) == 1


def test_where_nothing_is_expected_there_is_more_time() -> None:
    world = World(quick=False)
    world.run(0.14, alive=False)
    assert not world.steps


def test_jitter_is_given_time() -> None:
    steady, shaky = World(), World()
    for number in range(20):
        shaky.rtt = 0.02 + 0.06 * (number % 2)
        shaky.look(alive=True)
        shaky.heard = shaky.now = shaky.now + TICK
    shaky.rtt = 0.02
    begun = shaky.now
    shaky.steps.clear()
    shaky.run(0.6, alive=False)
    steady.run(0.6, alive=False)
    assert world_left(shaky) - begun > 1.3 * steady.first(Step.LEAVE)


def world_left(world: World) -> float:
    return next(at for at, step in world.steps if step is Step.LEAVE)


def test_each_false_alarm_doubles_the_patience_for_a_while() -> None:
    waited = []
    alarms = Alarms()
    for _ in range(4):
        world = World(alarms=alarms)
        world.run(0.69, alive=False)
        waited.append(world.first(Step.LEAVE) if world.count(Step.LEAVE) else GIVE_UP)
        alarms.false(world.now)
    assert waited == sorted(waited)
    assert waited[1] > 1.4 * waited[0]
    assert waited[-1] > 0.6
    assert alarms.caution(100.0 + RECENT + 1) == 1


def test_a_path_that_comes_and_goes_is_trusted_later_and_later() -> None:
    alarms = Alarms()
    holds = []
    for number in range(10):
        alarms.left(100.0 + number)
        holds.append(alarms.hold(100.0 + number))
    assert holds == sorted(holds)
    assert holds[0] == 0.5
    assert holds[-1] == MAX_HOLD
    assert alarms.hold(500.0) < 0.5


def test_a_round_trip_that_was_measured_before_the_queue_counts_on_the_next_path() -> None:
    world = World(rtt=0.05)
    world.look(alive=True)
    world.suspicion.begin(world.now, "elsewhere")
    world.suspicion.begin(world.now, "there")
    world.rtt = 0.3
    world.run(0.2, alive=False)
    assert world.count(Step.LEAVE)
