"""Two hosts behind NATs, public relays between them, and the real `pt` on all of them."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pt.lab.nat import Internet, Site
from pt.lab.netns import Host
from tests.e2e.harness import PtProcess, Rig, ask_echo, relay_addresses
from tests.e2e.test_resume import Transfer

SECRET = "secret-of-the-relay-tests-31"
SITES = {"a": Site(), "b": Site()}
SHORT = 0.02
"""Seconds without a byte that are none to speak of."""


@dataclass
class Relay:
    """A running `pt relay`."""

    process: PtProcess
    address: str
    """As users give it to --relay."""

    @property
    def host(self) -> Host:
        return self.process.host


class RelayRig(Rig):
    """`a` exposes and `b` binds, each behind a NAT; `c` is a public host; `r1`, `r2` for relays."""

    def __init__(self, net: Internet, tmp: Path) -> None:
        self.net = net
        self.tmp = tmp
        self.a, self.b, self.c = net["a"], net["b"], net["c"]
        self.r1, self.r2 = net["r1"], net["r2"]
        self.processes: list[PtProcess] = []
        self._stack = contextlib.ExitStack()
        self.secret = tmp / "relay.secret"
        self.secret.write_text(SECRET + "\n")
        self.secret.chmod(0o600)

    punches = False
    """Else tunnels stay on their relays, which is what most tests are about."""

    def pt(self, *argv: str, **options: Any) -> PtProcess:
        stays = argv[0] in ("tcp", "bind") and not self.punches
        return super().pt(*argv, *(["--no-punch"] if stays else []), **options)

    def relay(self, *argv: str, host: Host | None = None, users: bool = True) -> Relay:
        """Start `pt relay` and wait until it serves."""
        where = host or self.r1
        listen = f"/ip4/{where.ip}/tcp/4001"
        flags = ["--secret-file", str(self.secret)] if users else []
        home = self.home(f"relay-{where.name}")
        process = self.pt(
            "relay", "--json", "--listen", listen, *flags, *argv, host=where, home=home
        )
        return Relay(process, self.address_of(process))

    def address_of(self, process: PtProcess) -> str:
        return next(each for each in relay_addresses(process) if "/ws" not in each)

    def expose_through(
        self, port: int, *relays: Relay, users: bool = True, host: Host | None = None
    ) -> PtProcess:
        """`pt tcp` with reservations at all of `relays`."""
        flags = ["--relay-secret-file", str(self.secret)] if users else []
        addresses = [each.address for each in relays]
        exposer = self.expose("--port", str(port), "--relay", *addresses, *flags, host=host)
        for count in range(1, len(relays) + 1):
            exposer.wait("published", medium="relay", ok=True, count=count)
        return exposer

    def bind_through(
        self, exposer: PtProcess, *relays: Relay, host: Host | None = None
    ) -> PtProcess:
        """`pt bind` that knows nothing of the exposer but its circuits."""
        peer = exposer.wait("ready")["peer_id"]
        circuits = [f"{each.address}/p2p-circuit/p2p/{peer}" for each in relays]
        peers = [word for circuit in circuits for word in ("--peer", circuit)]
        return self.bind("--port", "0", "--no-lan", *peers, host=host)


def relay_of(event: dict[str, object], *relays: Relay) -> Relay:
    """Which relay a `connected` event names."""
    address = str(event["address"])
    (found,) = [each for each in relays if address.startswith(each.address)]
    return found


def converse(client: socket.socket, seconds: float) -> str:
    """Key strokes and their echoes, five a second, for so long; what is worth telling of it."""
    end = time.monotonic() + seconds
    count, longest = 0, 0.0
    while time.monotonic() < end:
        began = time.monotonic()
        ask_echo(client, f"key stroke {count}".encode())
        longest = max(longest, time.monotonic() - began)
        count += 1
        time.sleep(0.2)  # a person types; nothing is waited for
    return f"{count} answers in {seconds:g} s, the slowest {longest:.2f} s"


@dataclass
class GapTransfer(Transfer):
    """A transfer that notes when nothing arrived at one of both ends, longer than `SHORT`."""

    gaps: list[tuple[float, float]] = field(default_factory=list)
    """From when until when."""
    _since: float = field(default_factory=time.monotonic)

    def watch(self) -> None:
        """Begin to look for gaps."""
        self.gaps, self._since = [], time.monotonic()

    @property
    def gap(self) -> float:
        """The longest, in seconds."""
        return max((end - begin for begin, end in self.gaps), default=0.0)

    def _receive(self, name: str, sock: socket.socket) -> None:
        last = time.monotonic()

        def recv(size: int) -> bytes:
            nonlocal last
            data = sock.recv(size)
            now = time.monotonic()
            begin = max(last, self._since)
            if now - begin > SHORT:
                self.gaps.append((begin, now))
            last = now
            return data

        super()._receive(name, SimpleNamespace(recv=recv))  # type: ignore[arg-type]


@contextlib.contextmanager
def relay_rig_at(tmp: Path, **sites: Site) -> Iterator[RelayRig]:
    with Internet(["r1", "r2", "c"], {**SITES, **sites}, congestion="reno") as net:
        rig = RelayRig(net, tmp)
        try:
            yield rig
        finally:
            rig.close()
