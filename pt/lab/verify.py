"""Does a NAT of the laboratory prove to be what it says? `pt`'s own discovery (RFC 5780) is asked.

The discovery runs in this process, with sockets of the host behind the NAT; what it finds is held
to what the spec says. Both sides of the comparison were written apart.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from pt.errors import LocalPortError, PtError
from pt.lab.facts import facts_of
from pt.lab.lab import Engine, Lab
from pt.lab.machine import Machine
from pt.lab.model.spec import parse_nat
from pt.lab.services import STUN_PORTS, Services
from pt.stun.discovery import Discovery, Wishes, discover
from pt.stun.probing import Prober
from pt.wire.nat_facts import Allocation, Dependence, NatFacts

__all__ = ["ALL", "Finding", "verify"]

ALL: Final = (
    *(
        f"{mapping}-{filtering}-{ports}"
        for ports in ("preserve", "seq", "random")
        for mapping in ("eim", "adm", "apdm")
        for filtering in ("eif", "adf", "apdf")
    ),
    "linux",
    "public",
    "fw-eif",
    "fw-adf",
    "fw-apdf",
    "apdm-seq,step=3",
    "eim-eif,hairpin=on",
    "eim-eif-preserve+apdm-apdf-random",
    "apdm-apdf-random+eim-eif-preserve",
    "udpblock",
    "tcp443",
)
PATIENCE: Final = 60.0
"""Seconds that a discovery may take."""
_DONT_FRAGMENT: Final = (socket.IPPROTO_IP, 10, 3)  # IP_MTU_DISCOVER, IP_PMTUDISC_PROBE


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One NAT: what it is called, what was found, and where these differ."""

    spec: str
    expected: NatFacts
    found: NatFacts
    differences: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether it is what it says."""
        return not self.differences


class _Sockets:
    """Sockets on a host, for a prober."""

    def __init__(self, host: Machine, selector: selectors.BaseSelector) -> None:
        self._host = host
        self._selector = selector
        self._sockets: dict[int, socket.socket] = {}
        self._count = 0
        self.open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for number in list(self._sockets):
            self.close(number)

    def _make(self) -> socket.socket:
        with self._host.inside():
            return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def open(self, *, whole: bool = False) -> int:
        """Open one on a fresh port."""
        try:
            sock = self._make()
            sock.bind(("0.0.0.0", 0))
            sock.setblocking(False)
            if whole:
                sock.setsockopt(*_DONT_FRAGMENT)
        except OSError as error:
            raise LocalPortError(f"no socket on {self._host.name}: {error}") from error
        number, self._count = self._count, self._count + 1
        self._sockets[number] = sock
        self._selector.register(sock, selectors.EVENT_READ, number)
        return number

    def close(self, sock: int) -> None:
        """Close one."""
        closed = self._sockets.pop(sock)
        self._selector.unregister(closed)
        closed.close()

    def send(self, sock: int, data: bytes, to: tuple[str, int]) -> None:
        """Send, or drop."""
        try:
            self._sockets[sock].sendto(data, to)
        except OSError:  # no route, too long, or an ICMP error about an earlier one: lost
            return

    def local(self, sock: int, to: tuple[str, int]) -> tuple[str, int] | None:
        """Return where it sends from."""
        with self._make() as probe:
            try:
                probe.connect(to)
            except OSError:
                return None
            ip = str(probe.getsockname()[0])
        return ip, int(self._sockets[sock].getsockname()[1])

    def receive(self, sock: int) -> tuple[bytes, tuple[str, int]] | None:
        """Return a datagram that came."""
        try:
            return self._sockets[sock].recvfrom(4096)
        except OSError:
            return None


def measure(host: Machine, servers: Sequence[tuple[str, int]], wishes: Wishes) -> Discovery:
    """Find out what is in front of a host.

    Raises: PtError.
    """
    done: list[Discovery] = []
    failed: list[PtError] = []
    with selectors.DefaultSelector() as selector, _Sockets(host, selector) as sockets:
        prober = Prober(sockets, os.urandom)
        deadline = time.monotonic() + PATIENCE
        script = discover(prober, servers, wishes)
        prober.run(script, done.append, time.monotonic(), failed=failed.append)
        while not done and not failed and time.monotonic() < deadline:
            due = prober.next_timeout()
            now = time.monotonic()
            wait = min(deadline, due if due is not None else deadline) - now
            for key, _ in selector.select(max(0.0, wait)):
                got = sockets.receive(key.data)
                if got is not None:
                    prober.receive(key.data, *got, time.monotonic())
            prober.handle_timeout(time.monotonic())
        prober.close()
    if failed:
        raise failed[0]
    if not done:
        raise PtError(f"the discovery on {host.name} took more than {PATIENCE:g} s")
    return done[0]


def differences(expected: NatFacts, found: NatFacts) -> tuple[str, ...]:
    """Return where a measurement differs from the truth; what it could not tell does not."""
    if expected.works is False:
        return () if found.external is None else ("a server was reached",)
    names = ["translated", "mapping", "filtering"]
    names += ["ports"] if expected.translated else []
    names += ["step"] if expected.ports is Allocation.SEQUENTIAL else []
    names += ["hairpin"] if found.hairpin is not None else []
    names += ["external"] if expected.external else []
    if found.inbound_refreshes is not None:
        names.append("inbound_refreshes")
    pairs = [(name, getattr(expected, name), getattr(found, name)) for name in names]
    different = [f"{name} is {_word(is_)}, not {_word(said)}" for name, said, is_ in pairs
                 if said != is_]  # fmt: skip
    if found.lifetime and expected.lifetime and found.lifetime > expected.lifetime + 1:
        different.append(f"lifetime is {found.lifetime:g} s, not {expected.lifetime:g} s")
    return tuple(different)


def _word(value: Any) -> str:  # noqa: ANN401  # of NatFacts
    return value.name.lower() if isinstance(value, Dependence | Allocation) else str(value)


def verify(
    spec: str,
    *,
    engine: Engine = "user",
    link: str = "",
    seed: int = 1,
    cliffs: tuple[float, ...] = (),
) -> Finding:
    """Build a NAT and ask what it is. `cliffs`: silences to try, for the lifetime.

    Raises: SpecError, LabError, PtError.
    """
    chain = parse_nat(spec)
    with Lab(a=spec, public=1, engine=engine, link=link, seed=seed) as lab, Services(lab):
        outside = [found for name, found in lab.nats.items() if not name.endswith("/v6")]
        external = outside[-1][0] if outside and outside[-1] else lab["a"].ip
        expected = facts_of(chain, external=external)
        began = time.monotonic()
        server = (lab["s1"].ip, STUN_PORTS[0])
        found = measure(lab["a"], [server], Wishes(cliffs=cliffs)).facts
        seconds = time.monotonic() - began
    return Finding(
        spec=spec,
        expected=expected,
        found=found,
        differences=differences(expected, found),
        seconds=seconds,
    )
