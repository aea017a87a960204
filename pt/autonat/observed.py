"""Where peers see us: what they say in identify, counted.

A peer's word counts for connections that use a port that we listen on (listening, or dialing from
the listening port), since only that port's mapping is of use to others.  One peer can lie, and
through a NAT with dependent mappings each peer tells the truth and something else; so words are
counted by observer: an IPv4 address, or an IPv6 /56, of which one host may have all.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final

from pt.wire.ipranges import is_loopback
from pt.wire.multiaddr import Multiaddr
from pt.wire.nat_facts import Dependence

__all__ = ["ADVERTISE", "PUNCH", "Observed"]

PUNCH: Final = 1
"""Observers that make an address good enough to be dialed in a hole punch."""
ADVERTISE: Final = 4
"""Observers that make it good enough to be told to everybody, as go-libp2p has it."""
MAX_PER_LOCAL: Final = 3
MAX_CONNECTIONS: Final = 1024


@dataclass(frozen=True, slots=True)
class _Word:
    """One connection's: our port, as the peer sees it, who the peer is, and what comes after."""

    local: tuple[int, str, int]
    seen: tuple[str, int]
    observer: str
    suffix: str


class Observed:
    """By connection; `forget` one when it ends.  `listening` are our listening addresses."""

    def __init__(self) -> None:
        self._listening: set[tuple[int, str, int]] = set()
        self._words: OrderedDict[object, _Word] = OrderedDict()

    def listening(self, addresses: Iterable[Multiaddr]) -> None:
        """Take our listening addresses, whose ports count."""
        places = {place for each in addresses if (place := _place(each)) is not None}
        if places == self._listening:
            return
        self._listening = places
        for key, word in list(self._words.items()):
            if word.local not in self._listening:
                del self._words[key]

    def record(
        self, connection: object, local: Multiaddr, remote: Multiaddr, seen: Multiaddr
    ) -> bool:
        """A peer at `remote` says that it sees our end `local` as `seen`; whether that counts.

        `connection` is any key that `forget` gets later.
        """
        ours, theirs, told = _place(local), remote.host, _place(seen)
        if ours is None or told is None or theirs is None or ours not in self._listening:
            return False
        observer = _observer(theirs[1])
        if observer is None or remote.is_circuit or seen.is_circuit or ours[:2] != told[:2]:
            return False
        host = seen.host
        assert host is not None
        if is_loopback(ip_address(host[1].partition("%")[0])):
            return False
        suffix = "".join(
            f"/{name}"
            for name, value in local.components
            if value is None and name != "p2p-circuit"
        )
        self._words[connection] = _Word(ours, (host[1], told[2]), observer, suffix)
        self._words.move_to_end(connection)
        if len(self._words) > MAX_CONNECTIONS:
            self._words.popitem(last=False)
        return True

    def forget(self, connection: object) -> None:
        """The connection has ended, and its word with it."""
        self._words.pop(connection, None)

    def addresses(self, observers: int = PUNCH) -> list[Multiaddr]:
        """Where at least so many observers see us, the most agreed on first; public ones only.

        A port is shared by all that listens on it: TCP with WebSocket, QUIC with others on UDP.
        """
        found = []
        for local, seen in self._counts().items():
            suffixes = dict.fromkeys(w.suffix for w in self._words.values() if w.local == local)
            for (host, port), count in seen.most_common(MAX_PER_LOCAL):
                if count < observers:
                    break
                base = f"/ip{local[0]}/{host}/{local[1]}/{port}"
                found += [Multiaddr.parse(base + suffix) for suffix in suffixes]
        return [each for each in found if each.is_public]

    def mapping(self, family: int, protocol: str) -> Dependence:
        """What two or more observers of one port prove; "udp" or "tcp".

        INDEPENDENT: all see one address; ADDRESS stands for any dependence, which one cannot tell.
        """
        proved = Dependence.UNKNOWN
        for local, seen in self._counts().items():
            if local[:2] != (family, protocol) or seen.total() < 2:
                continue
            if len(seen) > 1 and seen.most_common(1)[0][1] < seen.total() - 1:
                return Dependence.ADDRESS
            if len(seen) > 1 and seen.total() == 2:
                return Dependence.ADDRESS
            proved = Dependence.INDEPENDENT
        return proved

    def _counts(self) -> dict[tuple[int, str, int], Counter[tuple[str, int]]]:
        """For each of our ports, how many observers see it where."""
        distinct = {(word.local, word.seen, word.observer) for word in self._words.values()}
        counts: dict[tuple[int, str, int], Counter[tuple[str, int]]] = {}
        for local, seen, _ in sorted(distinct):
            counts.setdefault(local, Counter())[seen] += 1
        return counts


def _place(address: Multiaddr) -> tuple[int, str, int] | None:
    """IP version, protocol and port."""
    host = address.host
    if host is None or host[0] not in ("ip4", "ip6"):
        return None
    family = 4 if host[0] == "ip4" else 6
    if (port := address.udp_port) is not None:
        return family, "udp", port
    if (port := address.tcp_port) is not None:
        return family, "tcp", port
    return None


def _observer(host: str) -> str | None:
    """What counts as one observer; None: it is this machine, or a name."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if is_loopback(address):
        return None
    if address.version == 4:
        return str(address)
    return str(ip_network((address, 56), strict=False).network_address)
