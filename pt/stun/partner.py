"""Two servers with one IP address each that answer for each other, as RFC 5780 wants of one server.

Each asks the other every `ASK_EVERY` seconds (HELLO), which also tells that it is there: another
address is offered to clients while the last answer is not older than `LOST_AFTER`. What has to
leave from the other's address is sent there in a FORWARD, which the other unpacks and sends on.

    HELLO 0xf50    request:  SESSION (ours) · PORTS
                   answer:   SESSION (the other's) · SEQUENCE (that it expects) · PORTS
    FORWARD 0xf51  indication: SESSION (the receiver's) · SEQUENCE · XOR-PEER-ADDRESS ·
                   CHANGE-REQUEST (its port bit: from the second port) · DATA (the answer)
    CONNECT 0xf52  indication: SESSION · SEQUENCE · XOR-PEER-ADDRESS · DATA (what to say there):
                   connect from the second port to who is connected to the sender
    SESSION 0xc0f0, 8 bytes    SEQUENCE 0xc0f1, 8 bytes    PORTS 0xc0f2, two ports

All are signed (MESSAGE-INTEGRITY-SHA256) with a key of the two operators' secret, and taken from
the address that was configured only. A FORWARD is good once: it names the receiver's session, which
is random, and a number that is higher than all before but for `WINDOW`. It carries nothing but an
answer to a Binding request, and counts against its destination's allowance like any other answer:
who has the secret gains no more than anybody who asks.
"""

from __future__ import annotations

import hmac
import struct
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from pt.errors import UsageError
from pt.stun.attributes import (
    CHANGE_REQUEST,
    DATA,
    XOR_PEER_ADDRESS,
    Address,
    Change,
    change_request,
    read_change_request,
    read_xor_address,
    xor_address,
)
from pt.stun.limits import Allowance
from pt.stun.messages import (
    BINDING,
    MAX_MESSAGE,
    TRANSACTION_ID,
    Attribute,
    Kind,
    Message,
    StunError,
    decode,
    encode,
)
from pt.stun.server import Answer, Place

__all__ = [
    "ASK_EVERY",
    "CONNECT",
    "FORWARD",
    "HELLO",
    "LOST_AFTER",
    "MIN_SECRET",
    "Connect",
    "Partner",
    "partner_key",
]

HELLO: Final = 0xF50
FORWARD: Final = 0xF51
CONNECT: Final = 0xF52
SESSION: Final = 0xC0F0
SEQUENCE: Final = 0xC0F1
PORTS: Final = 0xC0F2
MIN_SECRET: Final = 16
ASK_EVERY: Final = 10.0
ASK_SOON: Final = 2.0
"""As long as there is no answer."""
LOST_AFTER: Final = 25.0
WINDOW: Final = 64
_LABEL: Final = b"/peertunnel/stun/1.0.0 partner"
_NUMBER: Final = struct.Struct("!Q")
_PORTS: Final = struct.Struct("!HH")
_OVERHEAD: Final = 160
"""Bytes that a FORWARD has more than what it carries, at most."""


def partner_key(secret: str) -> bytes:
    """The key that both servers sign with.

    Raises:
        UsageError: the secret is short enough to be guessed.

    """
    text = unicodedata.normalize("NFC", secret.strip())
    if len(text) < MIN_SECRET:
        raise UsageError(
            f"the secret of the two relays is shorter than {MIN_SECRET} characters, and could be "
            "guessed: make one with `pt relay --make-secret FILE`, and copy it to both"
        )
    return hmac.digest(_LABEL, text.encode(), "sha256")


@dataclass(slots=True)
class _Window:
    """Which numbers have been taken."""

    highest: int = 0
    seen: int = 0

    def take(self, number: int) -> bool:
        if number > self.highest:
            self.seen = (self.seen << min(number - self.highest, WINDOW) | 1) & (1 << WINDOW) - 1
            self.highest = number
            return True
        bit = 1 << self.highest - number if self.highest - number < WINDOW else 0
        if not bit or self.seen & bit:
            return False
        self.seen |= bit
        return True


@dataclass(frozen=True, slots=True)
class Connect:
    """To be connected to, from the second port; `data` is all that is said there."""

    to: Address
    data: bytes


class Partner:
    """The other server, as this one knows it.  Its messages go to and come from `address` alone."""

    def __init__(
        self,
        address: Address,
        key: bytes,
        ports: tuple[int, int],
        random_bytes: Callable[[int], bytes],
        *,
        allowance: Allowance | None = None,
        connections: Allowance | None = None,
    ) -> None:
        """`ports`: our own two, which the other server has to have, too.

        `allowance` and `connections`: of answers to, and of connections to, each destination.
        """
        self.address = address
        self.counts: Counter[str] = Counter()
        """Answers forwarded, sent on for the other, and what was dropped, by reason."""
        self._key = key
        self._ports = ports
        self._random_bytes = random_bytes
        self._allowance = allowance if allowance is not None else Allowance()
        self._connections = connections if connections is not None else Allowance(0.0, 0.0)
        self._session = random_bytes(8)
        self._window = _Window()
        self._asked: deque[bytes] = deque(maxlen=4)
        self._ask_at: float | None = None
        self._their_session = b""
        self._their_ports: tuple[int, int] | None = None
        self._heard: float | None = None
        self._number = 0

    # --- what is known --------------------------------------------------------------------------

    def alive(self, now: float) -> bool:
        """Whether the other server answers."""
        return self._heard is not None and now - self._heard <= LOST_AFTER

    @property
    def mismatch(self) -> tuple[int, int] | None:
        """The other's ports, if they are not ours: clients assume that they are (RFC 5780)."""
        theirs = self._their_ports
        return theirs if theirs is not None and theirs != self._ports else None

    def places(self, now: float) -> dict[Place, Address]:
        """What this server may offer besides its own addresses."""
        if not self.alive(now) or self.mismatch is not None:
            return {}
        return {Place(1, at): (self.address[0], port) for at, port in enumerate(self._ports)}

    # --- what goes ------------------------------------------------------------------------------

    def next_timeout(self) -> float | None:
        """When `handle_timeout` has something to send; None before it was called first."""
        return self._ask_at

    def handle_timeout(self, now: float) -> list[bytes]:
        """What to send to the other server now."""
        if self._ask_at is not None and now < self._ask_at:
            return []
        self._ask_at = now + (ASK_EVERY if self.alive(now) else ASK_SOON)
        transaction = self._random_bytes(TRANSACTION_ID)
        self._asked.append(transaction)
        return [self._encode(Kind.REQUEST, HELLO, transaction, self._greeting(self._session))]

    def forward(self, answer: Answer, now: float) -> bytes | None:
        """What to send to the other server, so that it sends `answer`; None if it cannot."""
        change = change_request(Change(False, bool(answer.place.port)))
        return self._tell(FORWARD, answer.to, answer.data, now, change)

    def connect(self, to: Address, data: bytes, now: float) -> bytes | None:
        """What to send to the other server, so that it connects to `to`, and says `data` there."""
        return self._tell(CONNECT, to, data, now)

    def _tell(
        self, method: int, to: Address, data: bytes, now: float, *more: Attribute
    ) -> bytes | None:
        if not self.places(now) or len(data) > MAX_MESSAGE - _OVERHEAD:
            self.counts["dropped: cannot be forwarded"] += 1
            return None
        self._number += 1
        transaction = self._random_bytes(TRANSACTION_ID)
        attributes = (
            (SESSION, self._their_session),
            (SEQUENCE, _NUMBER.pack(self._number)),
            xor_address(XOR_PEER_ADDRESS, to, transaction),
            *more,
            (DATA, data),
        )
        self.counts["forwarded"] += 1
        return self._encode(Kind.INDICATION, method, transaction, attributes)

    def _greeting(self, session: bytes) -> list[Attribute]:
        return [(SESSION, session), (PORTS, _PORTS.pack(*self._ports))]

    def _encode(
        self, kind: Kind, method: int, transaction: bytes, attributes: Iterable[Attribute]
    ) -> bytes:
        return encode(kind, method, transaction, attributes, sha256_key=self._key)

    # --- what comes -----------------------------------------------------------------------------

    def receive(self, data: bytes, source: Address, now: float) -> bytes | Answer | Connect | None:
        """Take a datagram: what to send back to the other server, or to do for it."""
        try:
            message = decode(data)
        except StunError:
            return None
        if message.method not in (HELLO, FORWARD, CONNECT):
            return None
        if source != self.address or not message.verify(self._key):
            self.counts["dropped: not the other server"] += 1
            return None
        if message.method != HELLO:
            found = self._unpack(message, now)
            if isinstance(found, str):
                self.counts[f"dropped: {found}"] += 1
                return None
            self.counts["sent for the other"] += 1
            return found
        if message.kind is Kind.REQUEST:
            if not self.alive(now):
                self._ask_at = now  # it is there, so that it will answer
            attributes = self._greeting(self._session)
            attributes.append((SEQUENCE, _NUMBER.pack(self._window.highest + 1)))
            return self._encode(Kind.SUCCESS, HELLO, message.transaction, attributes)
        if message.kind is Kind.SUCCESS and message.transaction in self._asked:
            self._greeted(message, now)
        return None

    def _greeted(self, message: Message, now: float) -> None:
        session, number = message.get(SESSION), message.get(SEQUENCE)
        ports = message.get(PORTS)
        if session is None or number is None or ports is None:
            return
        if len(session) != 8 or len(number) != _NUMBER.size or len(ports) != _PORTS.size:
            return
        self._asked.remove(message.transaction)
        expected = _NUMBER.unpack(number)[0] - 1
        if session != self._their_session:
            self._number = expected
        self._number = min(max(self._number, expected), 1 << 63)
        self._their_session = session
        first, second = _PORTS.unpack(ports)
        self._their_ports = (first, second)
        self._heard = now
        self._ask_at = now + ASK_EVERY

    def _unpack(self, message: Message, now: float) -> Answer | Connect | str:
        """What is to be done for the other server, or why it is not."""
        if message.kind is not Kind.INDICATION:
            return "damaged"
        number, peer = message.get(SEQUENCE), message.get(XOR_PEER_ADDRESS)
        change, data = message.get(CHANGE_REQUEST), message.get(DATA)
        session = message.get(SESSION) or b""
        if number is None or peer is None or data is None:
            return "damaged"
        if not hmac.compare_digest(session, self._session) or len(number) != _NUMBER.size:
            return "another session"
        if not self._window.take(_NUMBER.unpack(number)[0]):
            return "replayed"
        try:
            to = read_xor_address(peer, message.transaction)
            port = change is not None and read_change_request(change).port
            carried = decode(data)
        except StunError:
            return "damaged"
        if (":" in to[0]) != (":" in self.address[0]):
            return "another family"
        kind = Kind.SUCCESS if message.method == FORWARD else Kind.INDICATION
        if carried.kind is not kind or carried.method != BINDING or not to[1]:
            return "no answer"
        if message.method == CONNECT:
            return Connect(to, data) if self._connections.take(to[0], now) else "too many"
        if not self._allowance.take(to[0], now):
            return "too many"
        return Answer(data, to, Place(0, int(port)))
