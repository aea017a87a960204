"""How a hole puncher is run in the laboratory: any program, told where it is by its environment.

It runs on host a and on host b at once, and speaks JSON lines:

    it prints   {"event": "signal", "data": …}       goes to the other side, through a slow relay
                {"event": "outcome", "direct": true, "seconds": 0.041, "winner": "…", "packets": 9}
                {"event": anything else, …}          into the attempt's timeline
    it reads    {"event": "signal", "data": …}

Environment: PT_LAB_ROLE (a or b), PT_LAB_STRATEGY, PT_LAB_SEED, PT_LAB_BUDGET (seconds),
PT_LAB_PPS (packets a second at most, 0 if nobody said), PT_LAB_RTT (seconds to the peer and back by
way of the relay), PT_LAB_REFLECTOR and PT_LAB_STUN (each `IP:PORT IP:PORT`, two places of a server;
the reflector answers any datagram with the text `IP:PORT` that it came from), PT_LAB_FACTS (JSON:
what the laboratory knows of this side's NAT).
A time `t` in an event is of CLOCK_MONOTONIC. An attempt is direct if both sides say so.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from pt.lab.lab import Lab

__all__ = ["MAX_EVENTS", "Conduct", "Report", "conduct"]

MAX_EVENTS: Final = 2000
"""Of one side's timeline; further ones are counted."""
MAX_LINE: Final = 65536
START_TIMEOUT: Final = 20.0
"""Seconds for a program to start and to say anything at all."""
GRACE: Final = 2.0
"""Seconds for the slower side once the first one has its outcome."""
SIDES: Final = ("a", "b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conduct:
    """What is run, and under which conditions; `relay_delay`: seconds of a signal, one way."""

    argv: Sequence[str]
    strategy: str = "auto"
    seed: int = 1
    budget: float = 10.0
    pps: int = 0
    relay_delay: float = 0.0
    env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """More of the environment, by side."""


@dataclass(slots=True)
class Report:
    """What both sides said."""

    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)
    timeline: list[dict[str, Any]] = field(default_factory=list)
    reason: str = ""
    """Why there is no outcome, if one is missing."""
    dropped: int = 0

    @property
    def direct(self) -> bool:
        """Whether both sides have a direct path."""
        return len(self.outcomes) == len(SIDES) and all(
            each.get("direct") is True for each in self.outcomes.values()
        )

    @property
    def times(self) -> dict[str, float]:
        """Times to direct by side."""
        found = {side: each.get("seconds") for side, each in self.outcomes.items()}
        return {
            side: float(seconds)
            for side, seconds in found.items()
            if self.direct and isinstance(seconds, int | float)
        }


class _Side:
    """One program."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self.name = name
        self.process = process
        self.errors = errors
        self.pending = b""
        self.heard = False
        self.events = 0

    def lines(self) -> list[bytes] | None:
        """Return the whole lines that came; None at the end of its output."""
        if self.process.stdout is None:
            return None
        data = os.read(self.process.stdout.fileno(), 65536)
        if not data:
            return None
        self.heard = True
        *lines, self.pending = (self.pending + data).split(b"\n")
        self.pending = self.pending[:MAX_LINE]
        return lines

    def tell(self, message: dict[str, Any]) -> None:
        if self.process.stdin is None:
            return
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:  # it has ended: its outcome, or the lack of one, tells
            return

    def last_words(self) -> str:
        self.errors.seek(0)
        text = self.errors.read()[-2000:].decode(errors="replace").strip()
        return text.splitlines()[-1] if text else ""


def conduct(lab: Lab, how: Conduct) -> Report:
    """Run the program on both sides until both have an outcome, or the budget is used up."""
    report = Report()
    with selectors.DefaultSelector() as selector, tempfile.TemporaryDirectory() as directory:
        sides = {}
        for name in SIDES:
            errors = (Path(directory) / name).open("w+b")  # closed below
            process = lab[name].popen(
                how.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_environment(how, name),
            )
            sides[name] = _Side(name, process, errors)
            if process.stdout is not None:
                selector.register(process.stdout, selectors.EVENT_READ, name)
        try:
            _Exchange(how, sides, selector, report).run()
        finally:
            for side in sides.values():
                side.process.kill()
                side.process.wait()
                side.errors.close()
    report.timeline.sort(key=lambda event: float(event["t"]))
    return report


def _environment(how: Conduct, side: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "PT_LAB_ROLE": side,
        "PT_LAB_STRATEGY": how.strategy,
        "PT_LAB_SEED": str(how.seed),
        "PT_LAB_BUDGET": f"{how.budget:g}",
        "PT_LAB_PPS": str(how.pps),
        "PT_LAB_RTT": f"{2 * how.relay_delay:g}",
        **how.env.get(side, {}),
    }


class _Exchange:
    """The loop: output of both sides in, delayed signals out."""

    def __init__(
        self,
        how: Conduct,
        sides: Mapping[str, _Side],
        selector: selectors.BaseSelector,
        report: Report,
    ) -> None:
        self._how = how
        self._sides = sides
        self._selector = selector
        self._report = report
        self._signals: list[tuple[float, int, str, dict[str, Any]]] = []
        self._order = itertools.count()
        self._deadline = time.monotonic() + START_TIMEOUT

    def run(self) -> None:
        report = self._report
        while len(report.outcomes) < len(SIDES):
            now = time.monotonic()
            while self._signals and self._signals[0][0] <= now:
                _, _, name, message = heapq.heappop(self._signals)
                self._sides[name].tell(message)
            if now >= self._deadline:
                report.reason = report.reason or "no outcome in time"
                return
            until = min(self._deadline, self._signals[0][0] if self._signals else self._deadline)
            for key, _ in self._selector.select(max(0.0, until - now)):
                if not self._read(self._sides[key.data]):
                    self._selector.unregister(key.fileobj)
            if not self._selector.get_map():
                return

    def _read(self, side: _Side) -> bool:
        first = not side.heard
        lines = side.lines()
        if lines is None:
            if side.name not in self._report.outcomes:
                words = side.last_words() or f"exit code {side.process.wait()}"
                self._report.reason = f"{side.name} ended without an outcome: {words}"
                self._deadline = min(self._deadline, time.monotonic() + GRACE)
            return False
        now = time.monotonic()
        if first and all(each.heard for each in self._sides.values()):
            self._deadline = now + self._how.budget + GRACE
        for line in lines:
            if line.strip():
                self._event(side, line, now)
        return True

    def _event(self, side: _Side, line: bytes, now: float) -> None:
        try:
            event = json.loads(line)
            kind = event["event"]
        except (ValueError, KeyError, TypeError):
            event, kind = {"event": "text", "text": line[:500].decode(errors="replace")}, "text"
        if kind == "signal":
            other = SIDES[1 - SIDES.index(side.name)]
            message = {"event": "signal", "data": event.get("data")}
            due = now + self._how.relay_delay
            heapq.heappush(self._signals, (due, next(self._order), other, message))
            event = {"event": "signal"}
        elif kind == "outcome":
            self._report.outcomes[side.name] = event
            self._deadline = min(self._deadline, now + GRACE + self._how.budget)
            if event.get("direct"):
                self._deadline = min(self._deadline, now + GRACE + 4 * self._how.relay_delay)
        if side.events >= MAX_EVENTS:
            self._report.dropped += 1
            return
        side.events += 1
        at = event.get("t")
        event["t"] = float(at) if isinstance(at, int | float) else now
        self._report.timeline.append({"side": side.name, **event})
