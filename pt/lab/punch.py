"""`pt`'s own hole puncher as a program for `pt lab pair`: `pt.punch` with the laboratory's facts.

Both ends know their NAT's class as the laboratory does (PT_LAB_FACTS), ask its servers for their
addresses, and meanwhile their gateway for a port mapping; what it has not granted when the servers
have answered is not waited for. Then they hold the conversation of a session over signals. Side a
controls.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import io
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from pt.aio.stream import read_exactly
from pt.aio.udp import Address, UdpPort
from pt.errors import PtError
from pt.node.nat_view import sample_from
from pt.node.portmap import PortMapper
from pt.portmap.mapping import Outer, Wanted
from pt.punch import Budget, Candidate, Kind, Plan, Side, Strategy
from pt.punch.aio import Conversation, Local, Probes, PunchError
from pt.trace import Tracer
from pt.wire.nat_facts import Allocation, Dependence, NatFacts, Protocol

__all__ = ["main"]

SECRET: Final = b"the laboratory's session secret."
TCP_TIMEOUT: Final = 2.0
MAX_TRACE: Final = 1 << 22
"""Bytes of trace that are kept in memory, and told when the attempt is over."""
ANSWER_LINGER: Final = 0.3
"""Seconds for which the other side's last packets are answered."""


def say(event: str, **facts: object) -> None:
    """Print an event."""
    print(json.dumps({"event": event, "t": time.monotonic(), **facts}), flush=True)


class SignalStream:
    """A byte stream to the other side over signals."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._lines = reader
        self._data = b""

    async def read(self, max_len: int) -> bytes:
        """Return what comes next."""
        while not self._data:
            line = await self._lines.readline()
            if not line:
                return b""
            self._data = bytes.fromhex(json.loads(line)["data"])
        data, self._data = self._data[:max_len], self._data[max_len:]
        return data

    async def read_exactly(self, count: int) -> bytes:
        """Return so many bytes."""
        return await read_exactly(self.read, count)

    def unread(self, data: bytes) -> None:
        """Push bytes back."""
        self._data = data + self._data

    async def write(self, data: bytes) -> None:
        """Send a signal."""
        say("signal", data=data.hex())

    async def close_write(self) -> None:
        """Nothing: signals end with the program."""

    async def reset(self, code: int = 0) -> None:
        """Nothing: signals end with the program."""


def read_facts(text: str, protocol: Protocol, external: str | None) -> NatFacts:
    """Return the facts that the laboratory tells."""
    found: dict[str, Any] = json.loads(text)
    found.pop("label", None)
    kinds = {"mapping": Dependence, "filtering": Dependence, "ports": Allocation}
    for name, kind in kinds.items():
        found[name] = kind(found[name])
    block = found.get("block")
    found["block"] = tuple(block) if block else None
    return NatFacts(**{**found, "protocol": protocol, "external": external})


def places(text: str) -> list[Address]:
    """Return the addresses of `IP:PORT IP:PORT`."""
    found = []
    for word in text.split():
        ip, _, port = word.rpartition(":")
        found.append((ip, int(port)))
    return found


def tcp_candidate(reflector: Address) -> tuple[int, Address] | None:
    """Return a TCP port of ours and how a server sees it, None if it cannot be reached."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.settimeout(TCP_TIMEOUT)
        sock.bind(("", 0))
        try:
            sock.connect(reflector)
            seen = sock.recv(100).decode()
        except OSError:
            return None
        if not seen:
            return None
        return int(sock.getsockname()[1]), places(seen)[0]


def narrow(strategy: Strategy) -> None:
    """Let plans consist of one strategy, begun at once."""
    machine: Any = importlib.import_module("pt.punch.machine")
    planned: Callable[..., Plan] = machine.make_plan

    def only(*args: Any, **words: Any) -> Plan:  # noqa: ANN401  # those of make_plan
        plan = planned(*args, **words)
        wanted = [step for step in plan.steps if step.strategy is strategy]
        relay = [step for step in plan.steps if step.strategy is Strategy.RELAY]
        first = min((step.start for step in wanted), default=0.0)
        steps = tuple(replace(step, start=step.start - first) for step in wanted)
        if not steps:
            why = f"{strategy.value} is not for this pair"
            return replace(plan, steps=tuple(relay), best=Strategy.RELAY, why=why)
        end = max(step.start + step.seconds for step in steps)
        steps += tuple(replace(step, start=end) for step in relay)
        return replace(plan, steps=steps, best=strategy)

    machine.make_plan = only


class Mapped:
    """The port mappings that the gateway grants, asked for from the beginning."""

    def __init__(self, port: UdpPort) -> None:
        ports = {":" in host: number for host, number in port.addresses}
        self.seconds: float | None = None
        """Until the first one was granted."""
        self._began = time.monotonic()
        self._mapper = PortMapper(
            lambda host: [
                Wanted(Protocol.UDP, each) for six, each in ports.items() if six == (":" in host)
            ],
            self._granted,
        )
        self._mapper.start()

    def _granted(self) -> None:
        if self.seconds is None:
            self.seconds = round(time.monotonic() - self._began, 6)

    @property
    def candidates(self) -> list[Candidate]:
        """Where the peer may reach us by them."""
        found = self._mapper.mappings
        return [
            Candidate(Kind.MAPPED, *each.external) for each in found if each.outer is Outer.PUBLIC
        ]

    async def close(self) -> None:
        """Give them back."""
        await self._mapper.close()


def budget_of(env: Mapping[str, str]) -> Budget:
    """Return what the attempt may cost."""
    scan = env["PT_LAB_STRATEGY"] == Strategy.FULL_SCAN.value
    budget = Budget(seconds=float(env["PT_LAB_BUDGET"]), full_scan=scan)
    pps = int(env.get("PT_LAB_PPS", "0"))
    return replace(budget, pps=pps) if pps else budget


async def candidates_of(
    env: Mapping[str, str], port: UdpPort, mapped: Mapped
) -> tuple[Side, int | None, Address | None]:
    """Return what we tell the other side, our port for TCP, and a STUN server that answers."""
    server, reflector = places(env["PT_LAB_STUN"])[0], places(env["PT_LAB_REFLECTOR"])[0]
    ports = {":" in host: number for host, number in port.addresses}
    own = env.get("PT_LAB_ADDRESSES", "").split()
    found = [
        Candidate(Kind.HOST, host, ports[":" in host]) for host in own if (":" in host) in ports
    ]
    facts: list[NatFacts] = []
    if env.get("PT_LAB_FACTS6", "null") != "null":
        facts.append(read_facts(env["PT_LAB_FACTS6"], Protocol.UDP, None))
    seen = await sample_from(port, server)
    if seen is not None:
        found.append(Candidate(Kind.REFLEXIVE, *seen))
    external = seen[0] if seen is not None else None
    facts.append(read_facts(env["PT_LAB_FACTS"], Protocol.UDP, external))
    tcp = await asyncio.get_running_loop().run_in_executor(None, tcp_candidate, reflector)
    if tcp is not None:
        found.append(Candidate(Kind.REFLEXIVE, *tcp[1], Protocol.TCP))
        told = read_facts(env["PT_LAB_FACTS_TCP"], Protocol.TCP, tcp[1][0])
        facts.append(told)
    found = [*mapped.candidates, *found]
    side = Side(facts=tuple(facts), candidates=tuple(found), budget=budget_of(env))
    return side, tcp[0] if tcp else None, server if seen is not None else None


async def punch(env: Mapping[str, str]) -> None:
    """Make one attempt."""
    loop = asyncio.get_running_loop()
    strategy = env["PT_LAB_STRATEGY"]
    if strategy != "auto":
        narrow(Strategy(strategy))
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    has_six = any(":" in each for each in env.get("PT_LAB_ADDRESSES", "").split())
    port = UdpPort(("0.0.0.0", 0), *([("::", 0)] if has_six else []))
    probes = Probes(port)
    mapped = Mapped(port)
    side, tcp_port, server = await candidates_of(env, port, mapped)

    probes.read()
    trace = io.StringIO()
    local = Local(
        side=side,
        probes=probes,
        secret=SECRET,
        rtt=max(float(env["PT_LAB_RTT"]), 0.001),
        ask=functools.partial(sample_from, server=server) if server is not None else None,
        tcp_port=tcp_port,
        tracer=Tracer(trace, time.monotonic, time.time()),
    )
    zero = time.monotonic()
    outcome: dict[str, object]
    stream = SignalStream(reader)
    try:
        async with Conversation(stream, local, controlling=env["PT_LAB_ROLE"] == "a") as talk:
            direct = await talk.punch()
        outcome = {"direct": True, "seconds": direct.seconds, "winner": direct.strategy.value}
        outcome["verified"] = direct.verified
        outcome |= {"rtt": direct.rtt, "address": f"{direct.address[0]}:{direct.address[1]}"}
    except PunchError as error:
        outcome = {"direct": False, "reason": str(error), "best": error.plan.best.value}
    except (PtError, TimeoutError, OSError) as error:
        outcome = {"direct": False, "reason": f"{type(error).__name__}: {error}"}
    ended = time.monotonic()
    if outcome["direct"]:
        await asyncio.sleep(ANSWER_LINGER)  # what the other end still waits for is under way
    sent, planned = _tell_trace(trace.getvalue()[:MAX_TRACE], zero)
    outcome["packets"] = sent
    if planned is not None:
        outcome["decided"] = round(ended - planned, 6)
    if mapped.seconds is not None:
        outcome["mapped"] = mapped.seconds
    print(json.dumps({"event": "outcome", "t": ended, **outcome}), flush=True)
    await mapped.close()


def _tell_trace(text: str, zero: float) -> tuple[int, float | None]:
    """Print what was traced; return the number of packets sent, and when there was a plan."""
    sent, planned = 0, None
    for line in text.splitlines():
        with contextlib.suppress(ValueError):  # a line cut short
            record = json.loads(line)
            sent += record["event"] == "punch_sent"
            record["t"] = round(record["t"] + zero, 6)
            if record["event"] == "punch_plan":
                planned = record["t"]
            print(json.dumps(record))
    return sent, planned


def main() -> int:
    """Run."""
    try:
        asyncio.run(punch(os.environ))
    except (KeyError, ValueError) as error:
        print(f"this is a program for `pt lab pair`: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
