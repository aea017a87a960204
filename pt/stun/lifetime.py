"""How long a mapping lives, and what keeps it: measured with a second socket.

Who asks whether a mapping is still there, over that mapping, has refreshed it. So another socket
asks the server to answer to the first one's port (RESPONSE-PORT): what arrives shows that the
mapping is there. As the answer may refresh it, too, each time that is tried has its own socket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pt.stun.attributes import Address, response_port
from pt.stun.behaviour import patient
from pt.stun.binding import Binding, read_binding
from pt.stun.probing import Ask, Prober, Script, ask, pause
from pt.stun.transactions import Schedule

__all__ = ["CLIFFS", "LONG_CLIFFS", "MAX_CLIFFS", "Lifetime", "measure_lifetime"]

CLIFFS: Final = (10.0, 20.0, 28.0, 40.0, 58.0, 88.0, 118.0, 178.0, 238.0, 298.0)
"""Seconds of silence that are tried: just below the times that NATs have, as a rule."""
LONG_CLIFFS: Final = (598.0, 898.0, 1798.0)
"""The same, if that long is to be waited: some that TCP connections have."""
MAX_CLIFFS: Final = 24


@dataclass(frozen=True, slots=True)
class Lifetime:
    """What silence a mapping survives; None: not known."""

    at_least: float = 0.0
    """The longest silence after which it was there."""
    at_most: float | None = None
    """The shortest one after which it was gone; None: it outlived all that were tried."""
    inbound_refreshes: bool | None = None
    """Whether what comes in keeps it."""
    max_age: float | None = None
    """An age that it did not reach, although it was used all the time; None: it did."""


def measure_lifetime(
    prober: Prober, server: Address, cliffs: Sequence[float], rtt: float
) -> Script[Lifetime | None]:
    """Try silences, the shortest first, until one is too long; then what keeps a mapping.

    None: the server does not do what is needed, or the mappings are on several addresses.
    """
    meter = _Meter(prober, server, patient(rtt))
    try:
        return (yield from meter.measure(sorted(cliffs)[:MAX_CLIFFS]))
    finally:
        meter.close()


class _Meter:
    def __init__(self, prober: Prober, server: Address, schedule: Schedule) -> None:
        self._prober = prober
        self._server = server
        self._schedule = schedule
        self._opened: list[int] = []
        self._helper = self._open()

    def _open(self) -> int:
        sock = self._prober.open()
        self._opened.append(sock)
        return sock

    def close(self) -> None:
        for sock in self._opened:
            self._prober.close_socket(sock)

    def _bind(self, *socks: int) -> Script[list[Binding] | None]:
        """Mappings of sockets; None unless all are on the address of the helper."""
        asked = [self._helper, *socks]
        outcomes = yield from ask(Ask(sock=each, to=self._server) for each in asked)
        found = [each for outcome in outcomes if (each := read_binding(outcome)) is not None]
        if len(found) < len(asked) or len({each.mapped[0] for each in found}) > 1:
            return None
        return found[1:]

    def _reaches(self, sock: int, binding: Binding) -> Script[bool]:
        """Whether an answer that the helper asks for arrives by a mapping."""
        question = Ask(
            sock=self._helper,
            to=self._server,
            attributes=(response_port(binding.mapped[1]),),
            at=sock,
            schedule=self._schedule,
        )
        (outcome,) = yield from ask([question])
        return outcome.response is not None

    def measure(self, cliffs: Sequence[float]) -> Script[Lifetime | None]:
        began = self._prober.now
        check, *socks = (self._open() for _ in range(len(cliffs) + 1))
        bindings = yield from self._bind(check, *socks)
        if not bindings or not (yield from self._reaches(check, bindings[0])):
            return None  # not even now: the server does not answer to other ports
        survived = 0.0
        for cliff, sock, binding in zip(cliffs, socks, bindings[1:], strict=True):
            yield from pause(max(0.0, began + cliff - self._prober.now))
            if not (yield from self._reaches(sock, binding)):
                kept, age = (yield from self._kept(survived, cliff)) if survived else (None, None)
                return Lifetime(survived, cliff, kept, age)
            survived = cliff
        return Lifetime(survived)

    def _kept(self, survived: float, gone: float) -> Script[tuple[bool | None, float | None]]:
        """Whether inbound packets keep a mapping; and the age at which one ends that is used."""
        inbound, used = self._open(), self._open()
        bindings = yield from self._bind(inbound, used)
        if bindings is None:
            return None, None
        began = self._prober.now
        kept: bool | None = None
        while self._prober.now < began + gone + survived / 2:
            yield from pause(survived / 2)
            if kept is not False:
                kept = yield from self._reaches(inbound, bindings[0])
            # What has ended may be there again, on the same port, as soon as something goes out.
            if not (yield from self._reaches(used, bindings[1])):
                return (None if kept is False else kept), self._prober.now - began
            (outcome,) = yield from ask([Ask(sock=used, to=self._server)])
            again = read_binding(outcome)
            if again is not None and again.mapped != bindings[1].mapped:
                return (None if kept is False else kept), self._prober.now - began
        return kept, None
