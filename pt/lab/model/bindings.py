"""What a NAT remembers: bindings of inner to outer endpoints, the sessions over each, timers."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import Final

from pt.lab.model.packet import ACK, FIN, RST, SYN, TCP, Endpoint
from pt.lab.model.spec import NatSpec

__all__ = ["MAX_SESSIONS", "Binding", "Session", "Table"]

MAX_BINDINGS: Final = 1 << 18
MAX_SESSIONS: Final = 1 << 17
"""Of one binding; the oldest goes. A socket that scans every port of a peer has 64,512."""
RST_LINGER: Final = 10.0
"""Seconds that a session is kept after a reset."""

_SYN_OUT: Final = 1
_SYN_IN: Final = 2
_FIN_OUT: Final = 4
_FIN_IN: Final = 8
_RESET: Final = 16


class Session:
    """What passed between a binding's inner endpoint and one remote endpoint."""

    __slots__ = ("expires", "replied", "sent", "tcp")

    def __init__(self) -> None:
        self.expires = 0.0
        self.sent = False  # by the inside: what filtering asks for
        self.replied = False
        self.tcp = 0

    @property
    def opening(self) -> bool:
        """Whether the inside sent a SYN that nobody answered."""
        return self.tcp & (_SYN_OUT | _SYN_IN) == _SYN_OUT

    def segment(self, flags: int, *, outbound: bool) -> None:
        """Follow the TCP connection."""
        if flags & SYN and not flags & ACK and self.tcp & (_RESET | _FIN_OUT | _FIN_IN):
            self.tcp = 0  # its port is used again
        if flags & SYN:
            self.tcp |= _SYN_OUT if outbound else _SYN_IN
        if flags & FIN:
            self.tcp |= _FIN_OUT if outbound else _FIN_IN
        if flags & RST:
            self.tcp |= _RESET

    def lifetime(self, protocol: int, spec: NatSpec) -> float:
        """Return for how long it stands after a packet that keeps it."""
        if protocol != TCP:
            return spec.timeout if self.replied else spec.new
        if self.tcp & _RESET:
            return min(RST_LINGER, spec.tcpfin)
        if self.tcp & (_FIN_OUT | _FIN_IN) == _FIN_OUT | _FIN_IN:
            return spec.tcpfin
        if self.tcp & (_SYN_OUT | _SYN_IN) == _SYN_OUT | _SYN_IN:
            return spec.tcpest
        return spec.tcpnew

    @property
    def closing(self) -> bool:
        """Whether its lifetime may have become shorter."""
        return bool(self.tcp & _RESET) or bool(self.tcp & _FIN_OUT and self.tcp & _FIN_IN)


class Binding:
    """An inner endpoint and the outer one that stands for it."""

    __slots__ = (
        "born",
        "expires",
        "external",
        "hosts",
        "internal",
        "keys",
        "open_until",
        "protocol",
        "sessions",
    )

    def __init__(self, protocol: int, internal: Endpoint, external: Endpoint, now: float) -> None:
        self.protocol = protocol
        self.internal = internal
        self.external = external
        self.born = now
        self.expires = now
        self.open_until = 0.0
        """Until when anybody may send in, because the inside has asked for it."""
        self.keys: list[Hashable] = []
        self.sessions: dict[Endpoint, Session] = {}
        self.hosts: dict[bytes, float] = {}
        """Until when the inside has recently sent to an address."""

    def session(self, remote: Endpoint) -> Session:
        """Return the session with `remote`, a new one if need be."""
        found = self.sessions.get(remote)
        if found is None:
            if len(self.sessions) >= MAX_SESSIONS:
                del self.sessions[next(iter(self.sessions))]
            found = self.sessions[remote] = Session()
        return found


class Table:
    """All bindings of a box. `ended` is told of each that goes, and why."""

    def __init__(self, spec: NatSpec, ended: Callable[[Binding, str, float], None]) -> None:
        self._spec = spec
        self._ended = ended
        self._by_key: dict[Hashable, Binding] = {}
        self._by_external: dict[tuple[int, Endpoint], list[Binding]] = {}
        self._due: list[tuple[float, int, Binding]] = []
        self._count = 0
        self._size = 0
        self.held: Counter[bytes] = Counter()
        """Bindings by inside host."""

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Binding]:
        for bindings in self._by_external.values():
            yield from bindings

    @property
    def full(self) -> bool:
        """Whether no binding can be added."""
        return self._size >= MAX_BINDINGS

    def find(self, key: Hashable) -> Binding | None:
        """Return the binding that packets of `key` go out by."""
        return self._by_key.get(key)

    def at(self, protocol: int, external: Endpoint) -> list[Binding]:
        """Return the bindings of an outer endpoint: one, but with overloading."""
        return self._by_external.get((protocol, external), [])

    def add(self, key: Hashable, binding: Binding) -> None:
        """Enter a new binding; `refresh` it in the same moment."""
        self._by_external.setdefault((binding.protocol, binding.external), []).append(binding)
        self.held[binding.internal[0]] += 1
        self._size += 1
        self.alias(key, binding)
        self._push(binding)

    def alias(self, key: Hashable, binding: Binding) -> None:
        """Let packets of `key` go out by `binding`, unless they have another already."""
        if key not in self._by_key and len(binding.keys) < MAX_SESSIONS:
            self._by_key[key] = binding
            binding.keys.append(key)

    def lease(self, binding: Binding, until: float) -> None:
        """Let anybody send in by a binding until then; a time that is over takes that away."""
        binding.open_until = until
        binding.expires = max([until, *(each.expires for each in binding.sessions.values())])
        self._push(binding)

    def refresh(self, binding: Binding, remote: Endpoint, session: Session, now: float) -> None:
        """Start a session's timer anew, and with it the binding's."""
        session.expires = now + session.lifetime(binding.protocol, self._spec)
        if session.sent:
            if len(binding.hosts) >= MAX_SESSIONS:
                del binding.hosts[next(iter(binding.hosts))]
            binding.hosts[remote[0]] = max(session.expires, binding.hosts.get(remote[0], 0.0))
        if session.expires > binding.expires:
            binding.expires = session.expires
        elif session.closing:
            lasts = [each.expires for each in binding.sessions.values()]
            binding.expires = max([binding.open_until, *lasts])
            self._push(binding)

    def expire(self, now: float) -> None:
        """Drop what has timed out."""
        due, maxage = self._due, self._spec.maxage
        while due and due[0][0] <= now:
            _, _, binding = heapq.heappop(due)
            if not binding.keys:
                continue
            if maxage and binding.born + maxage <= now:
                self.remove(binding, "maxage", now)
            elif binding.expires <= now:
                self.remove(binding, "timeout", now)
            else:
                self._push(binding)

    def next_due(self) -> float | None:
        """Return when `expire` may have something to do."""
        return self._due[0][0] if self._due else None

    def remove(self, binding: Binding, why: str, now: float) -> None:
        """Forget a binding."""
        for key in binding.keys:
            self._by_key.pop(key, None)
        binding.keys = []
        where = (binding.protocol, binding.external)
        self._by_external[where].remove(binding)
        if not self._by_external[where]:
            del self._by_external[where]
        self._size -= 1
        self.held[binding.internal[0]] -= 1
        if not self.held[binding.internal[0]]:
            del self.held[binding.internal[0]]
        self._ended(binding, why, now)

    def clear(self, now: float) -> None:
        """Forget everything, as a router that reboots."""
        for binding in list(self):
            self.remove(binding, "flush", now)
        self._due.clear()

    def _push(self, binding: Binding) -> None:
        due = max(binding.expires, binding.born)
        if self._spec.maxage:
            due = min(due, binding.born + self._spec.maxage)
        self._count += 1
        heapq.heappush(self._due, (due, self._count, binding))
