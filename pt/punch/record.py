"""The trace of an attempt: every packet, candidate, sample and decision (docs/traces.md)."""

from __future__ import annotations

from pt.punch.candidates import Address, Side
from pt.punch.commands import Won
from pt.punch.packets import Packet
from pt.punch.strategies import Plan, Step
from pt.trace import Tracer

__all__ = ["Record"]


class Record:
    """Writes records if somebody wants them."""

    __slots__ = ("_attempt", "_tracer")

    def __init__(self, tracer: Tracer, attempt: int) -> None:
        self._tracer = tracer
        self._attempt = attempt

    def plan(self, plan: Plan, ours: Side, theirs: Side, *, controlling: bool, rtt: float) -> None:
        """What both sides know, and what is going to be tried."""
        if self._tracer.enabled:
            self._tracer.emit(
                "punch_plan",
                attempt=self._attempt,
                controlling=controlling,
                rtt=rtt,
                best=plan.best.value,
                why=plan.why,
                ours=_labels(ours),
                theirs=_labels(theirs),
                candidates=_candidates(theirs),
                own_candidates=_candidates(ours),
                steps=[
                    f"{step.strategy.value} {step.ours.value} {step.start:.3f}+{step.seconds:.3f}"
                    f" packets={step.packets} sockets={step.sockets} pps={step.pps}"
                    for step in plan.steps
                ],
            )

    def step(self, step: Step) -> None:
        """A step begins."""
        if self._tracer.enabled:
            self._tracer.emit(
                "punch_step",
                attempt=self._attempt,
                strategy=step.strategy.value,
                family=step.family,
                ours=step.ours.value,
                theirs=step.theirs.value,
                seconds=round(step.seconds, 6),
                packets=step.packets,
                sockets=step.sockets,
            )

    def packet(
        self, event: str, sock: int, addr: Address, packet: Packet, ttl: int | None = None
    ) -> None:
        """A packet was sent, received, or received again."""
        if self._tracer.enabled:
            self._tracer.emit(
                event,
                attempt=self._attempt,
                sock=sock,
                address=_text(addr),
                kind=packet.type.name.lower(),
                counter=packet.counter,
                echo=packet.echo,
                ttl=ttl,
                observed=_text(packet.observed),
            )

    def candidate(self, sock: int, addr: Address, strategy: str) -> None:
        """The peer was heard from an address that nobody told."""
        self._about("punch_candidate", sock, addr, kind="peer-reflexive", strategy=strategy)

    def pair(
        self, sock: int, addr: Address, strategy: str, rtt: float, observed: Address | None
    ) -> None:
        """A path works in both directions."""
        self._about("punch_pair", sock, addr, strategy=strategy, rtt=rtt, observed=_text(observed))

    def sample(self, event: str, number: int, addr: Address | None) -> None:
        """A server's view of socket `number`, or the peer's sample of that number."""
        self._about(event, number, addr)

    def won(self, won: Won, seconds: float, packets: int) -> None:
        """The attempt has a path."""
        self._about(
            "punch_won",
            won.sock,
            won.addr,
            strategy=won.strategy.value,
            rtt=won.rtt,
            seconds=round(seconds, 6),
            packets=packets,
        )

    def ended(self, reason: str, seconds: float, packets: int) -> None:
        """The attempt is over without a path."""
        if self._tracer.enabled:
            self._tracer.emit(
                "punch_ended",
                attempt=self._attempt,
                reason=reason,
                seconds=round(seconds, 6),
                packets=packets,
            )

    def _about(
        self, event: str, sock: int, addr: Address | None, **facts: str | float | None
    ) -> None:
        if self._tracer.enabled:
            self._tracer.emit(event, attempt=self._attempt, sock=sock, address=_text(addr), **facts)


def _labels(side: Side) -> list[str]:
    return [f"{facts.protocol.name.lower()}{facts.family} {facts.label}" for facts in side.facts]


def _candidates(side: Side) -> list[str]:
    return [
        f"{each.kind.name.lower()} {each.protocol.name.lower()} {_text(each.address)}"
        for each in side.candidates
    ]


def _text(addr: Address | None) -> str | None:
    if addr is None:
        return None
    return f"[{addr[0]}]:{addr[1]}" if ":" in addr[0] else f"{addr[0]}:{addr[1]}"
