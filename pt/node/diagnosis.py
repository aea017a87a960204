"""What failed dials say together: whether it is the network, the DNS, or those who were dialed.

`diagnose` is a function of the dials alone. It claims what they prove and no more: one party that
does not answer may be switched off; two that have nothing to do with each other are evidence.
Private addresses count only where there are no others, since they mean other machines elsewhere.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pt.errors import (
    BlockedError,
    ClosedError,
    ConnectError,
    Dial,
    DialOutcome,
    DnsCause,
    DnsError,
    LimitError,
    LocalPortError,
    LocalProtocolError,
    NetworkError,
    PtError,
    RemoteProtocolError,
    UsageError,
)
from pt.wire.multiaddr import Multiaddr

__all__ = ["Cause", "Diagnosis", "DialLog", "diagnose", "outcome_of", "reason_of"]

MAX_DIALS: Final = 64
FRESH: Final = 120.0
"""Seconds for which a dial says something about the network."""
HTTPS: Final = 443

_BY_ERRNO: Final = {
    errno.ECONNREFUSED: DialOutcome.REFUSED,
    errno.ENOPROTOOPT: DialOutcome.REFUSED,  # ICMP "protocol unreachable"
    errno.EHOSTUNREACH: DialOutcome.UNREACHABLE,
    errno.EHOSTDOWN: DialOutcome.UNREACHABLE,
    errno.ETIMEDOUT: DialOutcome.SILENT,
    errno.ENETUNREACH: DialOutcome.NO_ROUTE,
    errno.ENETDOWN: DialOutcome.NO_ROUTE,
    errno.EADDRNOTAVAIL: DialOutcome.NO_ROUTE,
    errno.EAFNOSUPPORT: DialOutcome.NO_ROUTE,
    errno.EPERM: DialOutcome.FORBIDDEN,
    errno.EACCES: DialOutcome.FORBIDDEN,
    errno.ECONNRESET: DialOutcome.CUT,
    errno.EPIPE: DialOutcome.CUT,
}
_NEAREST: Final = (  # to success first
    DialOutcome.ANSWERED,
    DialOutcome.CUT,
    DialOutcome.REFUSED,
    DialOutcome.UNREACHABLE,
    DialOutcome.SILENT,
    DialOutcome.FORBIDDEN,
    DialOutcome.NO_DNS,
    DialOutcome.NO_NAME,
    DialOutcome.NO_ROUTE,
)
_NO_ADDRESS: Final = frozenset({DialOutcome.NO_DNS, DialOutcome.NO_NAME})
_QUIET: Final = frozenset({DialOutcome.SILENT, DialOutcome.UNREACHABLE})


class Cause(Enum):
    """What is in the way."""

    NO_NETWORK = "no-network"
    NO_IPV6 = "no-ipv6"
    """There are IPv6 addresses only, and no IPv6 here."""
    NO_DNS = "no-dns"
    NO_NAME = "no-name"
    FORBIDDEN = "forbidden"
    """This machine's own rules."""
    REJECTED = "rejected"
    DROPPED = "dropped"
    CUT = "cut"
    PEER_REFUSES = "peer-refuses"
    """There is one party only, so that this is about it, or about the network."""
    PEER_SILENT = "peer-silent"
    PEER_CUTS = "peer-cuts"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One sentence for people: what is in the way, and what to do."""

    cause: Cause
    message: str
    dials: tuple[Dial, ...] = ()

    @property
    def sure(self) -> bool:
        """Whether it is surely not the fault of a single party."""
        return self.cause not in (Cause.PEER_REFUSES, Cause.PEER_SILENT, Cause.PEER_CUTS)

    def error(self) -> PtError:
        """What a command ends with that cannot go on for this cause."""
        match self.cause:
            case Cause.NO_NETWORK | Cause.NO_IPV6:
                return NetworkError(self.message)
            case Cause.NO_DNS:
                return DnsError(self.message, DnsCause.FAILED)
            case Cause.NO_NAME:
                return DnsError(self.message, DnsCause.NO_NAME)
            case Cause.FORBIDDEN | Cause.REJECTED | Cause.DROPPED | Cause.CUT:
                return BlockedError(self.message)
            case Cause.PEER_REFUSES | Cause.PEER_SILENT | Cause.PEER_CUTS:
                return ConnectError(self.message, self.dials)


def reason_of(error: BaseException) -> str:
    """Why a dial failed, in words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, asyncio.CancelledError):
        return "given up"
    if isinstance(error, OSError):
        return os.strerror(error.errno).lower() if error.errno else str(error)
    return str(error)


def outcome_of(error: BaseException) -> DialOutcome:
    """How far a dial got that ended with this error."""
    if isinstance(error, DnsError):
        if error.cause is DnsCause.UNREACHABLE:
            return DialOutcome.NO_ROUTE
        return DialOutcome.NO_NAME if error.cause.is_answer else DialOutcome.NO_DNS
    if isinstance(error, TimeoutError):
        return DialOutcome.SILENT
    if isinstance(error, OSError):
        return _BY_ERRNO.get(error.errno or 0, DialOutcome.UNKNOWN)
    if isinstance(error, ConnectError):
        found = {dial.outcome for dial in error.attempts}
        return next((each for each in _NEAREST if each in found), DialOutcome.UNKNOWN)
    if isinstance(error, (ClosedError, RemoteProtocolError)):
        return DialOutcome.CUT
    if isinstance(error, (UsageError, LimitError, LocalProtocolError, LocalPortError)):
        return DialOutcome.UNKNOWN
    return DialOutcome.ANSWERED if isinstance(error, PtError) else DialOutcome.UNKNOWN


class DialLog:
    """How the last dial of each address ended, and when; old ones say nothing any more."""

    def __init__(self) -> None:
        self._dials: OrderedDict[tuple[str, str], tuple[float, Dial]] = OrderedDict()

    def note(self, dial: Dial, now: float) -> None:
        """Remember a dial in place of the last one of the same address."""
        if dial.outcome is DialOutcome.UNKNOWN:
            return
        key = (dial.address, dial.party)
        self._dials[key] = (now, dial)
        self._dials.move_to_end(key)
        if len(self._dials) > MAX_DIALS:
            self._dials.popitem(last=False)

    def recent(self, now: float) -> tuple[Dial, ...]:
        """Those that still say something, oldest first: none from before the network went away."""
        lost = {_is_six(dial): at for at, dial in self._dials.values() if _shows_no_network(dial)}
        return tuple(
            dial
            for at, dial in self._dials.values()
            if now - at < FRESH
            and (at >= lost.get(_is_six(dial), at) or dial.outcome is DialOutcome.NO_ROUTE)
        )


def diagnose(dials: Iterable[Dial]) -> Diagnosis | None:
    """What is in the way of everything; None if something got through, or nothing can be said."""
    tried = tuple(each for each in dials if each.outcome is not DialOutcome.UNKNOWN)
    tried = _telling(tried)
    if not tried or any(each.outcome is DialOutcome.ANSWERED for each in tried):
        return None
    routed = tuple(each for each in tried if each.outcome is not DialOutcome.NO_ROUTE)
    unrouted = tuple(each for each in tried if each.outcome is DialOutcome.NO_ROUTE)
    if any(not _is_six(each) for each in unrouted) and all(
        each.outcome in _NO_ADDRESS for each in routed
    ):
        return Diagnosis(
            Cause.NO_NETWORK,
            f"this machine has no route to {_places(unrouted)}: connect it to a network that leads "
            "there (cable, Wi-Fi, modem)",
            tried,
        )
    if not routed:
        return Diagnosis(
            Cause.NO_IPV6,
            "only IPv6 addresses are known, and this network has no IPv6: use a network that has "
            "it, or a relay with an IPv4 address (--relay)",
            tried,
        )
    return _of_routed(routed)


def _of_routed(tried: tuple[Dial, ...]) -> Diagnosis | None:
    dialed = tuple(each for each in tried if each.outcome not in _NO_ADDRESS)
    parties = len({_party(each) for each in dialed})
    nameless = tuple(each for each in tried if each.outcome is DialOutcome.NO_DNS)
    if nameless and parties < 2:
        return Diagnosis(Cause.NO_DNS, nameless[-1].reason, tried)
    if not dialed:
        return Diagnosis(Cause.NO_NAME, tried[-1].reason, tried)
    outcomes = {each.outcome for each in dialed}
    if outcomes == {DialOutcome.FORBIDDEN}:
        return Diagnosis(
            Cause.FORBIDDEN,
            f"this machine does not allow connections to {_places(dialed)}: its own firewall or "
            "sandbox forbids them; allow pt to connect out",
            tried,
        )
    if outcomes == {DialOutcome.REFUSED}:
        return _refused(dialed, parties)
    if outcomes <= _QUIET:
        return _quiet(dialed, parties)
    if outcomes == {DialOutcome.CUT}:
        return _cut(dialed, parties)
    return None


def _refused(dials: tuple[Dial, ...], parties: int) -> Diagnosis:
    if parties > 1:
        return Diagnosis(
            Cause.REJECTED,
            f"everything refuses connections ({_places(dials)}): a firewall seems to reject them; "
            f"{_advice(dials)}",
            dials,
        )
    return Diagnosis(
        Cause.PEER_REFUSES,
        f"{_places(dials)} refuses the connection: nothing listens there now, or a firewall "
        "rejects it; check that pt runs there, and its address",
        dials,
    )


def _quiet(dials: tuple[Dial, ...], parties: int) -> Diagnosis:
    silent = any(each.outcome is DialOutcome.SILENT for each in dials)
    if parties > 1:
        how = "nothing answers" if silent else "routers say that nothing can be reached"
        return Diagnosis(
            Cause.DROPPED,
            f"{how} ({_places(dials)}): a firewall seems to drop the connections, or the network "
            f"leads nowhere; {_advice(dials)}",
            dials,
        )
    how = "does not answer" if silent else "cannot be reached"
    return Diagnosis(
        Cause.PEER_SILENT,
        f"{_places(dials)} {how}: the machine is off, or behind a NAT, or a firewall drops the "
        f"connection; {_advice(dials)}",
        dials,
    )


def _cut(dials: tuple[Dial, ...], parties: int) -> Diagnosis:
    if parties > 1:
        return Diagnosis(
            Cause.CUT,
            f"every connection is cut before anybody has proved who is there ({_places(dials)}): "
            "a login page or a filter seems to answer in their place; sign in to the network "
            f"with a browser, or {_advice(dials)}",
            dials,
        )
    return Diagnosis(
        Cause.PEER_CUTS,
        f"{_places(dials)} takes the connection and ends it: it is none of ours or too busy, or a "
        "filter is in between; check its address",
        dials,
    )


def _advice(dials: tuple[Dial, ...]) -> str:
    ports = {Multiaddr.parse(each.address).port for each in dials}
    if HTTPS in ports:
        return "even port 443 does not get out: try another network"
    return "UDP and TCP ports other than 443 may be blocked: try a relay with wss on port 443"


def _telling(dials: tuple[Dial, ...]) -> tuple[Dial, ...]:
    """The dials of public addresses and names; of others if there are none."""
    outside = tuple(each for each in dials if not _address(each).is_loopback)
    return tuple(filter(_is_far, outside)) or outside or dials


def _is_far(dial: Dial) -> bool:
    address = _address(dial)
    host = address.host
    return address.is_public or (host is not None and host[0].startswith("dns"))


def _shows_no_network(dial: Dial) -> bool:
    return dial.outcome is DialOutcome.NO_ROUTE and _is_far(dial)


def _address(dial: Dial) -> Multiaddr:
    return Multiaddr.parse(dial.address)


def _is_six(dial: Dial) -> bool:
    host = _address(dial).host
    return host is not None and host[0] in ("ip6", "dns6")


def _party(dial: Dial) -> str:
    host = _address(dial).host
    return dial.party or (host[1] if host is not None else dial.address)


def _places(dials: tuple[Dial, ...]) -> str:
    """Two of the hosts, and how many more there are."""
    hosts = Counter(
        f"{host[1]} port {address.port}" if address.port else host[1]
        for address in map(_address, dials)
        if (host := address.host) is not None
    )
    named = list(hosts)[:2]
    more = len(hosts) - len(named)
    return " and ".join(named) + (f" and {more} more" if more else "")
