"""Which strategies two sides use against each other's NATs: a pure function of what both know.

Both ends compute the plan from the same two `Side`s; the parts they give each other agree, since
each decision is taken for the pair and then told from one's own side.  Where both sides would do
for a part, the one that is not controlling takes the many sockets.

A side's class is taken as measured; what is unknown counts as mapping independent, filtering by
address and port, random ports, which costs a few packets if it is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from pt.punch.candidates import Budget, Side
from pt.punch.strategies import GAP, OPENER_TTL, Job, Plan, Step, Strategy
from pt.punch.table import Idea, Nat, tcp_possible, udp_ideas
from pt.punch.why import CURES, WHY, whose
from pt.wire.nat_facts import Protocol

__all__ = ["MAX_PINGS", "make_plan"]

MAX_PINGS: Final = 48
"""Packets to one told address that has not answered, an attempt."""
SPRAY_999: Final = 1715
"""Distinct random ports that meet one of 256 sockets in 999 of 1,000 attempts."""
BLOCK_SOCKETS: Final = 64
BLOCK_GUESSES: Final = 1200
PREDICT_PACKETS: Final = 320
LOCKSTEP_PACKETS: Final = 640
ROUNDS: Final = 6
"""Samples that are taken before a port allocation counts as not to be foretold."""
_LAN_PINGS: Final = 6
_UNLIKELY_GAP: Final = 0.15
"""Seconds between packets that are sent in case that the facts are wrong."""
_TCP_DIALS: Final = 40
_ALL_PORTS: Final = 64512


def make_plan(
    ours: Side, theirs: Side, *, controlling: bool, rtt: float, budget: Budget | None = None
) -> Plan:
    """The steps of our side, by the time at which they begin.

    `rtt` is the round trip of the session, as long as the peer's own is not known; `budget` is
    bounded by both sides' own.
    """
    agreed = ours.budget.meet(theirs.budget)
    if budget is not None:
        agreed = agreed.meet(budget)
    left, right = (ours, theirs) if controlling else (theirs, ours)
    return _Planner(left, right, controlling, max(rtt, 0.001), agreed).plan()


class _Planner:
    """Decides for the pair (left: controlling), and tells it from our side."""

    def __init__(
        self, left: Side, right: Side, we_are_left: bool, rtt: float, budget: Budget
    ) -> None:
        self._left = left
        self._right = right
        self._we_are_left = we_are_left
        self._rtt = rtt
        self._budget = budget
        self._reason = ""
        self._cure = ""

    # --- the whole -----------------------------------------------------------------------------

    def plan(self) -> Plan:
        steps = [*self._lan()]
        same_nat = self._same_nat()
        pinhole = self._pinhole()
        steps += pinhole
        if same_nat:
            chain = self._hairpin()
        else:
            chain = list(udp_ideas(self._nats(Protocol.UDP), self._budget.full_scan))
            if not chain:
                self._relay_reason()
        udp = self._timed(chain)
        steps += udp
        likely = bool(chain) and chain[0].strategy is not Strategy.FULL_SCAN
        after = max((step.start + step.seconds for step in udp), default=0.0) if likely else 0.0
        tcp = [] if same_nat else self._tcp(after)
        steps += tcp
        best, why = self._best(steps, chain, bool(pinhole), bool(tcp))
        why = why or self._reason
        end = max((step.start + step.seconds for step in steps), default=0.0)
        reason = self._reason or "No attempt succeeded."
        steps.append(Step(strategy=Strategy.RELAY, start=end, why=reason))
        steps.sort(key=lambda step: step.start)
        return Plan(steps=tuple(steps), best=best, why=why, cure=self._cure)

    def _best(
        self, steps: list[Step], chain: list[Idea], pinhole: bool, tcp: bool
    ) -> tuple[Strategy, str]:
        if self._same_nat() and any(step.strategy is Strategy.LAN for step in steps):
            return Strategy.LAN, WHY["lan"]
        if pinhole:
            return Strategy.IPV6_PINHOLE, WHY["ipv6"]
        if chain:
            if chain[0].strategy in (Strategy.BIRTHDAY, Strategy.ONE_SIDED_BIRTHDAY):
                self._cure = CURES["quicker"]
            return chain[0].strategy, self._say(chain[0])
        if tcp:
            return Strategy.TCP_SIMULTANEOUS_OPEN, WHY["tcp"]
        return Strategy.RELAY, self._reason

    def _nats(self, protocol: Protocol, family: int = 4) -> tuple[Nat, Nat]:
        return (
            Nat(self._left.nat(family, protocol), left=True),
            Nat(self._right.nat(family, protocol), left=False),
        )

    def _say(self, idea: Idea) -> str:
        hard = whose(idea.hard_is_left == self._we_are_left)
        easy = whose(idea.hard_is_left != self._we_are_left)
        text = WHY[idea.why].format(hard=hard, easy=easy, open=hard)
        return text[0].upper() + text[1:]

    # --- addresses that need no NAT ------------------------------------------------------------

    def _same_nat(self) -> bool:
        external = self._left.external
        return external is not None and external == self._right.external

    def _lan(self) -> Iterator[Step]:
        for family in (4, 6):
            count = len(self._theirs().lan(family))
            if not count or not self._ours().lan(family):
                continue
            yield Step(
                strategy=Strategy.LAN,
                family=family,
                ours=Job.SEND,
                theirs=Job.SEND,
                seconds=min(0.15 + self._rtt, 0.4),
                packets=_LAN_PINGS * count,
                pps=self._budget.pps,
                gap=GAP if self._same_nat() else _UNLIKELY_GAP,
                why=WHY["lan"] if self._same_nat() else "",
            )

    def _hairpin(self) -> list[Idea]:
        """Both behind one outer address; the path inside is quicker, and goes first."""
        one, other = self._nats(Protocol.UDP)
        if one.facts.hairpin is False and other.facts.hairpin is False:
            self._reason, self._cure = WHY["no-hairpin"], CURES["hairpin"]
            return []
        idea = Idea(strategy=Strategy.HAIRPIN, left=Job.SEND, right=Job.SEND, why="hairpin")
        self._reason = WHY["no-hairpin"]
        return [idea]

    def _pinhole(self) -> list[Step]:
        one, other = self._nats(Protocol.UDP, 6)
        count = len(self._theirs().wan(6))
        if not count or not self._ours().wan(6):
            return []
        if one.facts.works is False or other.facts.works is False:
            return []
        if one.facts.translated is not False or other.facts.translated is not False:
            return []
        step = self._step(
            Idea(strategy=Strategy.IPV6_PINHOLE, left=Job.SEND, right=Job.SEND, why="ipv6")
        )
        return [replace(step, family=6, packets=MAX_PINGS * count)]

    # --- UDP and TCP over IPv4 -----------------------------------------------------------------

    def _timed(self, chain: list[Idea]) -> list[Step]:
        """What the facts promise begins at once, and beside it plain sending: they may be wrong."""
        steps: list[Step] = []
        start = 0.0
        names = {idea.strategy for idea in chain}
        plain = Strategy.SIMULTANEOUS in names or Strategy.HAIRPIN in names
        if chain and not plain and chain[0].strategy is not Strategy.WAIT:
            idea = Idea(strategy=Strategy.SIMULTANEOUS, left=Job.SEND, right=Job.SEND, why="easy")
            gap = _UNLIKELY_GAP if self._step(chain[0]).ours is Job.VOLLEY else GAP
            steps.append(replace(self._step(idea), why="", packets=12, gap=gap))
        for idea in chain:
            step = replace(self._step(idea), start=start)
            if step.strategy is Strategy.HAIRPIN:  # the path inside gets its round trip first
                step = replace(step, start=0.15)
            over = step.start + step.seconds > self._budget.seconds
            if start and over and step.strategy is not Strategy.FULL_SCAN:
                break
            steps.append(step)
            start = step.start + step.seconds
        return steps

    def _step(self, idea: Idea) -> Step:
        ours, theirs = idea.left, idea.right
        if not self._we_are_left:
            ours, theirs = theirs, ours
        budget, rtt = self._budget, self._rtt
        told = len(self._theirs().wan(4))
        step = Step(
            strategy=idea.strategy,
            ours=ours,
            theirs=theirs,
            seconds=1.0 + 4 * rtt,
            packets=MAX_PINGS * max(told, 1),
            pps=budget.pps,
            block=idea.block,
            why=self._say(idea),
        )
        match idea.strategy:
            case Strategy.PREDICT | Strategy.LOCKSTEP:
                packets = PREDICT_PACKETS
                if idea.strategy is Strategy.LOCKSTEP:
                    packets = LOCKSTEP_PACKETS
                return replace(
                    step, packets=packets, sockets=ROUNDS, seconds=ROUNDS * (0.15 + 3 * rtt)
                )
            case Strategy.BLOCK_BIRTHDAY:
                return self._birthday(step, BLOCK_SOCKETS, BLOCK_GUESSES)
            case Strategy.BIRTHDAY | Strategy.ONE_SIDED_BIRTHDAY:
                return self._birthday(step, 256, SPRAY_999)
            case Strategy.FULL_SCAN:
                return replace(
                    step,
                    packets=2 * _ALL_PORTS,
                    pps=budget.scan_pps,
                    seconds=2 * _ALL_PORTS / budget.scan_pps + 1.0 + 4 * rtt,
                )
            case _:
                return step

    def _birthday(self, step: Step, sockets: int, guesses: int) -> Step:
        budget = self._budget
        sockets = min(sockets, budget.sockets)
        for nat in self._nats(Protocol.UDP):
            # the user's other programs need mappings, too
            if nat.facts.quota is not None:
                sockets = max(1, min(sockets, nat.facts.quota // 4))
            if nat.facts.block is not None:
                first, last = nat.facts.block
                sockets = max(8, min(sockets, (last - first + 1) // 4))
        guesses = min(guesses, budget.packets)
        spray = step.ours in (Job.SPRAY, Job.SAMPLED_SPRAY)
        packets = 4 if step.theirs is Job.SAMPLED_SPRAY else 2
        return replace(
            step,
            sockets=1 if spray else sockets,
            packets=guesses if spray else sockets * packets,
            opener_ttl=None if spray else OPENER_TTL,
            seconds=guesses / budget.pps + 0.3 + 4 * self._rtt,
        )

    def _tcp(self, start: float) -> list[Step]:
        one, other = self._nats(Protocol.TCP)
        count = len(self._theirs().wan(4, Protocol.TCP))
        mine = len(self._ours().wan(4, Protocol.TCP))
        if not count or not mine or not tcp_possible(one, other):
            return []
        return [
            Step(
                strategy=Strategy.TCP_SIMULTANEOUS_OPEN,
                protocol=Protocol.TCP,
                ours=Job.CONNECT,
                theirs=Job.CONNECT,
                start=start,
                seconds=2.0 + 4 * self._rtt,
                packets=_TCP_DIALS * count,
                sockets=min(count, 8),
                why=WHY["tcp"],
            )
        ]

    def _relay_reason(self) -> None:
        one, other = self._nats(Protocol.UDP)
        for nat in (one, other):
            if nat.facts.works is False:
                idea = Idea(
                    strategy=Strategy.RELAY,
                    left=Job.NONE,
                    right=Job.NONE,
                    why="udp-blocked",
                    hard_is_left=nat.left,
                )
                self._reason, self._cure = f"{self._say(idea)} {self._tcp_reason()}", CURES["udp"]
                return
        why, cure = "random", "map"
        random = other if not other.predictable else one
        if one.predictable or other.predictable:
            why = "moving"
        elif one.fixed or other.fixed:
            why, cure = "scan-refused", "scan"
        idea = Idea(
            strategy=Strategy.RELAY,
            left=Job.NONE,
            right=Job.NONE,
            why=why,
            hard_is_left=random.left,
        )
        self._reason, self._cure = self._say(idea), CURES[cure]

    def _tcp_reason(self) -> str:
        one, other = self._nats(Protocol.TCP)
        if one.facts.simultaneous_open is False and other.facts.simultaneous_open is False:
            return f"With TCP, {WHY['simopen']}"
        return WHY["tcp-hard"]

    def _ours(self) -> Side:
        return self._left if self._we_are_left else self._right

    def _theirs(self) -> Side:
        return self._right if self._we_are_left else self._left
