"""The named strategies of hole punching, and a plan made of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from pt.wire.nat_facts import Protocol

__all__ = ["GAP", "OPENER_TTL", "Job", "Plan", "Step", "Strategy"]

GAP: Final = 0.015
"""Seconds between packets to an address from which the answer is due."""
OPENER_TTL: Final = 5
"""Hops of a first packet that is to open our NAT and not to arrive: past a home router and a
carrier's NAT, short of the peer's."""


class Strategy(Enum):
    """What is tried; the values are what people and traces read."""

    LAN = "lan"
    """Addresses of interfaces: one network, or one that is routed between both."""
    HAIRPIN = "hairpin"
    """Both behind one NAT that returns packets sent to its own outer address."""
    SIMULTANEOUS = "simultaneous"
    """Both send to where servers see the other; whoever is met elsewhere is answered there."""
    IPV6_PINHOLE = "ipv6-pinhole"
    """The same through two stateful firewalls, without translation."""
    WAIT = "wait"
    """The side with a hard mapping and open filtering stays silent until it is written to."""
    PREDICT = "predict"
    """A sample of the port allocation tells the next ports."""
    LOCKSTEP = "lockstep"
    """Both sides' next ports are foretold, each packet being aimed at one of the other side."""
    BLOCK_BIRTHDAY = "block-birthday"
    """Few sockets against guesses that prefer the block that ports were seen in."""
    BIRTHDAY = "birthday"
    """Many sockets on the side with the hard mapping, random ports on the other."""
    ONE_SIDED_BIRTHDAY = "one-sided-birthday"
    """The same with two hard mappings: one side's filter does not look at the port."""
    FULL_SCAN = "full-scan"
    """Every port; only if both users ask for it."""
    TCP_SIMULTANEOUS_OPEN = "tcp-simultaneous-open"
    RELAY = "relay"
    """Not to be reached directly."""


class Job(Enum):
    """One side's part in a step."""

    NONE = "none"
    SEND = "send"
    """From the shared socket to every candidate."""
    WAIT = "wait"
    SAMPLE = "sample"
    """A fresh socket: ask a server for its port, tell the peer, open towards the peer at once."""
    VOLLEY = "volley"
    """Wait for the peer's sample, then send to its next ports from the shared socket."""
    SOCKETS = "sockets"
    """Many fresh sockets, each towards one address of the peer."""
    SPRAY = "spray"
    """From one socket to distinct random ports."""
    SAMPLED_SPRAY = "sampled-spray"
    """A spray from a fresh socket whose port is told first."""
    SCAN = "scan"
    CONNECT = "connect"
    """TCP: listen, and connect from the port of listening, again and again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One strategy with its budget; `packets` and `sockets` are ours."""

    strategy: Strategy
    family: int = 4
    protocol: Protocol = Protocol.UDP
    ours: Job = Job.NONE
    theirs: Job = Job.NONE
    start: float = 0.0
    """Seconds after the beginning of the plan."""
    seconds: float = 0.0
    packets: int = 0
    sockets: int = 0
    pps: int = 0
    gap: float = GAP
    """Seconds between the first packets to one told address."""
    opener_ttl: int | None = None
    """Hops of the first packet of each socket."""
    block: tuple[int, int] | None = None
    """Guesses prefer these ports."""
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Steps by time; the last one is the relay, with the reason if nothing else can work."""

    steps: tuple[Step, ...]
    best: Strategy
    """What is expected to succeed; RELAY if nothing is."""
    why: str
    """One or two sentences for people."""
    cure: str = ""
    """What would make a direct path possible, or quicker."""

    @property
    def hopeless(self) -> bool:
        """Whether only the relay is left: no need to wait for an attempt."""
        return self.best is Strategy.RELAY

    @property
    def packets(self) -> int:
        """At most so many are sent by us."""
        return sum(step.packets for step in self.steps)

    @property
    def seconds(self) -> float:
        """After so long the attempt is over."""
        return max((step.start + step.seconds for step in self.steps), default=0.0)
