"""Goal table of hole punching: which strategies a pair of NATs takes, the likeliest first.

Endpoint-independent mappings (or none) make a side easy; all others are hard.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pt.punch.strategies import Job, Strategy
from pt.wire.nat_facts import Allocation, Dependence, NatFacts

__all__ = ["Idea", "Nat", "tcp_possible", "udp_ideas"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Idea:
    """A step of the pair: what the one (`left`) and the other do."""

    strategy: Strategy
    left: Job
    right: Job
    why: str
    hard_is_left: bool = True
    block: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Nat:
    """One side's NAT in this pairing, and whether it is on the left."""

    facts: NatFacts
    left: bool

    @property
    def hard(self) -> bool:
        """Whether a new destination may mean a new port."""
        return self.facts.mapping in (Dependence.ADDRESS, Dependence.ADDRESS_AND_PORT)

    @property
    def filter(self) -> Dependence:
        """On what its filter depends; the strictest if that is not known."""
        return self.facts.filtering or Dependence.ADDRESS_AND_PORT

    @property
    def open(self) -> bool:
        """Whether it lets in anybody."""
        return self.filter is Dependence.INDEPENDENT

    @property
    def strict(self) -> bool:
        """Whether it looks at the port of who writes."""
        return self.filter is Dependence.ADDRESS_AND_PORT

    @property
    def predictable(self) -> bool:
        """Whether the next port follows from the last."""
        return self.facts.ports in (Allocation.PRESERVING, Allocation.SEQUENTIAL)

    @property
    def moves(self) -> bool:
        """Whether each destination takes the next port."""
        return self.predictable and not self.fixed and (self.facts.ports is Allocation.SEQUENTIAL)

    @property
    def fixed(self) -> bool:
        """Whether its port towards one address stays the same, whatever the port there."""
        return self.facts.mapping is Dependence.ADDRESS


def udp_ideas(pair: tuple[Nat, Nat], full_scan: bool) -> Iterator[Idea]:
    """Strategies for a pair, the likeliest first; none: it takes a relay."""
    one, other = pair
    if one.facts.works is False or other.facts.works is False:
        return
    if not one.hard and not other.hard:
        yield _send(_why_easy(one, other), hard_is_left=_opener_is_left(one, other))
        yield from _unknown(one, other)
    elif one.hard and other.hard:
        yield from _two_hard(one, other, full_scan)
    else:
        hard, easy = (one, other) if one.hard else (other, one)
        yield from _one_hard(hard, easy)


def _why_easy(one: Nat, other: Nat) -> str:
    if not (one.facts.mapping and other.facts.mapping) and (one.facts.translated is not False):
        return "unknown"
    if one.open or other.open:
        return "open"
    if one.facts.translated is False and other.facts.translated is False:
        return "firewalls"
    return "easy"


def _opener_is_left(one: Nat, other: Nat) -> bool:
    return one.open or not other.open


def _unknown(one: Nat, other: Nat) -> Iterator[Idea]:
    """Of one side nothing is known, and plain sending has failed: it may be a hard one."""
    for side, peer in ((one, other), (other, one)):
        if not side.facts.mapping and side.facts.translated is not False and peer.facts.mapping:
            yield _sockets(Strategy.BIRTHDAY, side, "unknown-birthday")
            return


def _one_hard(hard: Nat, easy: Nat) -> Iterator[Idea]:
    if easy.open:
        yield _send("open", hard_is_left=easy.left)
        return
    if not easy.strict:
        yield _send("reflexive", hard_is_left=hard.left)
        return
    if hard.open:
        yield _wait(hard)
    yield from _guesses(hard, "birthday", Strategy.BIRTHDAY)


def _two_hard(one: Nat, other: Nat, full_scan: bool) -> Iterator[Idea]:
    if one.open or other.open:
        open_, peer = (one, other) if one.open else (other, one)
        if peer.strict:
            yield _wait(open_)
        else:
            yield _send("both-open", hard_is_left=open_.left)
        yield from _guesses(open_, "one-sided", Strategy.ONE_SIDED_BIRTHDAY)
    elif not one.strict or not other.strict:
        yield from _guesses(_lax(one, other), "one-sided", Strategy.ONE_SIDED_BIRTHDAY)
    elif one.predictable and other.predictable:
        yield Idea(
            strategy=Strategy.LOCKSTEP if one.moves and other.moves else Strategy.PREDICT,
            left=Job.SAMPLE,
            right=Job.SAMPLE,
            why="lockstep",
        )
    elif (one.predictable and one.fixed) or (other.predictable and other.fixed):
        fixed, hard = (one, other) if one.predictable and one.fixed else (other, one)
        if hard.facts.block:
            yield _sockets(Strategy.BLOCK_BIRTHDAY, hard, "block", spray=Job.SAMPLED_SPRAY)
        yield _sockets(Strategy.BIRTHDAY, hard, "fixed", spray=Job.SAMPLED_SPRAY)
        assert fixed.left != hard.left
    elif full_scan and (one.fixed or other.fixed) and not (one.predictable or other.predictable):
        yield Idea(strategy=Strategy.FULL_SCAN, left=Job.SCAN, right=Job.SCAN, why="scan")


def _lax(one: Nat, other: Nat) -> Nat:
    """Whose port is guessed, of two hard sides that do not both filter by port."""
    lax = [nat for nat in (other, one) if not nat.strict]
    lax.sort(key=lambda nat: (not nat.predictable, nat.facts.block is None))
    return lax[0]


def _guesses(hard: Nat, why: str, birthday: Strategy) -> Iterator[Idea]:
    """The peer finds `hard`'s port: foretold, in a block, or among all."""
    if hard.predictable:
        sample, volley = Job.SAMPLE, Job.VOLLEY
        yield Idea(
            strategy=Strategy.PREDICT,
            left=sample if hard.left else volley,
            right=volley if hard.left else sample,
            why="predict",
            hard_is_left=hard.left,
        )
    if hard.facts.block:
        yield _sockets(Strategy.BLOCK_BIRTHDAY, hard, "block")
    yield _sockets(birthday, hard, why)


def _send(why: str, *, hard_is_left: bool) -> Idea:
    return Idea(
        strategy=Strategy.SIMULTANEOUS,
        left=Job.SEND,
        right=Job.SEND,
        why=why,
        hard_is_left=hard_is_left,
    )


def _wait(hard: Nat) -> Idea:
    return Idea(
        strategy=Strategy.WAIT,
        left=Job.WAIT if hard.left else Job.SEND,
        right=Job.SEND if hard.left else Job.WAIT,
        why="wait",
        hard_is_left=hard.left,
    )


def _sockets(strategy: Strategy, hard: Nat, why: str, spray: Job = Job.SPRAY) -> Idea:
    return Idea(
        strategy=strategy,
        left=Job.SOCKETS if hard.left else spray,
        right=spray if hard.left else Job.SOCKETS,
        why=why,
        hard_is_left=hard.left,
        block=hard.facts.block if strategy is Strategy.BLOCK_BIRTHDAY else None,
    )


def tcp_possible(one: Nat, other: Nat) -> bool:
    """Whether connections that both sides open at the same time can become one."""
    if one.facts.works is False or other.facts.works is False:
        return False
    if one.facts.simultaneous_open is False and other.facts.simultaneous_open is False:
        return one.open or other.open
    if not one.hard and not other.hard:
        return True
    if one.hard and other.hard:
        return False
    easy = other if one.hard else one
    return not easy.strict
