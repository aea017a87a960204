"""One attempt to reach the peer: datagrams and messages in, commands out, no clock of its own.

Whoever drives it calls `begin`, then `tick` at `deadline`, hands in what arrives, and carries out
`commands` after each call.  The controlling side nominates the first path over which an answer to
its own packet came; the other follows.

What strangers are sent: an address that was told gets at most `MAX_PINGS` packets, one from which a
packet of the peer came (which only it can make, and only once) as many; guesses go to the address
that the peer gave, within the step's packets.  An answer is as long as its question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Final

from pt.punch.candidates import Address, Budget, Kind
from pt.punch.commands import (
    MAIN,
    AskServer,
    Command,
    Ended,
    OpenSocket,
    Send,
    StartTcp,
    Tell,
    Won,
)
from pt.punch.jobs import (
    OPENERS_AT_ONCE,
    Pacer,
    Running,
    SampleJob,
    Schedule,
    SocketsJob,
    SprayJob,
    VolleyJob,
)
from pt.punch.messages import Offer, Sample
from pt.punch.packets import Packet, PacketType, ReplayWindow, Sealer
from pt.punch.paths import Path, Paths
from pt.punch.planner import MAX_PINGS, make_plan
from pt.punch.ports import Dice
from pt.punch.record import Record
from pt.punch.sockets import FreshSockets
from pt.punch.strategies import OPENER_TTL, Job, Plan, Step, Strategy
from pt.trace import NO_TRACE, Tracer
from pt.wire import ipranges
from pt.wire.nat_facts import NatFacts, Protocol

__all__ = ["LINGER", "Puncher"]

LINGER: Final = 1.0
"""Seconds for which the peer's last packets are answered after we have a path."""
BURST: Final = 32
LATE: Final = 0.25
"""Seconds, and a round trip, after which the peer's beginning makes us begin again."""
PATIENCE: Final = 6.0
"""Seconds for which the side that began first waits for the other one at the end of its plan."""
_NOMINATIONS: Final = 10
_MAX_SAMPLES: Final = 16


class Puncher:
    """Both sides' offers in, a path out; see the module."""

    def __init__(
        self,
        ours: Offer,
        theirs: Offer,
        secret: bytes,
        *,
        controlling: bool,
        seed: bytes,
        rtt: float,
        budget: Budget | None = None,
        tracer: Tracer = NO_TRACE,
    ) -> None:
        nonces = (ours.nonce, theirs.nonce) if controlling else (theirs.nonce, ours.nonce)
        self.controlling = controlling
        self.rtt = max(rtt, 0.001)
        self.dice = Dice(seed)
        self.sealer = Sealer(secret, nonces, controlling=controlling)
        self.attempt = ours.attempt
        self.ours = ours.side
        self.theirs = theirs.side
        self.plan: Plan = make_plan(
            ours.side, theirs.side, controlling=controlling, rtt=self.rtt, budget=budget
        )
        self.winner: Won | None = None
        self.verified: float | None = None
        """Seconds from the beginning to the first answer, by whichever path."""
        self._peer_began = controlling  # it answers with its offer, and begins
        self.over = False
        self._record = Record(tracer, ours.attempt)
        self._out: list[Command] = []
        self._window = ReplayWindow()
        self._counter = 0
        self._begun = 0.0
        self._now = 0.0
        self._waiting: list[Step] = list(self.plan.steps)
        self._spent: dict[int, int] = {}
        self._schedule = Schedule()
        self._paths = Paths(seed)
        self._pings: Pacer | None = None
        self._answers: Pacer | None = None
        self._fresh = FreshSockets(ours.sample)
        self._samples: list[Sample] = []
        if theirs.sample is not None and self.theirs.names(theirs.sample[0]):
            first = Sample(attempt=ours.attempt, number=1, address=theirs.sample)
            self._samples.append(first)
        self._nominations = 0
        self._nominate_due: float | None = None
        self._linger_ends: float | None = None

    # --- driving -------------------------------------------------------------------------------

    def begin(self, now: float, wait: float = 0.0) -> None:
        """Start in `wait` seconds; both sides hold each other's offer.

        Packets that cross on the way harm nothing; one that arrives before its receiver has sent
        may be answered by the receiver's router, or make it use another port.  Whoever knows both
        offers first (it sent the second one) waits for half a round trip; meanwhile a packet that
        does not get far opens its own NAT.
        """
        self._begun, self._now = now + wait, now
        pps = self.plan.steps[0].pps or self.ours.budget.pps
        self._pings = Pacer(pps, BURST, now)
        self._answers = Pacer(2 * max(pps, 100), 2 * BURST, now)
        self._record.plan(
            self.plan, self.ours, self.theirs, controlling=self.controlling, rtt=self.rtt
        )
        for step in self.plan.steps if wait else ():
            if step.start == 0 and step.ours is Job.SEND and step.strategy is not Strategy.LAN:
                for candidate in self.theirs.wan(step.family):
                    self._send(MAIN, candidate.address, PacketType.PING, ttl=OPENER_TTL)
        self.tick(now)

    def deadline(self) -> float | None:
        """When `tick` is due; None: never."""
        if self.over or self._pings is None:
            return None
        if self._linger_ends is not None:
            return min(self._linger_ends, self._nominate_due or self._linger_ends)
        times = [self._begun + step.start for step in self._waiting[:1]]
        others = (self._schedule.deadline(), self._paths.deadline())
        return min([*times, *(each for each in others if each is not None)], default=None)

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self.over or self._pings is None:
            return
        self._now = now
        if self._linger_ends is not None:
            self._linger(now)
            return
        while self._waiting and now >= self._begun + self._waiting[0].start:
            self._start(self._waiting.pop(0), now)
            self._check(now)  # before a job samples ports: these packets use up some
        self._check(now)
        self._schedule.run_due(now)

    def peer_began(self, now: float) -> None:
        """The peer says that it begins.

        It may have had our offer late: then what we have sent so far met nobody, and is sent again,
        once.
        """
        if self._peer_began or self.over:
            return
        self._peer_began = True
        begun = self._pings is not None
        if begun and self.winner is None and now > self._begun + LATE + self.rtt:
            self._begun, self._now = now, now
            self._waiting = list(self.plan.steps)
            self._spent.clear()
            self._schedule.clear()
            self._out += self._fresh.close()
            self._paths.clear()
            self.tick(now)

    def _heard(self, now: float) -> None:
        """A packet of the peer is here: it is under way, and what met it must not end too soon."""
        if not self._peer_began:
            self._peer_began = True
            end = now - self._begun + 1.0 + 4 * self.rtt
            self._waiting = [
                replace(step, start=max(step.start, end))
                if step.strategy is Strategy.RELAY
                else step
                for step in self._waiting
            ]

    def commands(self) -> list[Command]:
        """What the shell has to do, in order; they are told once."""
        out, self._out = self._out, []
        return out

    def stop(self, now: float, reason: str) -> None:
        """Give up: the session or the network is gone."""
        if not self.over and self.winner is None:
            self._end(now, reason)

    def tcp_won(self, now: float, addr: Address, rtt: float | None) -> None:
        """The shell has a TCP connection on which the peer has proved to be the peer."""
        if self.winner is None and not self.over:
            self._win(now, Won(MAIN, addr, rtt, Strategy.TCP_SIMULTANEOUS_OPEN), linger=False)

    # --- what arrives --------------------------------------------------------------------------

    def receive(self, now: float, sock: int, data: bytes, addr: Address) -> bool:
        """A datagram; False: it is none of this attempt's."""
        packet = self.sealer.open(data)
        if packet is None or self.over or self._pings is None:
            return False
        self._now = now
        self._heard(now)
        if not self._window.accept(packet.counter):
            self._record.packet("punch_replayed", sock, addr, packet)
            return True
        self._record.packet("punch_received", sock, addr, packet)
        match packet.type:
            case PacketType.PING:
                self._ping(now, sock, addr, packet)
            case PacketType.PONG:
                self._pong(now, sock, addr, packet)
            case PacketType.NOMINATE:
                if not self.controlling:
                    self._answer(now, sock, addr, packet, PacketType.ACCEPT)
                    if self.winner is None:
                        strategy = self._credit(self._strategy(sock, addr), packet.observed)
                        self._win(now, Won(sock, addr, None, strategy), linger=True)
            case PacketType.ACCEPT:
                if self.controlling and packet.path == self._paths.mark(sock, addr):
                    self._nominate_due = None
        return True

    def sampled(self, now: float, sock: int, address: Address | None) -> None:
        """What the server saw of a socket; None: no answer."""
        self._now = now
        self._record.sample("punch_sample", sock, address)
        for job in self._schedule.jobs:
            if job.sampled(now, sock, address):
                self._schedule.run(job, now)
                return

    def told(self, now: float, message: Sample) -> None:
        """The peer's sample; one of another attempt is nobody's."""
        self._now = now
        if message.attempt != self.attempt or len(self._samples) >= _MAX_SAMPLES:
            return
        self._record.sample("punch_told", message.number, message.address)
        if not self.theirs.names(message.address[0]):
            return
        self._samples.append(message)
        for job in list(self._schedule.jobs):
            job.told(now, message.number, message.address)
            self._schedule.run(job, now)

    # --- what jobs ask for ---------------------------------------------------------------------

    def pacer(self, step: Step, *, opener: bool = False) -> Pacer:
        """The pace of a step; openers are quicker."""
        rate = step.pps or self.ours.budget.pps
        if opener:
            return Pacer(rate * OPENERS_AT_ONCE, BURST, self._begun + step.start)
        return Pacer(rate, BURST, self._begun + step.start)

    def ping(self, step: Step, sock: int, addr: Address, ttl: int | None = None) -> bool:
        """Send one packet of a step, or say that its packets are used up."""
        spent = self._spent.get(id(step), 0)
        if spent >= step.packets:
            return False
        self._spent[id(step)] = spent + 1
        self._send(sock, addr, PacketType.PING, ttl=ttl)
        return True

    def open_socket(self, step: Step) -> int | None:
        """A fresh socket within the step's."""
        sock = None if self.winner is not None else self._fresh.open(step)
        if sock is not None:
            self._out.append(OpenSocket(sock))
        return sock

    def presampled(self, step: Step) -> tuple[int, Address] | None:
        """The socket of our offer's sample, and the sample; only once."""
        return self._fresh.take_sample(step)

    def ask_server(self, sock: int) -> None:
        """Have the socket's outer port sampled."""
        self._out.append(AskServer(sock))

    def tell_sample(self, number: int, address: Address) -> None:
        """Tell the peer what a server saw."""
        sample = Sample(attempt=self.attempt, number=number, address=address)
        self._out.append(Tell(sample))

    def targets(self, step: Step) -> Sequence[Address]:
        """Where the peer is told to be: as servers see it before what gateways granted."""
        wan = sorted(self.theirs.wan(step.family), key=lambda each: each.kind is Kind.MAPPED)
        return [each.address for each in wan]

    def nats(self, step: Step) -> tuple[NatFacts, NatFacts]:
        """The facts on both NATs."""
        return (
            self.ours.nat(step.family, Protocol.UDP),
            self.theirs.nat(step.family, Protocol.UDP),
        )

    # --- steps and jobs ------------------------------------------------------------------------

    def _start(self, step: Step, now: float) -> None:
        if step.strategy is Strategy.RELAY:
            patient = not self._peer_began and not self.plan.hopeless
            if patient and now < self._begun + self.plan.seconds + PATIENCE:
                self._waiting.append(replace(step, start=self.plan.seconds + PATIENCE))
            else:
                self._end(now, step.why)
            return
        self._record.step(step)
        match step.ours:
            case Job.SEND:
                lan = step.strategy is Strategy.LAN
                found = self.theirs.lan(step.family) if lan else self.theirs.wan(step.family)
                share = max(1, step.packets // max(len(found), 1))
                limit, until = min(share, MAX_PINGS), now + step.seconds
                for each in found:
                    path = Path(MAIN, each.address, step.strategy, limit, until, now, gap=step.gap)
                    self._paths.tell(path)
            case Job.CONNECT:
                self._out.append(StartTcp(step))
            case Job.SAMPLE:
                self._add_job(SampleJob(self, step, now), now)
            case Job.VOLLEY:
                self._add_job(VolleyJob(self, step, now, MAIN), now)
            case Job.SOCKETS:
                self._add_job(SocketsJob(self, step, now), now)
            case Job.SPRAY | Job.SCAN:
                self._add_job(SprayJob(self, step, now, MAIN), now)
            case Job.SAMPLED_SPRAY:
                self._add_job(SprayJob(self, step, now, None), now)
            case Job.WAIT | Job.NONE:
                pass

    def _add_job(self, job: Running, now: float) -> None:
        for sample in self._samples:
            job.told(now, sample.number, sample.address)
        self._schedule.add(job, now)

    def _check(self, now: float) -> None:
        """Send to the told and the learned addresses."""
        assert self._pings is not None
        for path in self._paths.due(now):
            if self._pings.take(now):
                self._ask(path, now)
            else:
                path.due = self._pings.ready(now)

    def _ask(self, path: Path, now: float) -> None:
        path.asked(now)
        self._send(path.sock, path.addr, PacketType.PING)

    # --- packets -------------------------------------------------------------------------------

    def _send(
        self,
        sock: int,
        addr: Address,
        kind: PacketType,
        *,
        question: Packet | None = None,
        ttl: int | None = None,
    ) -> None:
        self._counter += 1
        if question is None:
            clock, path, echo = self._micros(self._now), self._paths.mark(sock, addr), 0
        else:
            clock, path, echo = question.clock, question.path, question.counter
        packet = Packet(
            type=kind,
            counter=self._counter,
            clock=clock,
            path=path,
            echo=echo,
            observed=None if kind is PacketType.PING else addr,
        )
        self._out.append(Send(sock, self.sealer.seal(packet), addr, ttl))
        self._record.packet("punch_sent", sock, addr, packet, ttl)

    def _answer(
        self, now: float, sock: int, addr: Address, question: Packet, kind: PacketType
    ) -> None:
        assert self._answers is not None
        if self._answers.take(now):
            self._send(sock, addr, kind, question=question)

    def _ping(self, now: float, sock: int, addr: Address, packet: Packet) -> None:
        """Answer, but not each of many questions, and once there is a path none beside it."""
        if self.winner is None or (sock, addr) == (self.winner.sock, self.winner.addr):
            path = self._paths.get(sock, addr)
            if path is None or path.may_answer(now):
                self._answer(now, sock, addr, packet, PacketType.PONG)
        if self.winner is None:
            self._learn(now, sock, addr)

    def _learn(self, now: float, sock: int, addr: Address) -> None:
        """The peer writes from there: it gets a packet of ours now, and more until it answers."""
        strategy = self._strategy(sock, addr)
        until = max(self._begun + self.plan.seconds, now + 1.0 + 4 * self.rtt)
        path, new = self._paths.learn(now, sock, addr, strategy, until)
        if new:
            self._record.candidate(sock, addr, strategy.value)
        if path is not None:
            self._ask(path, now)

    def _pong(self, now: float, sock: int, addr: Address, packet: Packet) -> None:
        if packet.echo > self._counter or packet.echo < 1:
            return
        if packet.path != self._paths.mark(sock, addr):
            # an answer from where we did not ask: a question of our own tells whether it is a path
            if self.winner is None:
                self._learn(now, sock, addr)
            return
        rtt = (self._micros(now) - packet.clock & 0xFFFFFFFF) / 1e6
        path = self._paths.answered(now, sock, addr, self._strategy(sock, addr))
        if not path.answered:
            path.answered = True
            if self.verified is None:
                self.verified = now - self._begun
            self._record.pair(sock, addr, path.strategy.value, rtt, packet.observed)
        if self.controlling and self.winner is None:
            strategy = self._credit(path.strategy, packet.observed)
            self._win(now, Won(sock, addr, rtt, strategy), linger=True)

    def _strategy(self, sock: int, addr: Address) -> Strategy:
        """What a path without a told address is owed to."""
        path = self._paths.get(sock, addr)
        if path is not None:
            return path.strategy
        opened_for = self._fresh.strategy(sock)
        if opened_for is not None:
            return opened_for
        if addr[0] != self.theirs.external and not ipranges.is_public(ip_address(addr[0])):
            return Strategy.LAN
        guessing = {Job.VOLLEY, Job.SPRAY, Job.SCAN, Job.SAMPLE, Job.SAMPLED_SPRAY}
        for job in reversed(self._schedule.jobs):
            if job.step.ours in guessing:
                return job.step.strategy
        for step in self.plan.steps:
            if step.strategy in (Strategy.WAIT, Strategy.SIMULTANEOUS, Strategy.HAIRPIN):
                return step.strategy
        return Strategy.SIMULTANEOUS

    def _credit(self, strategy: Strategy, observed: Address | None) -> Strategy:
        """Plain sending has not done it if the peer sees us where we did not say that we are."""
        told = {candidate.address for candidate in self.ours.candidates}
        plain = strategy is Strategy.SIMULTANEOUS and observed not in told
        return self.plan.best if plain and observed is not None else strategy

    # --- the end -------------------------------------------------------------------------------

    def _win(self, now: float, won: Won, *, linger: bool) -> None:
        self.winner = won
        self._waiting.clear()
        self._schedule.clear()
        self._out += self._fresh.close(but=won.sock)
        self._record.won(won, now - self._begun, self._counter)
        self._out.append(won)
        if not linger:
            self.over = True
            return
        self._linger_ends = now + max(LINGER, 4 * self.rtt)
        if self.controlling:
            self._nominate_due = now
            self._linger(now)

    def _linger(self, now: float) -> None:
        assert self._linger_ends is not None
        assert self.winner is not None
        if now >= self._linger_ends:
            self.over = True
        elif self._nominate_due is not None and now >= self._nominate_due:
            self._nominations += 1
            self._send(self.winner.sock, self.winner.addr, PacketType.NOMINATE)
            gap = max(0.02, min(self.rtt, 0.25))
            self._nominate_due = now + gap if self._nominations < _NOMINATIONS else None

    def _end(self, now: float, reason: str) -> None:
        self.over = True
        self._out += self._fresh.close()
        self._waiting.clear()
        self._paths.clear()
        self._schedule.clear()
        self._record.ended(reason, now - self._begun, self._counter)
        self._out.append(Ended(reason))

    def _micros(self, now: float) -> int:
        return int((now - self._begun) * 1e6) & 0xFFFFFFFF
