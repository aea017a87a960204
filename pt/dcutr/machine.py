"""Both roles of one DCUtR exchange: bytes in, bytes and the moment of dialing out.

The peer that was *dialed* over the relay (the initiator here, B in the specification) opens the
stream, measures the round trip between its CONNECT and the answer, sends SYNC, and dials half a
round trip later; the one that dialed over the relay (the responder, A) dials as soon as SYNC comes.
So both dial at the same time.  A is the client, B the server of what follows: of a TCP connection
that both opened, of a QUIC handshake, in security and multiplexing.

Peculiarities: go-libp2p up to 0.40 has the roles the other way round, which its newer versions meet
by a third attempt with B as client; so does ours.  js-libp2p is always the client; a responder can
be told to be the server, after an attempt in which both began.  rust-libp2p and go-libp2p give up
at a CONNECT without addresses; behind a NAT js-libp2p has none to send, and dials nevertheless: our
NAT may let it in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pt.dcutr.messages import MAX_MESSAGE, HolePunch, HolePunchError, Kind, punchable
from pt.errors import LocalProtocolError
from pt.wire.delimited import Deframer, DelimitedError
from pt.wire.multiaddr import Multiaddr

__all__ = ["MAX_ATTEMPTS", "PROTOCOL", "Dial", "Initiator", "Responder", "Role", "role_of"]

PROTOCOL: Final = "/libp2p/dcutr"
MAX_ATTEMPTS: Final = 3
MAX_RTT: Final = 10.0
"""Seconds after which an answer to CONNECT is of no use any more."""


class Role(Enum):
    """Who begins the handshakes of the direct connection."""

    CLIENT = "client"
    SERVER = "server"


def role_of(attempt: int) -> Role:
    """The initiator's role in its `attempt`th attempt, from 1."""
    return Role.CLIENT if attempt == MAX_ATTEMPTS else Role.SERVER


@dataclass(frozen=True, slots=True)
class Dial:
    """Dial these addresses at `when`, all at once; without any, the peer may still come."""

    when: float
    addresses: tuple[Multiaddr, ...]
    role: Role
    rtt: float | None
    """Of the relayed connection; the responder does not learn it."""


class _Exchange:
    def __init__(self, addresses: Iterable[Multiaddr]) -> None:
        self._own = punchable(addresses)
        if not self._own:
            raise LocalProtocolError("no public address of ours is known: nobody can dial us")
        self._deframer = Deframer(MAX_MESSAGE)
        self._out = bytearray()
        self._theirs: tuple[Multiaddr, ...] | None = None

    def data_to_send(self) -> bytes:
        """What has to be sent now."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def _say(self, kind: Kind) -> None:
        told = self._own if kind is Kind.CONNECT else ()
        self._out += HolePunch(kind, told).encode()

    def _messages(self, data: bytes) -> list[HolePunch]:
        try:
            return [HolePunch.decode(body) for body in self._deframer.receive_data(data)]
        except DelimitedError as error:
            raise HolePunchError(str(error)) from error

    def _connect(self, message: HolePunch) -> tuple[Multiaddr, ...]:
        if message.kind is not Kind.CONNECT:
            raise HolePunchError("the peer says SYNC before CONNECT")
        self._theirs = punchable(message.addresses)
        return self._theirs


class Initiator(_Exchange):
    """The peer that was dialed over the relay.

    Raises:
        LocalProtocolError: none of our addresses is public: there is no use in an attempt.

    """

    def __init__(self, addresses: Iterable[Multiaddr], *, attempt: int, now: float) -> None:
        super().__init__(addresses)
        self._role = role_of(attempt)
        self._sent = now
        self._done = False
        self._say(Kind.CONNECT)

    def receive_data(self, data: bytes, now: float) -> Dial | None:
        """Take bytes; the dial, once the peer has answered: send SYNC before it.

        Raises:
            HolePunchError: the peer breaks the protocol, or answers too late.

        """
        for message in self._messages(data):
            if self._done:
                raise HolePunchError("the peer goes on talking after CONNECT")
            theirs = self._connect(message)
            rtt = now - self._sent
            if rtt > MAX_RTT:
                raise HolePunchError(f"the peer answered after {rtt:.0f} s, which is too late")
            self._say(Kind.SYNC)
            self._done = True
            return Dial(now + rtt / 2, theirs, self._role, rtt)
        return None


class Responder(_Exchange):
    """The peer that dialed over the relay; it is the client, unless told otherwise.

    Raises:
        LocalProtocolError: none of our addresses is public.

    """

    def __init__(self, addresses: Iterable[Multiaddr], *, role: Role = Role.CLIENT) -> None:
        super().__init__(addresses)
        self._role = role

    def receive_data(self, data: bytes, now: float) -> Dial | None:
        """Take bytes; the dial, once SYNC comes: there is no time to lose then.

        Raises:
            HolePunchError: the peer breaks the protocol.

        """
        for message in self._messages(data):
            if self._theirs is None:
                self._connect(message)
                self._say(Kind.CONNECT)
            elif message.kind is Kind.SYNC:
                return Dial(now, self._theirs, self._role, None)
            else:
                raise HolePunchError("the peer says CONNECT twice")
        return None
