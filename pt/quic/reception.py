"""What a server does with datagrams that belong to no connection: let in, ask back, or drop.

Clients that have proved neither their address nor themselves get a few places.  When half of them
are taken, newcomers must bring back a Retry token first, which costs us no memory; when all are,
Initials are dropped.  Broken ones always are.  Every answer is shorter than what it answers, and
answers are rationed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from pt.quic import initials, packets
from pt.quic.engine import Admission
from pt.quic.events import Address
from pt.quic.packets import CID_LENGTH, MIN_INITIAL, Header, Kind
from pt.quic.tokens import KEY_SIZE, RetryTokens

__all__ = ["Decision", "Drop", "Reception", "Reply"]

HALF_OPEN: Final = 128
"""Handshakes under way at a time.  What a client sends out of order in one may take 1.5 MiB."""

RETRY_FROM: Final = 32
"""Handshakes under way from which on clients must show that they are where they say."""

REPLIES_A_SECOND: Final = 500
"""Version negotiations, Retries and resets together; the bucket holds as many."""


class Reply(NamedTuple):
    """Send this back to where the datagram came from; keep nothing."""

    datagram: bytes


class Drop(NamedTuple):
    """Nothing to do, and why: for counters."""

    cause: str


Decision: TypeAlias = Admission | Reply | Drop


class Reception:
    """The front desk of one UDP port.  `random` is cryptographic, `reset_key` as in `Config`."""

    def __init__(
        self,
        reset_key: bytes,
        random: Callable[[int], bytes],
        *,
        half_open: int = HALF_OPEN,
        retry_from: int = RETRY_FROM,
        replies_a_second: float = REPLIES_A_SECOND,
    ) -> None:
        self.half_open = 0
        """Handshakes under way.  The owner adds one for an engine that it `accept`s, and takes it
        back when that says HandshakeDone or Closed, whichever is first."""
        self._reset_key = reset_key
        self._random = random
        self._tokens = RetryTokens(random(KEY_SIZE))
        self._limit = half_open
        self._retry_from = retry_from
        self._rate = replies_a_second
        self._allowance = replies_a_second
        self._refilled: float | None = None

    def decide(
        self, datagram: bytes, address: Address, now: float, *, accepting: bool = True
    ) -> Decision:
        """What to do with a datagram whose destination id is no connection's.

        With `accepting` false (a node that only dials) clients are dropped.
        """
        header = packets.parse_header(datagram)
        if header is None:
            return Drop("not QUIC")
        if header.kind is Kind.SHORT:
            return self._reset(datagram, header, now)
        if not accepting or header.kind is Kind.VERSION_NEGOTIATION:
            return Drop("unknown connection")
        if len(datagram) < MIN_INITIAL:
            return Drop("too small for an Initial")
        if header.kind is Kind.OTHER_VERSION:
            return self._reply(
                packets.version_negotiation(header.source, header.destination, self._random(5)),
                now,
            )
        if header.kind is not Kind.INITIAL or len(header.destination) < CID_LENGTH:
            return Drop("unknown connection")
        return self._initial(datagram, header, address, now)

    def refuse(self, datagram: bytes, now: float) -> Decision:
        """What to do instead of an `Admission`, if the owner has no place for the client."""
        return self._reply(initials.refusal(datagram), now)

    def _initial(self, datagram: bytes, header: Header, address: Address, now: float) -> Decision:
        original = None
        if header.token:
            original = self._tokens.check(header.token, address, header.destination, now)
        if self.half_open >= self._limit:
            return Drop("too many handshakes")
        # A token that is not ours, or too old: as if there was none (RFC 9000, section 8.1.3).
        if original is not None or self.half_open < self._retry_from:
            if not initials.opens(datagram):
                return Drop("broken Initial")
            first = header.destination if original is None else original
            return Admission(first, header.destination, header.source, original is not None)
        ours = self._random(CID_LENGTH)
        token = self._tokens.create(address, header.destination, ours, now, self._random(12))
        return self._reply(packets.retry(header.source, ours, header.destination, token), now)

    def _reset(self, datagram: bytes, header: Header, now: float) -> Decision:
        reset = packets.stateless_reset(
            self._reset_key, len(datagram), header.destination, self._random(42)
        )
        return Drop("unknown connection") if reset is None else self._reply(reset, now)

    def _reply(self, datagram: bytes, now: float) -> Decision:
        if self._refilled is not None:
            gained = max(0.0, now - self._refilled) * self._rate
            self._allowance = min(self._rate, self._allowance + gained)
        self._refilled = now
        if self._allowance < 1:
            return Drop("too many answers")
        self._allowance -= 1
        return Reply(datagram)
