"""Processes that announce and search on the hosts of a laboratory, and what they say."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.lab.netns import Host

__all__ = ["NAME", "PEER", "ROOT", "WAIT", "Peer", "Talker", "address", "publish"]

ROOT = Path(__file__).resolve().parents[2]
PEER = PeerId.from_public_key(PrivateKey.generate(b"\1" * 32).public)
WAIT = 20.0
NAME = "a" * 40


class Talker:
    """A process that says JSON objects, one a line; it ends when its stdin does, or by `stop`."""

    def __init__(self, host: Host, argv: Sequence[str]) -> None:
        self.process = host.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(json.loads(line))

    def next(self, event: str, timeout: float = WAIT, **facts: object) -> dict[str, Any]:
        """The next line of this event with these facts; skips others."""
        deadline = time.monotonic() + timeout
        while True:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            if line["event"] == event and facts.items() <= line.items():
                return line

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(WAIT) == 0
        self._thread.join(WAIT)


class Peer(Talker):
    """`tests.e2e.lan_peer` on a host."""

    def __init__(self, host: Host, *args: str) -> None:
        super().__init__(host, [sys.executable, "-m", "tests.e2e.lan_peer", *args])


def address(ip: str) -> str:
    return f"/ip4/{ip}/tcp/4001/p2p/{PEER}"


def publish(host: Host, name: str = NAME, size: int = 256) -> Peer:
    return Peer(host, "publish", name, str(size), address(host.ip))
