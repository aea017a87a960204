"""Which relays are tried, kept and let go of, on a virtual clock."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pt.errors import LimitError, LocalProtocolError
from pt.identity.peer_id import PeerId
from pt.relay.autorelay import MAX_GIVEN, MAX_MET, MET_AGE, AutoRelay, Candidate
from pt.wire.multiaddr import Multiaddr

HOUR = 3600.0


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


def candidate(number: int, given: bool, port: int = 4001) -> Candidate:
    return Candidate(peer(number), (Multiaddr.tcp("11.0.1.2", port),), given)


class Bench:
    """The core with numbers for peers: given ones are below 100."""

    def __init__(self, want: int = 2, given=(), met=()) -> None:
        self.core = AutoRelay(want, random.Random(7))
        self.offer(*given, *met)

    def offer(self, *numbers: int, now: float = 0.0) -> None:
        for number in numbers:
            self.core.offer(candidate(number, number < 100), now)

    def to_try(self, now: float = 0.0) -> set[int]:
        return {number_of(one.peer_id) for one in self.core.to_try(now)}

    def reserved(self, *numbers: int, now: float = 0.0, life: float = HOUR) -> None:
        for number in numbers:
            self.core.reserved(peer(number), now + life, now)

    def failed(self, *numbers: int, now: float = 0.0) -> None:
        for number in numbers:
            self.core.failed(peer(number), now)

    def lost(self, number: int, now: float) -> None:
        self.core.lost(peer(number), now)

    def draining(self, number: int, now: float) -> None:
        self.core.draining(peer(number), now)

    def surplus(self, now: float) -> set[int]:
        return {number_of(one) for one in self.core.surplus(now)}

    def refresh_due(self, now: float) -> set[int]:
        return {number_of(one) for one in self.core.refresh_due(now)}

    @property
    def held(self) -> set[int]:
        return {number_of(one) for one in self.core.held}

    def retry_after(self, number: int, now: float) -> float:
        """Seconds until the relay, the only candidate, is tried again."""
        at = self.core.next_at(now)
        assert at is not None
        assert self.to_try(at - 0.001) == set()
        assert self.to_try(at) == {number}
        return at - now


def number_of(one: PeerId) -> int:
    return int.from_bytes(one.raw[2:], "big")


# --- trying ---


def test_given_ones_are_tried_at_once_and_in_parallel():
    bench = Bench(given=[1, 2])
    assert bench.to_try() == {1, 2}
    assert bench.to_try() == set()
    assert bench.core.next_at(0.0) is None  # only a report changes anything


def test_one_more_is_tried_than_is_missing():
    bench = Bench(given=[1, 2, 3, 4])
    assert bench.to_try() == {1, 2, 3}
    bench.failed(1)
    assert bench.to_try() == {4}
    bench.reserved(2, 3, 4)
    assert bench.held == {2, 3, 4}
    assert bench.surplus(0.0) == set()  # given ones stay
    assert bench.to_try(100.0) == set()


def test_met_ones_are_not_needed_while_given_ones_may_do():
    bench = Bench(given=[1, 2], met=[101, 102, 103])
    assert bench.to_try() == {1, 2}
    bench.failed(1)
    tried = bench.to_try()
    assert len(tried) == 2  # one is missing, and one more
    assert tried < {101, 102, 103}


def test_met_ones_fill_up_what_given_ones_leave():
    bench = Bench(given=[1], met=[101, 102, 103])
    tried = bench.to_try()
    assert 1 in tried
    assert len(tried) == 3


def test_without_given_ones_the_choice_is_random():
    chosen = set()
    for seed in range(30):
        core = AutoRelay(1, random.Random(seed))
        for number in range(101, 111):
            core.offer(candidate(number, False), 0.0)
        chosen |= {one.peer_id for one in core.to_try(0.0)}
    assert len(chosen) == 10


def test_what_is_tried_has_its_addresses():
    bench = Bench(given=[1])
    bench.core.offer(candidate(1, True, 5000), 0.0)
    bench.core.offer(candidate(1, False, 6000), 0.0)  # met: does not replace what the user said
    [one] = bench.core.to_try(0.0)
    assert one == candidate(1, True, 5000)


def test_a_met_one_learns_newer_addresses():
    bench = Bench(met=[101])
    bench.core.offer(candidate(101, False, 5000), 0.0)
    assert bench.core.to_try(0.0) == [candidate(101, False, 5000)]


def test_a_given_one_takes_its_place_back_from_a_met_one():
    bench = Bench(given=[1], met=[101, 102])
    assert bench.to_try() == {1, 101, 102}
    bench.failed(1)
    bench.reserved(101, 102)
    assert bench.to_try(0.5) == set()
    assert bench.to_try(1.3) == {1}
    bench.reserved(1, now=2.0)
    assert bench.held == {1, 101, 102}
    let_go = bench.surplus(2.0)
    assert len(let_go) == 1
    assert let_go < {101, 102}
    assert 1 in bench.held
    assert len(bench.held) == 2
    assert bench.surplus(2.0) == set()


# --- back-off ---


def test_back_off_of_given_ones_doubles_to_half_a_minute():
    bench = Bench(given=[1])
    assert bench.to_try() == {1}
    now = 0.0
    for expected in (1, 2, 4, 8, 16, 30, 30, 30):
        bench.failed(1, now=now)
        pause = bench.retry_after(1, now)
        assert expected * 0.8 <= pause <= expected * 1.2
        now += pause
    assert bench.core.failures(peer(1)) == 8


def test_back_off_of_met_ones_triples_to_an_hour():
    bench = Bench(met=[101])
    assert bench.to_try() == {101}
    now = 0.0
    for expected in (30, 90, 270, 810, 2430, 3600, 3600):
        bench.failed(101, now=now)
        at = bench.core.next_at(now)
        assert at is not None
        assert expected * 0.8 <= at - now <= expected * 1.2
        for later in range(int(now), int(at), 300):
            bench.offer(101, now=later)  # met again and again, or it would be forgotten
        now = at
        assert bench.to_try(now) == {101}


def test_jitter_differs():
    pauses = set()
    for seed in range(5):
        core = AutoRelay(1, random.Random(seed))
        core.offer(candidate(1, True), 0.0)
        core.to_try(0.0)
        core.failed(peer(1), 0.0)
        pauses.add(core.next_at(0.0))
    assert len(pauses) == 5


def test_failures_are_counted_until_a_reservation():
    bench = Bench(given=[1])
    bench.to_try()
    assert bench.core.failures(peer(1)) == 0
    bench.failed(1)
    assert bench.core.failures(peer(1)) == 1
    bench.to_try(2.0)
    bench.reserved(1, now=2.0)
    assert bench.core.failures(peer(1)) == 0
    assert bench.core.failures(peer(9)) == 0


# --- losing ---


def test_a_lost_one_is_replaced_at_once_and_tried_again_soon():
    bench = Bench(given=[1, 2, 3], want=1)
    assert bench.to_try() == {1, 2}
    bench.reserved(1, 2)
    bench.lost(1, 1000.0)
    bench.lost(2, 1000.0)
    assert bench.held == set()
    assert bench.to_try(1000.0) == {3}
    bench.failed(3, now=1000.0)
    assert bench.to_try(1000.7) == set()
    assert bench.to_try(1001.3) <= {1, 2, 3}
    assert bench.surplus(1001.3) == set()  # the owner knows that it lost them


def test_one_that_stood_for_long_is_tried_again_soon_even_if_merely_met():
    bench = Bench(met=[101])
    bench.to_try()
    bench.reserved(101)
    bench.lost(101, 1000.0)
    assert 0.8 <= bench.retry_after(101, 1000.0) <= 1.2


def test_one_that_grants_and_drops_again_and_again_is_left_alone_ever_longer():
    bench = Bench(met=[101])
    assert bench.to_try() == {101}
    now = 0.0
    for expected in (30, 90, 270):
        bench.reserved(101, now=now)
        bench.lost(101, now + 1)
        pause = bench.retry_after(101, now + 1)
        assert expected * 0.8 <= pause <= expected * 1.2
        now += 1 + pause


def test_losing_what_was_being_tried_is_a_failure():
    bench = Bench(given=[1])
    bench.to_try()
    bench.lost(1, 0.0)
    assert bench.core.failures(peer(1)) == 1
    bench.lost(1, 0.0)  # said twice
    assert bench.core.failures(peer(1)) == 1


# --- draining ---


def test_a_draining_one_is_kept_until_it_is_replaced():
    bench = Bench(given=[1, 2, 3])
    assert bench.to_try() == {1, 2, 3}
    bench.reserved(1, 2)
    bench.failed(3)
    bench.draining(1, 500.0)
    assert bench.to_try(500.0) == {3}
    assert bench.surplus(500.0) == set()
    assert bench.refresh_due(2700.0) == {2}
    assert 1 in bench.held
    bench.reserved(3, now=2700.0)
    assert bench.surplus(2700.0) == {1}
    assert bench.held == {2, 3}


def test_a_drained_one_is_not_asked_again_at_once():
    bench = Bench(given=[1], met=[101, 102])
    bench.to_try()
    bench.failed(102)
    bench.reserved(1, 101)
    bench.draining(1, 500.0)
    assert bench.to_try(500.0) == {102}
    bench.reserved(102, now=500.0)
    assert bench.surplus(500.0) == {1}
    assert bench.to_try(500.5) == set()
    assert bench.to_try(501.3) == {1}
    bench.reserved(1, now=501.3)
    assert bench.draining(9, 501.3) is None
    assert len(bench.surplus(501.3)) == 1


def test_a_drained_one_that_served_for_long_is_asked_again_soon():
    bench = Bench(given=[1, 2], want=1)
    now = 0.0
    bench.to_try()
    bench.reserved(2)
    for _ in range(5):
        bench.failed(1, now=now)
        now = bench.core.next_at(now)
        bench.lost(2, now)
        assert bench.to_try(now) == {1}
        bench.reserved(2, now=now)
    bench.reserved(1, now=now)
    bench.draining(1, now + 100)
    assert bench.surplus(now + 100) == {1}
    assert bench.core.failures(peer(1)) == 1
    bench.lost(2, now + 200)
    assert bench.to_try(now + 200) == {1}


def test_a_draining_one_with_nobody_to_replace_it_stays_to_the_end():
    bench = Bench(given=[1])
    bench.to_try()
    bench.reserved(1)
    bench.draining(1, 500.0)
    assert bench.to_try(500.0) == set()
    assert bench.held == {1}
    bench.lost(1, 600.0)
    assert 0.8 <= bench.retry_after(1, 600.0) <= 1.2


def test_notice_that_comes_before_the_reservation_counts():
    bench = Bench(given=[1], met=[101], want=1)
    bench.to_try()
    bench.draining(1, 0.0)
    bench.reserved(1)
    assert bench.to_try(0.0) == {101}
    bench.reserved(101)
    assert bench.surplus(0.0) == {1}


# --- refreshing ---


@pytest.mark.parametrize(
    ("life", "at"), [(3600, 2700), (7200, 5400), (300, 180), (60, 10), (11, 10), (480, 360)]
)
def test_when_it_is_refreshed(life, at):
    bench = Bench(given=[1])
    bench.to_try()
    bench.reserved(1, now=50.0, life=life)
    assert bench.core.next_at(50.0) == 50.0 + at
    assert bench.refresh_due(50.0 + at - 0.01) == set()
    assert bench.refresh_due(50.0 + at) == {1}
    assert bench.refresh_due(50.0 + at) == set()  # it is under way
    assert bench.core.next_at(50.0 + at) == 50.0 + life
    bench.reserved(1, now=50.0 + at, life=life)
    assert bench.refresh_due(50.0 + at) == set()
    assert bench.refresh_due(50.0 + 2 * at) == {1}


@pytest.mark.parametrize("life", [0, 1, 5, 9.9, 10, 10.1, 11, 30, 61])
def test_a_relay_that_grants_short_reservations_is_not_asked_without_end(life):
    bench = Bench(given=[1])
    now, asked = 0.0, []
    while now < 600:
        for number in bench.to_try(now) | bench.refresh_due(now):
            asked.append(now)
            bench.reserved(number, now=now, life=life)
        bench.surplus(now)
        at = bench.core.next_at(now)
        assert at is not None
        assert at > now
        now = at
    assert len(asked) <= 61
    pauses = [after - before for before, after in pairwise(asked)]
    assert all(pause >= 10 for pause in pauses[5:])  # it is trusted a little at first


def test_a_refresh_that_fails_is_tried_again_while_the_reservation_stands():
    bench = Bench(given=[1])
    bench.to_try()
    bench.reserved(1)
    assert bench.refresh_due(2700.0) == {1}
    bench.failed(1, now=2710.0)
    assert bench.held == {1}
    assert bench.refresh_due(2717.0) == set()
    assert bench.refresh_due(2723.0) == {1}
    bench.reserved(1, now=2723.0)
    assert bench.surplus(3600.0) == set()
    assert bench.held == {1}


def test_what_has_expired_is_not_held():
    bench = Bench(given=[1, 2, 3])
    bench.to_try()
    bench.failed(3)
    bench.reserved(1, 2)
    bench.refresh_due(2700.0)
    bench.failed(1, 2, now=2700.0)
    bench.reserved(2, now=2800.0)
    assert bench.core.next_at(3599.0) is not None
    assert bench.held == {1, 2}
    assert bench.surplus(3600.0) == {1}
    assert bench.held == {2}
    assert bench.surplus(3600.0) == set()
    assert bench.to_try(3600.0) == {3}


def test_one_that_is_lost_after_it_expired_is_told_once():
    bench = Bench(given=[1])
    bench.to_try()
    bench.reserved(1, life=100.0)
    bench.core.next_at(100.0)
    bench.lost(1, 100.0)
    assert bench.surplus(100.0) == set()
    assert 0.8 <= bench.retry_after(1, 100.0) <= 1.2


def test_next_at_asks_to_be_told_of_the_expiry():
    bench = Bench(given=[1])
    bench.to_try()
    bench.reserved(1, life=100.0)
    bench.refresh_due(10.0)
    assert bench.core.next_at(10.0) == 100.0
    assert bench.core.next_at(100.0) == 100.0
    assert bench.surplus(100.0) == {1}


def test_a_reservation_that_has_expired_on_arrival():
    bench = Bench(given=[1])
    bench.to_try()
    bench.core.reserved(peer(1), 5.0, 5.0)
    assert bench.held == set()
    assert bench.surplus(5.0) == {1}


def test_a_refresh_that_succeeds_after_the_expiry_counts():
    bench = Bench(given=[1])
    bench.to_try()
    bench.reserved(1, life=100.0)
    bench.refresh_due(90.0)
    bench.core.next_at(101.0)
    assert bench.held == set()
    bench.reserved(1, now=101.0)
    assert bench.held == {1}
    assert bench.surplus(101.0) == set()


# --- bounds ---


def test_met_ones_are_bounded_and_the_oldest_makes_room():
    bench = Bench(want=1)
    for number in range(101, 101 + MAX_MET + 5):
        bench.offer(number, now=number / 10)
    assert len(bench.core._relays) == MAX_MET
    assert peer(101) not in bench.core._relays
    assert peer(105) not in bench.core._relays
    assert peer(106) in bench.core._relays


def test_those_in_use_are_not_forgotten_for_others():
    bench = Bench(want=MAX_MET)
    bench.offer(*range(101, 101 + MAX_MET))
    tried = bench.to_try()
    assert len(tried) == MAX_MET
    bench.offer(500)
    assert bench.to_try(0.0) == set()
    bench.reserved(*tried)
    assert bench.held == tried


def test_met_ones_are_forgotten_after_a_while():
    bench = Bench(given=[1], met=[101])
    bench.to_try()
    bench.reserved(1)
    bench.reserved(101)
    bench.offer(102, 103)
    bench.offer(103, now=1000.0)
    bench.core.next_at(MET_AGE + 1)
    assert {number_of(p) for p in bench.core._relays} == {1, 101, 103}


def test_being_forgotten_does_not_shorten_the_back_off():
    bench = Bench(met=[101], want=1)
    bench.to_try()
    bench.failed(101)
    bench.offer(*range(201, 201 + MAX_MET))  # the one in back-off makes room
    assert peer(101) not in bench.core._relays
    for number in range(201, 201 + MAX_MET):
        bench.core.failed(peer(number), 0.0)
    bench.core._relays.clear()
    bench.offer(101, now=1.0)
    assert bench.to_try(20.0) == set()
    assert bench.to_try(36.1) == {101}
    bench.failed(101, now=36.1)
    assert bench.retry_after(101, 36.1) >= 90 * 0.8


def test_what_is_remembered_of_the_forgotten_is_bounded():
    bench = Bench(want=1)
    now = 0.0
    for number in range(1000, 1400):
        bench.offer(number, now=now)
        for one in bench.to_try(now):
            bench.failed(one, now=now)
        now += 1
    assert len(bench.core._relays) <= MAX_MET
    assert len(bench.core._remembered) <= 128


def test_given_ones_are_bounded():
    bench = Bench(given=[])
    for number in range(MAX_GIVEN):
        bench.core.offer(candidate(1000 + number, True), 0.0)
    with pytest.raises(LimitError):
        bench.core.offer(candidate(1, True), 0.0)


def test_a_met_one_that_the_user_names_comes_back_sooner():
    bench = Bench(met=[101])
    now = 0.0
    for _ in range(4):
        now = bench.core.next_at(now)
        assert bench.to_try(now) == {101}
        bench.failed(101, now=now)
    bench.core.offer(candidate(101, True), now)
    assert bench.core.next_at(now) <= now + 30


def test_only_what_was_offered_can_be_reserved():
    bench = Bench(given=[1])
    with pytest.raises(LocalProtocolError):
        bench.reserved(2)
    bench.failed(2)
    bench.lost(2, 0.0)
    bench.draining(2, 0.0)
    assert bench.held == set()


class Machine(RuleBasedStateMachine):
    """An owner that does as it is told, with relays that behave in any way."""

    WANT = 2
    GIVEN = (1, 2, 3)

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.core = AutoRelay(self.WANT, random.Random(1))
        for number in self.GIVEN:
            self.core.offer(candidate(number, True), 0.0)
        self.trying: set[int] = set()
        self.held: dict[int, float] = {}
        self.since: dict[int, float] = {}
        self.drains: set[int] = set()
        self.refreshing: set[int] = set()
        self.failures: dict[int, int] = {}
        self.not_before: dict[int, float] = {}

    def back_off(self, number: int) -> None:
        count = self.failures.get(number, 0)
        self.failures[number] = count + 1
        pause = min(30, 2**count) if number in self.GIVEN else min(3600, 30 * 3**count)
        self.not_before[number] = self.now + 0.8 * pause - 1e-6

    def gave_up(self, number: int) -> None:
        """The model of a reservation that ended."""
        del self.held[number]
        self.drains.discard(number)
        self.refreshing.discard(number)
        if self.now - self.since[number] >= 60:
            self.failures[number] = 0
            self.not_before[number] = self.now + 0.8 - 1e-6
        else:
            self.back_off(number)

    def settle(self) -> None:
        for number in [n for n, expire in self.held.items() if expire <= self.now]:
            self.gave_up(number)

    @rule(number=st.integers(101, 140))
    def meet(self, number):
        self.settle()
        self.core.offer(candidate(number, False), self.now)

    @rule()
    def loop(self):
        """One round of the owner's loop."""
        self.settle()
        for one in self.core.surplus(self.now):
            number = number_of(one)
            if number in self.held:
                too_many = len(set(self.held) - self.drains) > self.WANT
                assert number in self.drains or (number not in self.GIVEN and too_many)
                if number in self.drains:
                    if self.now - self.since[number] >= 60:
                        self.failures[number] = 0
                    self.back_off(number)
                elif self.now - self.since[number] >= 60:
                    self.failures[number] = 0
                del self.held[number]
                self.drains.discard(number)
                self.refreshing.discard(number)
        assert len(set(self.held) - self.drains) <= self.WANT + 1
        for one in self.core.to_try(self.now):
            number = number_of(one.peer_id)
            assert number not in self.trying
            assert number not in self.held
            assert self.now >= self.not_before.get(number, 0.0)
            assert one.given == (number in self.GIVEN)
            self.trying.add(number)
        for one in self.core.refresh_due(self.now):
            number = number_of(one)
            assert number in self.held
            assert number not in self.refreshing
            self.refreshing.add(number)

    @precondition(lambda self: self.trying)
    @rule(data=st.data(), life=st.sampled_from([5.0, 60.0, 600.0, 3600.0]))
    def succeed(self, data, life):
        self.settle()
        number = data.draw(st.sampled_from(sorted(self.trying)))
        self.trying.remove(number)
        self.held[number] = self.now + life
        self.since[number] = self.now
        self.core.reserved(peer(number), self.now + life, self.now)

    @precondition(lambda self: self.trying)
    @rule(data=st.data())
    def fail(self, data):
        self.settle()
        number = data.draw(st.sampled_from(sorted(self.trying)))
        self.trying.remove(number)
        self.back_off(number)
        self.core.failed(peer(number), self.now)

    @precondition(lambda self: self.refreshing)
    @rule(data=st.data(), works=st.booleans())
    def refresh(self, data, works):
        self.settle()
        if not self.refreshing:
            return
        number = data.draw(st.sampled_from(sorted(self.refreshing)))
        self.refreshing.remove(number)
        if works:
            self.held[number] = self.now + 600
            self.core.reserved(peer(number), self.now + 600, self.now)
        else:
            self.core.failed(peer(number), self.now)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), notice=st.booleans())
    def trouble(self, data, notice):
        self.settle()
        if not self.held:
            return
        number = data.draw(st.sampled_from(sorted(self.held)))
        if notice:
            self.drains.add(number)
            self.core.draining(peer(number), self.now)
        else:
            self.gave_up(number)
            self.core.lost(peer(number), self.now)

    @rule(seconds=st.floats(0, 100) | st.sampled_from([0.5, 1.0, 10.0, 600.0]))
    def pass_time(self, seconds):
        """Time passes; the owner comes back when it was asked to, as far as that goes."""
        end = self.now + seconds
        for _ in range(40):
            at = self.core.next_at(self.now)
            if at is None or at > end:
                break
            assert at >= self.now
            self.now = at
            self.loop()
        self.now = max(self.now, end)

    @rule()
    def given_ones_come_back(self):
        """With all others failing, every given relay is tried within its longest pause."""
        self.loop()
        end = self.now + 40
        seen = self.trying | set(self.held)
        while True:
            for number in sorted(self.trying):
                self.trying.remove(number)
                self.back_off(number)
                self.core.failed(peer(number), self.now)
            at = self.core.next_at(self.now)
            if at is None or at > end:
                break
            self.now = at
            self.loop()
            seen |= self.trying
        self.settle()
        good = set(self.held) - self.drains
        if len(good & set(self.GIVEN)) < self.WANT:
            assert set(self.GIVEN) <= seen

    @invariant()
    def as_the_model_says(self):
        self.settle()
        at = self.core.next_at(self.now)
        assert at is None or at >= self.now
        assert {number_of(one) for one in self.core.held} == set(self.held)
        assert len(self.trying) + len(set(self.held) - self.drains) <= self.WANT + 1
        for number in self.GIVEN:
            assert peer(number) in self.core._relays
        met = [one for one in self.core._relays.values() if not one.candidate.given]
        assert len(met) <= MAX_MET
        for number in (*self.GIVEN, *range(101, 141)):
            if number not in self.held and peer(number) in self.core._relays:
                assert self.core.failures(peer(number)) == self.failures.get(number, 0)


Machine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestMachine = Machine.TestCase
