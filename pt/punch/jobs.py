"""What a step does over time: each job sends what is due and says when it wants to run again."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from pt.punch.candidates import Address
from pt.punch.ports import WINDOW, Dice, aims, spray_ports
from pt.punch.strategies import Job, Step
from pt.wire.nat_facts import NatFacts

__all__ = [
    "Desk",
    "Pacer",
    "Running",
    "SampleJob",
    "Schedule",
    "SocketsJob",
    "SprayJob",
    "VolleyJob",
]

OPENERS_AT_ONCE: Final = 5
"""First packets of fresh sockets may go out so many times quicker than all others: they die on the
way, towards one address."""
_REPEATS: Final = 3
_REPEAT_GAP: Final = 0.04
_OPEN_GAP: Final = 0.02


class Pacer:
    """A token bucket: `rate` packets a second, `burst` at once."""

    __slots__ = ("_burst", "_rate", "_time", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._time = now

    def take(self, now: float) -> bool:
        """Whether one packet may go now."""
        self._refill(now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def ready(self, now: float) -> float:
        """When the next packet may go."""
        self._refill(now)
        return now + max(0.0, 1.0 - self._tokens) / self._rate

    def _refill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + (now - self._time) * self._rate)
        self._time = now


class Desk(Protocol):
    """What a job may do; the machine is it."""

    dice: Dice
    controlling: bool
    rtt: float

    def pacer(self, step: Step, *, opener: bool = False) -> Pacer:
        """The pace of a step."""
        ...

    def ping(self, step: Step, sock: int, addr: Address, ttl: int | None = None) -> bool:
        """Send one packet; False: the step's or the attempt's packets are used up."""
        ...

    def open_socket(self, step: Step) -> int | None:
        """A fresh socket; None: there are enough."""
        ...

    def presampled(self, step: Step) -> tuple[int, Address] | None:
        """The socket whose sample the peer had with our offer, and that sample; only once."""
        ...

    def ask_server(self, sock: int) -> None:
        """Have the socket's outer port sampled."""
        ...

    def tell_sample(self, number: int, address: Address) -> None:
        """Tell the peer what a server saw."""
        ...

    def targets(self, step: Step) -> Sequence[Address]:
        """Where the peer is told to be."""
        ...

    def nats(self, step: Step) -> tuple[NatFacts, NatFacts]:
        """The facts on our NAT and on the peer's."""
        ...


class Running:
    """One step under way; `run` gives the time of the next run, or None if it has done its work."""

    def __init__(self, desk: Desk, step: Step, now: float) -> None:
        self.desk = desk
        self.step = step
        self.until = now + step.seconds

    def run(self, now: float) -> float | None:
        """Send what is due."""
        raise NotImplementedError

    def sampled(self, now: float, sock: int, address: Address | None) -> bool:
        """A server has answered, or not, for `sock`; whether it is one of ours."""
        return False

    def told(self, now: float, number: int, address: Address) -> None:
        """The peer's sample has arrived."""


class Schedule:
    """The steps under way, by the time at which each wants to run."""

    def __init__(self) -> None:
        self.jobs: list[Running] = []
        self._due: list[tuple[float, int, Running]] = []
        self._count = 0

    def add(self, job: Running, now: float) -> None:
        """A step begins."""
        self.jobs.append(job)
        self.run(job, now)

    def run(self, job: Running, now: float) -> None:
        """Run a job now, whenever it wanted to."""
        self._due = [entry for entry in self._due if entry[2] is not job]
        heapq.heapify(self._due)
        self._run(job, now)

    def run_due(self, now: float) -> None:
        """Run what is due, each once."""
        for _ in range(len(self._due)):
            if not self._due or self._due[0][0] > now:
                return
            self._run(heapq.heappop(self._due)[2], now)

    def _run(self, job: Running, now: float) -> None:
        if now >= job.until:
            return
        due = job.run(now)
        if due is not None:
            self._count += 1
            heapq.heappush(self._due, (max(due, now + 0.0005), self._count, job))

    def deadline(self) -> float | None:
        """When the next job is due."""
        return self._due[0][0] if self._due else None

    def clear(self) -> None:
        """All steps are over."""
        self.jobs.clear()
        self._due.clear()


class SprayJob(Running):
    """One packet to each of many ports, in an order that nobody can foresee."""

    def __init__(self, desk: Desk, step: Step, now: float, sock: int | None) -> None:
        super().__init__(desk, step, now)
        self._sock = sock
        self._pacer = desk.pacer(step)
        self._hosts = [host for host, _ in desk.targets(step)[:1]]
        self._ports = self._order()
        self._asked: int | None = None
        """The fresh socket whose port is being sampled."""

    def _order(self) -> Iterator[int]:
        yield from spray_ports(self.desk.dice, self.step.block)
        if self.step.ours is Job.SCAN:  # what crossed before the other side had opened
            yield from spray_ports(self.desk.dice, None)

    def run(self, now: float) -> float | None:
        """Send what is due."""
        if not self._hosts:
            return None
        if self._sock is None:
            first = self.desk.presampled(self.step)
            if first is not None:
                self._opened(first[0])
                return now
            if self._asked is None:
                self._asked = self.desk.open_socket(self.step)
                if self._asked is None:
                    return None
                self.desk.ask_server(self._asked)
            return self.until
        while self._pacer.take(now):
            port = next(self._ports, None)
            if port is None or not self.desk.ping(self.step, self._sock, (self._hosts[0], port)):
                return None
        return self._pacer.ready(now)

    def sampled(self, now: float, sock: int, address: Address | None) -> bool:
        """Take the server's answer for our socket."""
        if self._sock is not None or sock != self._asked:
            return False
        self._asked = None
        if address is not None:
            self.desk.tell_sample(1, address)
            self._opened(sock)
        return True

    def _opened(self, sock: int) -> None:
        """The mapping towards the peer has to come right after the sample."""
        self._sock = sock
        self.desk.ping(self.step, sock, self.desk.targets(self.step)[0])


class SocketsJob(Running):
    """Many sockets; all write to where the peer guesses from, and once more in case of a loss.

    If that is a port that was foretold, they write to it and to the three after it.
    """

    def __init__(self, desk: Desk, step: Step, now: float) -> None:
        super().__init__(desk, step, now)
        self._fast = desk.pacer(step, opener=True)
        self._pacer = desk.pacer(step)
        self._open: list[int] = []
        self._full = False
        self._later: Iterator[tuple[int, Address]] = iter(())
        self._targets: list[Address] = []
        if step.theirs is not Job.SAMPLED_SPRAY:
            self._targets = list(desk.targets(step)[:1]) * 2

    def told(self, now: float, number: int, address: Address) -> None:
        """Take the peer's sample."""
        if self.step.theirs is Job.SAMPLED_SPRAY and not self._targets:
            ports = aims(NatFacts(), self.desk.nats(self.step)[1], address[1], controlling=True)
            self._targets = [(address[0], port) for port in ports[:4]]

    def run(self, now: float) -> float | None:
        """Send what is due."""
        if not self._targets:
            return self.until
        while not self._full:
            if not self._fast.take(now):
                return self._fast.ready(now)
            sock = self.desk.open_socket(self.step)
            if sock is None:
                self._full = True
                self._later = ((s, target) for target in self._targets[1:] for s in self._open)
                break
            self._open.append(sock)
            self.desk.ping(self.step, sock, self._targets[0], self.step.opener_ttl)
        while self._pacer.take(now):
            sock_and_target = next(self._later, None)
            if sock_and_target is None or not self.desk.ping(self.step, *sock_and_target):
                return None
        return self._pacer.ready(now)


class VolleyJob(Running):
    """Packets to the ports that follow from the peer's sample, from the shared socket.

    One to each of the nearest opens our NAT for what the peer sends again and again; more follow
    only if that brings nothing.
    """

    def __init__(self, desk: Desk, step: Step, now: float, sock: int) -> None:
        super().__init__(desk, step, now)
        self._sock = sock
        self._pacer = desk.pacer(step)
        self._number = 0
        self._aims: list[Address] = []
        self._queue: deque[Address] = deque()
        self._passes = 0
        self._due = now

    def told(self, now: float, number: int, address: Address) -> None:
        """Take the peer's sample."""
        if number <= self._number:
            return
        self._number = number
        mine, theirs = self.desk.nats(self.step)
        ports = aims(mine, theirs, address[1], controlling=self.desk.controlling)
        self._aims = [(address[0], port) for port in ports]
        self._passes = 0
        self._queue.clear()
        self._due = now

    def run(self, now: float) -> float | None:
        """Send what is due."""
        while self._passes < _REPEATS and now >= self._due:
            if not self._pacer.take(now):
                return self._pacer.ready(now)
            if not self._queue:
                self._queue = deque(self._aims if self._passes else self._aims[:WINDOW])
                if not self._queue:
                    return self.until
            if not self.desk.ping(self.step, self._sock, self._queue.popleft()):
                return None
            if not self._queue:
                self._passes += 1
                self._due = now + _REPEAT_GAP + self.desk.rtt
        return self._due if self._passes < _REPEATS and self._aims else self.until


class SampleJob(Running):
    """Rounds of: a fresh socket, its port sampled and told, and packets towards the peer.

    If the peer samples, too, packets wait for its sample of the same round.
    """

    def __init__(self, desk: Desk, step: Step, now: float) -> None:
        super().__init__(desk, step, now)
        self._pacer = desk.pacer(step)
        self._both = step.theirs is Job.SAMPLE
        self._number = 0
        self._sock: int | None = None
        self._seen: Address | None = None
        self._peer: dict[int, Address] = {}
        self._round_ends = now
        self._aims: list[Address] = []
        self._queue: Iterator[Address] = iter(())
        self._passes = 0
        self._due = now

    def run(self, now: float) -> float | None:
        """Send what is due."""
        overtaken = max(self._peer, default=0) > self._number
        if (overtaken or now >= self._round_ends) and not self._begin(now):
            return None
        repeats = _REPEATS if self._both else 8
        while self._aims and self._passes < repeats and now >= self._due:
            if not self._pacer.take(now):
                return min(self._pacer.ready(now), self._round_ends)
            aim = next(self._queue, None)
            if aim is None:
                self._queue = iter(self._aims)
                aim = next(self._queue)
            assert self._sock is not None
            if not self.desk.ping(self.step, self._sock, aim):
                return None
            if aim == self._aims[-1]:
                self._passes += 1
                gap = max(_REPEAT_GAP, self.desk.rtt / 2) if self._both else _OPEN_GAP
                self._due = now + gap
        if self._aims and self._passes < repeats:
            return min(self._due, self._round_ends)
        return self._round_ends

    def _begin(self, now: float) -> bool:
        """A new round, with the number of the peer's latest if that is ahead."""
        first = self.desk.presampled(self.step) if self._number == 0 else None
        self._number = max(self._number + 1, max(self._peer, default=0))
        if first is not None and self._number == 1:
            self._sock, self._seen = first
            self._round_ends = now + 0.15 + 3 * self.desk.rtt
            self._aim(now)
            return True
        sock = self.desk.open_socket(self.step)
        if sock is None:
            return False
        self._sock, self._seen, self._aims, self._passes = sock, None, [], 0
        self._queue = iter(())
        self._round_ends = now + 0.15 + 3 * self.desk.rtt
        self.desk.ask_server(sock)
        return True

    def sampled(self, now: float, sock: int, address: Address | None) -> bool:
        """Take the server's answer for our socket."""
        if sock != self._sock:
            return False
        if address is not None:
            self._seen = address
            self.desk.tell_sample(self._number, address)
            self._aim(now)
        return True

    def told(self, now: float, number: int, address: Address) -> None:
        """Take the peer's sample."""
        if number < self._number or number > self._number + 64:
            return
        self._peer = {number: address}
        self._aim(now)

    def _aim(self, now: float) -> None:
        if self._seen is None or self._aims:
            return
        if self._both:
            peer = self._peer.get(self._number)
            if peer is None:
                return
            mine, theirs = self.desk.nats(self.step)
            ports = aims(mine, theirs, peer[1], controlling=self.desk.controlling)
            self._aims = [(peer[0], port) for port in ports]
        else:
            self._aims = list(self.desk.targets(self.step))[:2]
        self._due = now
