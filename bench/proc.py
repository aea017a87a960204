"""CPU time and memory of a process and its descendants, read from proc(5)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Calm", "busy_seconds", "cpu_seconds", "rss_bytes", "tree", "wait_quiet"]

_TICK = os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    # The command, in parentheses, may hold spaces; what follows it starts with the state.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree(root: int) -> list[int]:
    """Return `root` and everything below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int(_stat(int(entry.name))[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += children.get(pid, [])
    return found


def cpu_seconds(roots: Iterable[int]) -> float:
    """User and system time of these processes, living and reaped descendants included."""
    ticks = 0
    for root in roots:
        for pid in tree(root):
            try:
                stat = _stat(pid)
            except OSError:
                continue  # reaped in between: its parent has its time now
            ticks += sum(int(stat[i]) for i in (11, 12, 13, 14))
    return ticks / _TICK


def busy_seconds() -> float:
    """CPU time that all cores together spent on anything, time stolen by other guests included."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / _TICK


def rss_bytes(root: int) -> int:
    """Resident memory of the process and its descendants."""
    total = 0
    for pid in tree(root):
        try:
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            continue
    return total


def wait_quiet(roots: Iterable[int], limit: float = 3.0) -> None:
    """Wait until these processes have stopped working on what was before, at most `limit` s."""
    roots = list(roots)
    deadline = time.monotonic() + limit
    last = cpu_seconds(roots)
    while time.monotonic() < deadline:
        time.sleep(0.1)
        now = cpu_seconds(roots)
        if now - last <= 1 / _TICK:
            return
        last = now


class Calm:
    """Waits for moments in which nobody else computes, as long as `patience` seconds last."""

    CORES = 0.25
    LOOK = 0.2

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.disturbed = 0

    def wait(self) -> None:
        """Return when the machine is calm, or when the patience of the whole run is used up."""
        while True:
            before = busy_seconds()
            time.sleep(self.LOOK)
            if busy_seconds() - before <= self.CORES * self.LOOK:
                return
            self.patience -= self.LOOK
            if self.patience <= 0:
                self.disturbed += 1
                return
