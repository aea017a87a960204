"""Questions that build on each other, from several sockets: scripts, and what runs them.

A script is a generator: it yields the questions to ask at the same time, or for how long to wait,
and is sent their outcomes. So a test reads from top to bottom, and needs no loop and no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from pt.errors import LimitError, PtError
from pt.stun.attributes import Address
from pt.stun.messages import Attribute, Kind, Message, StunError, decode
from pt.stun.transactions import QUICK, Outcome, Schedule, Transactions

__all__ = [
    "MAX_SOCKETS",
    "Ask",
    "Pause",
    "Prober",
    "Script",
    "Sockets",
    "Step",
    "Together",
    "ask",
    "pause",
    "together",
]

T = TypeVar("T")

MAX_SOCKETS: Final = 128
"""Opened by one prober at a time."""


class Sockets(Protocol):
    """UDP sockets by number; 0 is there from the beginning and is never closed."""

    def open(self, *, whole: bool = False) -> int:
        """Open one on a fresh port; `whole`: its datagrams are never cut into fragments.

        Raises:
            PtError: the system gives none.

        """

    def close(self, sock: int) -> None:
        """Close one."""

    def send(self, sock: int, data: bytes, to: Address) -> None:
        """Send, or drop; never waits."""

    def local(self, sock: int, to: Address) -> Address | None:
        """The address that it sends from, when it sends to `to`; None if there is no route."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question.

    elsewhere: the answer may come from another address. at: the socket that it comes to, if not to
    the one that asks. ourselves: the question itself is what we wait for, on any socket of ours.
    """

    sock: int
    to: Address
    attributes: tuple[Attribute, ...] = ()
    schedule: Schedule = QUICK
    elsewhere: bool = False
    at: int | None = None
    ourselves: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Together:
    """Run scripts side by side, and wait for the last one."""

    scripts: tuple[Script[Any], ...]


Step: TypeAlias = tuple[Ask, ...] | Pause | Together
Script: TypeAlias = Generator[Step, tuple[Any, ...], T]


def ask(asks: Iterable[Ask]) -> Script[tuple[Outcome, ...]]:
    """Ask all at the same time; their outcomes, in that order."""
    several = tuple(asks)
    return (yield several) if several else ()


def together(*scripts: Script[Any]) -> Script[tuple[Any, ...]]:
    """Run scripts side by side; their results, in that order."""
    return (yield Together(scripts))


def pause(seconds: float) -> Script[None]:
    """Wait so long."""
    yield Pause(seconds)


@dataclass(slots=True, eq=False)
class _Run:
    """A script under way, with what it waits for."""

    script: Script[Any]
    done: Callable[[Any], None]
    failed: Callable[[PtError], None]
    results: list[Any] = field(default_factory=list)
    missing: int = 0
    wake: float | None = None


class Prober:
    """Runs scripts over sockets of somebody else's; bytes in, bytes out, time passed in."""

    def __init__(self, sockets: Sockets, random_bytes: Callable[[int], bytes]) -> None:
        self.sockets = sockets
        self._random_bytes = random_bytes
        self._tables: dict[int, Transactions] = {}
        self._runs: list[_Run] = []
        self._elsewhere: dict[bytes, tuple[int, int]] = {}
        """Transactions whose answers come to another socket: (who asked, where it comes)."""
        self._ourselves: dict[bytes, tuple[int, Callable[[Outcome], None]]] = {}
        self._opened: set[int] = set()
        self._now = 0.0

    @property
    def now(self) -> float:
        """The time of the last call, for scripts."""
        return self._now

    @property
    def busy(self) -> bool:
        """Whether a script is under way."""
        return bool(self._runs)

    # --- for scripts ---------------------------------------------------------------------------

    def open(self, *, whole: bool = False) -> int:
        """Open a socket; it is closed with the prober at the latest.

        Raises:
            LimitError: there are too many.
            PtError: the system gives none.

        """
        if len(self._opened) >= MAX_SOCKETS:
            raise LimitError(f"no more than {MAX_SOCKETS} sockets at a time")
        sock = self.sockets.open(whole=whole)
        self._opened.add(sock)
        return sock

    def close_socket(self, sock: int) -> None:
        """Close one that was opened here, once its questions are over."""
        if sock in self._opened:
            self._opened.discard(sock)
            self._tables.pop(sock, None)
            self.sockets.close(sock)

    # --- for their owner -----------------------------------------------------------------------

    def run(
        self,
        script: Script[T],
        done: Callable[[T], None],
        now: float,
        *,
        failed: Callable[[PtError], None],
    ) -> None:
        """Start a script; `done` is told its result, or `failed` what ended it."""
        self._now = now
        run = _Run(script, done, failed)
        self._runs.append(run)
        self._go(run, lambda: next(script))

    def receive(self, sock: int, data: bytes, source: Address, now: float) -> bool:
        """Take a datagram that came to a socket; whether it was for us."""
        self._now = now
        try:
            message = decode(data)
        except StunError:
            return False
        transaction = message.transaction
        if message.kind is Kind.REQUEST:
            return self._met(message, source)
        asked, at = self._elsewhere.get(transaction, (sock, sock))
        if sock != at or asked not in self._tables:
            return False
        return self._tables[asked].receive(message, source, now)

    def _met(self, message: Message, source: Address) -> bool:
        """One of our own questions came back to us."""
        found = self._ourselves.pop(message.transaction, None)
        if found is None:
            return False
        sock, done = found
        if sock in self._tables:
            self._tables[sock].cancel(message.transaction)
        done(Outcome(message, source))
        return True

    def next_timeout(self) -> float | None:
        """When `handle_timeout` has something to do."""
        times = [table.next_timeout() for table in self._tables.values()]
        times += [run.wake for run in self._runs]
        return min((each for each in times if each is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        """Send again what is due, and go on with what has waited."""
        self._now = now
        for table in list(self._tables.values()):
            table.handle_timeout(now)
        for run in list(self._runs):
            if run.wake is not None and now >= run.wake:
                run.wake = None
                self._go(run, partial(run.script.send, ()))

    def close(self) -> None:
        """End every script, unfinished, and close what was opened."""
        runs, self._runs = self._runs, []
        for run in runs:
            run.script.close()
        self._tables.clear()
        self._elsewhere.clear()
        self._ourselves.clear()
        for sock in self._opened:
            self.sockets.close(sock)
        self._opened.clear()

    # --- running -------------------------------------------------------------------------------

    def _go(self, run: _Run, on: Callable[[], Step]) -> None:
        """Let a script go on to its next step, and begin that."""
        try:
            step = on()
        except StopIteration as end:
            self._runs.remove(run)
            run.done(end.value)
            return
        except PtError as error:
            self._runs.remove(run)
            run.failed(error)
            return
        if isinstance(step, Pause):
            run.wake = self._now + step.seconds
            return
        parts: tuple[Any, ...] = step.scripts if isinstance(step, Together) else step
        run.results = [None] * len(parts)
        run.missing = len(parts)
        for number, part in enumerate(parts):
            done = partial(self._answered, run, number)
            if isinstance(part, Ask):
                self._begin(part, done)
            else:
                self.run(part, done, self._now, failed=partial(self._part_failed, run))

    def _begin(self, one: Ask, done: Callable[[Outcome], None]) -> None:
        table = self._tables.get(one.sock)
        if table is None:
            send = partial(self.sockets.send, one.sock)
            table = self._tables[one.sock] = Transactions(send, self._random_bytes)
        number = [b""]

        def over(outcome: Outcome) -> None:
            self._elsewhere.pop(number[0], None)
            self._ourselves.pop(number[0], None)
            done(outcome)

        number[0] = table.request(
            one.to,
            over,
            now=self._now,
            attributes=one.attributes,
            schedule=one.schedule,
            elsewhere=one.elsewhere,
        )
        if one.at is not None:
            self._elsewhere[number[0]] = (one.sock, one.at)
        if one.ourselves:
            self._ourselves[number[0]] = (one.sock, over)

    def _answered(self, run: _Run, number: int, result: Any) -> None:  # noqa: ANN401  # of its script
        run.results[number] = result
        run.missing -= 1
        if not run.missing and run in self._runs:
            self._go(run, partial(run.script.send, tuple(run.results)))

    def _part_failed(self, run: _Run, error: PtError) -> None:
        """Whoever runs scripts side by side has the error of the first that fails."""
        if run in self._runs:
            self._go(run, partial(run.script.throw, error))
