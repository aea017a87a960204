"""Fair shares on a virtual clock: who gets how much, when, and that nobody waits for ever."""

from __future__ import annotations

import heapq
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pt.relay.shaper import BURST_TIME, MIN_BURST, Shaper

WANT = 64 * 1024
MB = 1_000_000


class Circuit:
    """A circuit with always more to move; `per_wake` takes at most each time it is woken."""

    def __init__(self, world: World, owner: object, per_wake: int = 1000) -> None:
        self.world = world
        self.owner = owner
        self.per_wake = per_wake
        self.moved = 0
        self.share = world.shaper.add(owner)

    def ready(self) -> None:
        for _ in range(self.per_wake):
            got = self.share.take(WANT, self.world.now)
            if not got:
                self.share_parks()
                return
            self.moved += got
        self.world.later(self.world.lag, self.ready)  # the socket is still readable

    def share_parks(self) -> None:
        self.world.shaper.park(self.share, self.woken)
        self.world.plan()

    def woken(self) -> None:
        # As an event loop does it: what is woken runs in the loop's next round.
        self.world.later(self.world.lag, self.ready)


class World:
    """A virtual event loop, whose rounds take `lag` seconds and whose timers `tick` too long."""

    def __init__(self, shaper: Shaper, lag: float = 0.0, tick: float = 0.0) -> None:
        self.shaper = shaper
        self.now = 100.0
        self.lag = lag
        self.tick = tick
        self.runs = 0
        self._events: list = []
        self._numbers = itertools.count()
        self._planned: float | None = None

    def later(self, delay, call) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._numbers), call))

    def plan(self) -> None:
        at = self.shaper.due(self.now)
        if at is not None and (self._planned is None or at < self._planned):
            self._planned = at
            self.later(at - self.now + self.tick, self._run)

    def _run(self) -> None:
        self._planned = None
        self.runs += 1
        assert self.runs < 200_000, "the shaper spins"
        self.shaper.run(self.now)
        self.plan()

    def start(self, circuits) -> None:
        for circuit in circuits:
            self.later(0, circuit.ready)

    def run_for(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            at, _, call = heapq.heappop(self._events)
            self.now = max(self.now, at)
            call()
        self.now = end


def by_owner(circuits) -> dict:
    total: dict = {}
    for circuit in circuits:
        total[circuit.owner] = total.get(circuit.owner, 0) + circuit.moved
    return total


@pytest.mark.parametrize("per_wake", [1, 1000])
@pytest.mark.parametrize(("lag", "tick"), [(0.0, 0.0), (0.0002, 0.001), (0.001, 0.005)])
@pytest.mark.parametrize("rate", [20_000, 1 * MB, 40 * MB])
def test_an_owner_with_eight_circuits_gets_what_an_owner_with_one_gets(rate, lag, tick, per_wake):
    world = World(Shaper(rate), lag, tick)
    circuits = [Circuit(world, "many", per_wake) for _ in range(8)]
    circuits += [Circuit(world, "one", per_wake), Circuit(world, "two", per_wake)]
    circuits += [Circuit(world, "two", per_wake)]
    world.start(circuits)
    world.run_for(2)
    before, already = by_owner(circuits), [circuit.moved for circuit in circuits]
    seconds = max(10, 4 * MB / rate)
    world.run_for(seconds)
    got = {owner: total - before[owner] for owner, total in by_owner(circuits).items()}
    assert sum(got.values()) == pytest.approx(rate * seconds, rel=0.02)
    for moved in got.values():
        assert moved == pytest.approx(rate * seconds / 3, rel=0.05)
    many = [c.moved - a for c, a in zip(circuits, already, strict=True)][:8]
    assert min(many) == pytest.approx(max(many), rel=0.2)


def test_a_circuit_that_comes_late_gets_its_share_at_once():
    world = World(Shaper(MB), lag=0.0002, tick=0.001)
    first = [Circuit(world, "first") for _ in range(3)]
    world.start(first)
    world.run_for(20)
    late = Circuit(world, "late")
    world.start([late])
    before = by_owner(first)["first"]
    world.run_for(2)
    assert late.moved == pytest.approx(MB, rel=0.08)
    assert by_owner(first)["first"] - before == pytest.approx(MB, rel=0.08)


def test_what_an_idle_owner_leaves_goes_to_the_others():
    world = World(Shaper(MB))
    busy, gone = Circuit(world, "busy"), Circuit(world, "gone")
    world.start([busy, gone])
    world.run_for(5)
    world.shaper.remove(gone.share)
    before = busy.moved
    world.run_for(5)
    assert busy.moved - before == pytest.approx(5 * MB, rel=0.02)


def test_a_slow_owner_does_not_hold_up_the_others():
    """It gets its turn, moves a little, gives back the rest, and sleeps on what it may take."""
    world = World(Shaper(MB))
    busy = Circuit(world, "busy")

    class Slow(Circuit):
        def ready(self) -> None:
            got = self.share.take(WANT, world.now)
            if not got:
                self.share_parks()
                return
            self.moved += min(got, 1000)
            self.share.refund(got - min(got, 1000))
            world.later(0.01, self.ready)

    slow = Slow(world, "slow")
    world.start([busy, slow])
    world.run_for(10)
    assert slow.moved > 0.9 * 10 * 100 * 1000 * 0.5  # half of what it could at least
    assert busy.moved + slow.moved == pytest.approx(10 * MB, rel=0.02)


def test_an_owner_whose_data_pauses_catches_up():
    """While it has nothing to move it falls behind, and is served first when it is back."""
    world = World(Shaper(10 * MB), lag=0.0002, tick=0.001)

    class Bursty(Circuit):
        def ready(self) -> None:
            if world.now * 1000 % 50 < 10:
                world.later(0.01, self.ready)
            else:
                super().ready()

    many = [Circuit(world, "many") for _ in range(8)]
    bursty = Bursty(world, "bursty")
    world.start([*many, bursty])
    world.run_for(10)
    assert bursty.moved == pytest.approx(50 * MB, rel=0.06)
    assert by_owner(many)["many"] == pytest.approx(50 * MB, rel=0.06)


def test_one_run_serves_all_circuits_of_an_owner():
    shaper = Shaper(MB)
    shares = [shaper.add("owner") for _ in range(4)]
    assert shares[0].take(10 * MB, 0.0)
    for share in shares:
        shaper.park(share, lambda: None)
    shaper.run(0.1)
    assert [share.take(16 * 1024, 0.1) for share in shares] == [16 * 1024] * 4


def test_a_grant_that_nobody_uses_comes_back():
    shaper = Shaper(MB)
    sleeper, other = shaper.add("sleeper"), shaper.add("other")
    assert shaper.add("first").take(10 * MB, 0.0) == int(BURST_TIME * MB)
    shaper.park(sleeper, lambda: None)
    shaper.run(0.1)  # the whole burst is dealt to the sleeper, who never takes it
    awake = []
    shaper.park(other, lambda: awake.append(1))
    shaper.run(0.1001)
    assert not awake
    shaper.run(0.3)
    assert awake
    assert other.take(10 * MB, 0.3) == pytest.approx(BURST_TIME * MB, rel=0.1)
    assert sleeper.take(WANT, 0.3) <= BURST_TIME * MB * 0.2


@pytest.mark.parametrize("rate", [0, 5 * MB])
def test_the_rate_of_a_circuit(rate):
    world = World(Shaper(rate, 300_000))
    circuits = [Circuit(world, n % 2) for n in range(4)]
    world.start(circuits)
    world.run_for(10)
    for circuit in circuits:
        assert circuit.moved == pytest.approx(3 * MB + MIN_BURST, rel=0.02)


def test_circuits_bound_by_their_own_rate_leave_the_rest_to_others():
    world = World(Shaper(MB, 200_000), lag=0.0002, tick=0.001)
    circuits = [Circuit(world, "one")] + [Circuit(world, "many") for _ in range(8)]
    world.start(circuits)
    world.run_for(2)
    before = by_owner(circuits)
    world.run_for(10)
    got = {owner: total - before[owner] for owner, total in by_owner(circuits).items()}
    assert got["one"] == pytest.approx(2 * MB, rel=0.05)
    assert got["many"] == pytest.approx(8 * MB, rel=0.05)


def test_without_rates_nothing_is_bounded():
    shaper = Shaper()
    assert shaper.unlimited
    assert shaper.add("a").take(1 << 40, 0.0) == 1 << 40
    assert shaper.due(5.0) is None
    assert not Shaper(0, 1).unlimited
    assert not Shaper(1, 0).unlimited


def test_the_burst_is_bounded():
    for rate in (1000, 100 * MB):
        shaper = Shaper(rate)
        share = shaper.add("a")
        burst = max(MIN_BURST, int(rate * BURST_TIME))
        assert share.take(1 << 40, 0.0) == burst
        assert share.take(1 << 40, 1e6) == burst


def test_what_is_refunded_can_be_taken_again():
    shaper = Shaper(1000, 1000)
    share = shaper.add("a")
    assert share.take(MIN_BURST, 0.0) == MIN_BURST
    share.refund(5000)
    assert share.take(MIN_BURST, 0.0) == 5000


def test_a_little_is_given_at_once_and_crumbs_are_not():
    shaper = Shaper(100_000)
    share = shaper.add("a")
    assert share.take(MIN_BURST - 100, 0.0) == MIN_BURST - 100
    assert share.take(WANT, 0.0) == 0
    assert share.take(100, 0.0) == 100
    assert share.take(1, 0.0) == 0


def test_removed_shares_are_not_woken():
    shaper = Shaper(MB, 100_000)
    woken = []
    shares = [shaper.add(n) for n in range(3)]
    for number, share in enumerate(shares):
        assert share.take(MIN_BURST, 0.0) in {MIN_BURST, MB // 10 - MIN_BURST, 0}
        shaper.park(share, lambda number=number: woken.append(number))
    shaper.remove(shares[1])
    shaper.remove(shares[1])
    while (at := shaper.due(0.0)) is not None:
        shaper.run(at)
    assert sorted(woken) == [0, 2]
    assert len(shaper) == 2


def test_one_that_is_woken_may_remove_another():
    shaper = Shaper(MB)
    first, second = shaper.add("a"), shaper.add("b")
    assert first.take(10 * MB, 0.0)
    woken = []

    def wake(name, other):
        woken.append(name)
        shaper.remove(other)

    shaper.park(first, lambda: wake("first", second))
    shaper.park(second, lambda: wake("second", first))
    shaper.run(1.0)
    assert len(woken) == 1
    assert shaper.due(1.0) is None


def test_lifting_the_bounds_wakes_everybody():
    shaper = Shaper(1000, 1000)
    woken = []
    shares = [shaper.add(n) for n in range(4)]
    for number, share in enumerate(shares):
        share.take(MIN_BURST, 0.0)
        shaper.park(share, lambda number=number: woken.append(number))
    shaper.set_rates(0, 0, 1.0)
    assert shaper.unlimited
    assert shaper.due(1.0) == 1.0
    shaper.run(1.0)
    assert sorted(woken) == [0, 1, 2, 3]
    assert shaper.due(1.0) is None


def test_new_rates_hold_for_circuits_that_exist():
    world = World(Shaper(MB))
    circuits = [Circuit(world, n) for n in range(2)]
    world.start(circuits)
    world.run_for(2)
    world.shaper.set_rates(4 * MB, MB, world.now)
    world.plan()
    before = by_owner(circuits)
    world.run_for(5)
    for owner, total in by_owner(circuits).items():
        assert total - before[owner] == pytest.approx(5 * MB, rel=0.03)


def test_many_owners_that_come_and_go_leave_nothing_behind():
    shaper = Shaper(10_000, 5_000)
    keep = shaper.add("keep")
    keep.take(MIN_BURST, 0.0)
    shaper.park(keep, lambda: None)
    for number in range(20_000):
        share = shaper.add(number)
        share.take(MIN_BURST, 0.0)
        shaper.park(share, lambda: None)
        shaper.remove(share)
    assert len(shaper._queue) + len(shaper._slow) + len(shaper._granted) < 500
    assert len(shaper._owners) == 1


class Machine(RuleBasedStateMachine):
    """Any order of calls: never more than the rates allow, and whoever is parked is woken."""

    RATE = 50_000.0
    CIRCUIT_RATE = 20_000.0
    BURST = MIN_BURST

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.shaper = Shaper(self.RATE, self.CIRCUIT_RATE)
        self.shares: list = []
        self.moved = 0
        self.parked: dict = {}
        self.taken: dict = {}
        self.since: dict = {}

    @rule(owner=st.integers(0, 3))
    def add(self, owner):
        if len(self.shares) < 12:
            share = self.shaper.add(owner)
            self.shares.append(share)
            self.taken[share], self.since[share] = 0, self.now

    @precondition(lambda self: self.shares)
    @rule(data=st.data(), want=st.integers(1, 1 << 17), refund=st.floats(0, 1))
    def take(self, data, want, refund):
        share = data.draw(st.sampled_from(self.shares))
        got = share.take(want, self.now)
        assert 0 <= got <= want
        back = int(got * refund)
        if got and data.draw(st.booleans()):
            share.refund(back)
            got -= back
        self.moved += got
        self.taken[share] += got
        if not got and share not in self.parked:
            self.parked[share] = self.now
            self.shaper.park(share, lambda: self.parked.pop(share))

    @precondition(lambda self: self.shares)
    @rule(data=st.data())
    def remove(self, data):
        share = data.draw(st.sampled_from(self.shares))
        self.shares.remove(share)
        self.parked.pop(share, None)
        self.shaper.remove(share)

    @rule(seconds=st.floats(0, 2))
    def pass_time(self, seconds):
        end = self.now + seconds
        while (at := self.shaper.due(self.now)) is not None and at <= end:
            self.now = at
            self.shaper.run(self.now)
        self.now = end

    @rule()
    def wait_for_all(self):
        for _ in range(1000):
            at = self.shaper.due(self.now)
            if at is None:
                break
            assert at >= self.now
            self.now = at
            self.shaper.run(self.now)
        assert not self.parked

    @invariant()
    def never_more_than_the_rates(self):
        assert self.moved <= self.BURST + self.RATE * self.now + 1
        for share, taken in self.taken.items():
            most = self.BURST + self.CIRCUIT_RATE * (self.now - self.since[share])
            assert taken <= most + 1

    @invariant()
    def whoever_is_parked_is_due(self):
        assert (self.shaper.due(self.now) is None) == (not self.parked)


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=6),
    st.sampled_from([30_000, MB, 20 * MB]),
    st.sampled_from([1, 3, 1000]),
)
def test_any_number_of_circuits_shares_fairly(counts, rate, per_wake):
    world = World(Shaper(rate), lag=0.0003, tick=0.002)
    circuits = [
        Circuit(world, owner, per_wake) for owner, count in enumerate(counts) for _ in range(count)
    ]
    world.start(circuits)
    world.run_for(2)
    before = by_owner(circuits)
    seconds = max(3, 3 * MB / rate)
    world.run_for(seconds)
    for owner, total in by_owner(circuits).items():
        fair = rate * seconds / len(counts)
        assert total - before[owner] == pytest.approx(fair, rel=0.08, abs=40_000)
