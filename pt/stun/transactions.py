"""STUN requests under way: sent again until answered, or given up (RFC 8489 §6.2.1, §6.3).

An answer belongs to a request if it names its transaction, 96 random bits, comes from where the
request went (unless it was asked to come from elsewhere), and is signed if the request was.
Anything else is not an answer, and changes nothing: who cannot see our packets cannot lie to us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from pt.errors import LimitError
from pt.stun.attributes import Address, read_error_code
from pt.stun.messages import BINDING, TRANSACTION_ID, Attribute, Kind, Message, StunError, encode

__all__ = ["MAX_REQUESTS", "ONCE", "QUICK", "RFC8489", "Outcome", "Schedule", "Transactions"]

MAX_REQUESTS: Final = 1024
"""Of one table at a time."""
TCP_TIMEOUT: Final = 39.5
"""Seconds; TCP repeats by itself (RFC 8489 §6.2.2)."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a request is sent, in seconds after the first time, and when it is given up."""

    sends: tuple[float, ...]
    end: float

    @classmethod
    def doubling(cls, rto: float = 0.5, count: int = 7, last: float = 16.0) -> Schedule:
        """RFC 8489's: `count` sends, the time between them doubling, and `last` RTOs of waiting."""
        sends = tuple(rto * (2**each - 1) for each in range(count))
        return cls(sends, sends[-1] + last * rto)


RFC8489: Final = Schedule.doubling()
QUICK: Final = Schedule((0.0, 0.25, 0.75, 1.5), 2.5)
"""For questions that people wait for: somebody who is there answers within 2.5 seconds."""
ONCE: Final = Schedule((0.0,), TCP_TIMEOUT)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended: with a `response`, an `error` of the server, or neither: in silence."""

    response: Message | None = None
    source: Address | None = None
    """Where the answer came from."""
    error: tuple[int, str] | None = None
    rtt: float = 0.0
    """Seconds, of the request if it was sent once; else since the first time."""
    sends: int = 0


class _Request:
    __slots__ = (
        "data",
        "done",
        "due",
        "elsewhere",
        "key",
        "method",
        "schedule",
        "sent",
        "since",
        "to",
    )

    def __init__(self, to: Address, data: bytes, schedule: Schedule, since: float) -> None:
        self.to = to
        self.data = data
        self.schedule = schedule
        self.since = since
        self.sent = 0
        self.due = since
        self.method = BINDING
        self.key: bytes | None = None
        self.elsewhere = False
        self.done: Callable[[Outcome], None] = lambda _: None


class Transactions:
    """The requests of one socket.  `send` may be anything that sends, once, and does not raise."""

    def __init__(
        self, send: Callable[[bytes, Address], None], random_bytes: Callable[[int], bytes]
    ) -> None:
        self._send = send
        self._random_bytes = random_bytes
        self._open: dict[bytes, _Request] = {}

    def __len__(self) -> int:
        return len(self._open)

    def request(
        self,
        to: Address,
        done: Callable[[Outcome], None],
        *,
        now: float,
        attributes: Iterable[Attribute] = (),
        schedule: Schedule = RFC8489,
        elsewhere: bool = False,
        key: bytes | None = None,
        sha256: bool = True,
        method: int = BINDING,
    ) -> bytes:
        """Ask `to`; `done` is called once, unless the request is cancelled.  Returns its id.

        With `elsewhere` the answer may come from any address; with `key`, a short-term credential,
        it has to be signed.

        Raises:
            LimitError: too many requests at a time.

        """
        if len(self._open) >= MAX_REQUESTS:
            raise LimitError(f"no more than {MAX_REQUESTS} STUN requests at a time")
        transaction = self._random_bytes(TRANSACTION_ID)
        data = encode(
            Kind.REQUEST,
            method,
            transaction,
            attributes,
            key=None if sha256 else key,
            sha256_key=key if sha256 else None,
        )
        one = _Request(to, data, schedule, now)
        one.key, one.done, one.elsewhere, one.method = key, done, elsewhere, method
        self._open[transaction] = one
        self._turn(transaction, one, now)
        return transaction

    def cancel(self, transaction: bytes) -> None:
        """Forget a request; its answer is not wanted any more."""
        self._open.pop(transaction, None)

    def receive(self, message: Message, source: Address, now: float) -> bool:
        """Take a message; whether it was an answer to a request that was under way."""
        one = self._open.get(message.transaction)
        if one is None or message.kind not in (Kind.SUCCESS, Kind.ERROR):
            return False
        if message.method != one.method or (source != one.to and not one.elsewhere):
            return False
        error: tuple[int, str] | None = None
        if message.kind is Kind.ERROR:
            try:
                error = read_error_code(message)
            except StunError:
                return False
        if one.key is not None and not message.verify(one.key) and not _unsigned(error):
            return False
        del self._open[message.transaction]
        done = None if message.kind is Kind.ERROR else message
        one.done(Outcome(done, source, error, max(0.0, now - one.since), one.sent))
        return True

    def next_timeout(self) -> float | None:
        """When `handle_timeout` has something to do."""
        return min((one.due for one in self._open.values()), default=None)

    def handle_timeout(self, now: float) -> None:
        """Send again what is due, and give up what has waited long enough."""
        for transaction, one in list(self._open.items()):
            if now >= one.due and transaction in self._open:
                self._turn(transaction, one, now)

    def _turn(self, transaction: bytes, one: _Request, now: float) -> None:
        sends = one.schedule.sends
        if now >= one.since + one.schedule.end:
            del self._open[transaction]
            one.done(Outcome(sends=one.sent))
            return
        if one.sent < len(sends) and now >= one.since + sends[one.sent]:
            # A clock that jumped does not make a burst: what was missed is not made up for.
            while one.sent < len(sends) and now >= one.since + sends[one.sent]:
                one.sent += 1
            self._send(one.data, one.to)
        more = sends[one.sent] if one.sent < len(sends) else one.schedule.end
        one.due = one.since + more


def _unsigned(error: tuple[int, str] | None) -> bool:
    """Errors by which a server says that it cannot sign: it does not know us (RFC 8489 §9.1.4)."""
    return error is not None and error[0] in (400, 401)
