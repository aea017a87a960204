"""What one command knows of the network: names, how dials ended, and what that says together.

All its nodes share this. The events that it passes on tell it when something has failed; then, and
when the command gives up, the dials are judged. The same cause is told once, not at each retry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from pt.errors import (
    ConnectError,
    Dial,
    DialOutcome,
    DnsError,
    NetworkError,
    NotFoundError,
    PtError,
)
from pt.identity.keys import PrivateKey
from pt.node.address_book import AddressBook
from pt.node.diagnosis import Cause, Diagnosis, DialLog, diagnose, outcome_of
from pt.node.node import Node
from pt.node.resolve import Resolver
from pt.node.state import StateDir
from pt.node.system_dns import INSTEAD
from pt.node.upgrade import PT_SECURITY, SECURITY
from pt.trace import Tracer
from pt.tunnel import events
from pt.wire.multiaddr import Multiaddr

__all__ = ["Network"]

SETTLE: Final = 1.0
"""Seconds from a failure to the judgement: others that are under way belong to it."""
LONG: Final = 1.0
"""Seconds of waiting for the DNS that say something."""
_FAILURES: Final = (NotFoundError, ConnectError, NetworkError, OSError)  # TimeoutError is the last


class Network:
    """`given` are the addresses that the user named; `emit` gets every event, and warnings."""

    def __init__(
        self,
        state: StateDir,
        given: Iterable[Multiaddr],
        emit: Callable[[events.Event], None],
        tracer: Tracer,
    ) -> None:
        self.dials: Final = DialLog()
        self.resolver: Final = Resolver(
            given=given, book=AddressBook(state, self._warn), warn=self._warn, tracer=tracer
        )
        self._emit = emit
        self._tracer = tracer
        self._nodes: list[Node] = []
        self._told: Cause | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def make_node(
        self,
        identity: PrivateKey,
        *,
        listen: Sequence[Multiaddr] = (),
        security: Sequence[str] = (PT_SECURITY, SECURITY),
        congestion: str = "auto",
    ) -> Node:
        """A node that shares all this; its connections show that the network works."""
        node = Node(
            identity=identity,
            listen=listen,
            security=security,
            congestion=congestion,
            tracer=self._tracer,
            resolver=self.resolver,
            dials=self.dials,
        )
        self._nodes.append(node)
        return node

    def note(self, address: Multiaddr, failure: PtError | None) -> None:
        """How it went with an address that is not dialed by a node."""
        dial = Dial(str(address), "", DialOutcome.ANSWERED)
        if failure is not None:
            dial = Dial(str(address), str(failure), outcome_of(failure))
        self.dials.note(dial, asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Look up and tell no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self.resolver.close()

    def emit(self, event: events.Event) -> None:
        """Pass an event on; a failure among them is looked into."""
        self._emit(event)
        failed = isinstance(event, (events.Published, events.Searched)) and not event.ok
        failed = failed or isinstance(event, events.Retrying)
        if failed and self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(SETTLE, self._judge)

    def explain(self, error: BaseException) -> BaseException:
        """The error with which to give up: what is in the way, if the dials tell, else `error`."""
        if not isinstance(error, _FAILURES):
            return error
        found = self._diagnosis()
        if found is None:
            return error
        if not found.sure:
            if isinstance(error, (NotFoundError, NetworkError)):
                return error
            attempts = error.attempts if isinstance(error, ConnectError) else ()
            return ConnectError(found.message, attempts or found.dials)
        if isinstance(error, DnsError) and found.cause in (Cause.NO_DNS, Cause.NO_NAME):
            return error
        return found.error()

    # --- judging -------------------------------------------------------------------------------

    def _judge(self) -> None:
        self._timer = None
        found = self._diagnosis()
        if found is not None and found.cause is not self._told:
            self._told = found.cause
            self._warn(found.message)

    def _diagnosis(self) -> Diagnosis | None:
        if any(map(_reaches_out, self._nodes)):
            self._told = None
            return None
        now = asyncio.get_running_loop().time()
        waiting = [
            Dial(
                name if name.startswith("/") else f"/dns/{name}",
                f"could not look up {name}: no answer from the DNS within {seconds:.1f} s; check "
                f"this machine's DNS, {INSTEAD}",
                DialOutcome.NO_DNS,
            )
            for name, seconds in self.resolver.unanswered(now).items()
            if seconds >= LONG
        ]
        return diagnose((*self.dials.recent(now), *waiting))

    def _warn(self, message: str) -> None:
        if not self._closed:
            self._emit(events.Warned(message=message))


def _reaches_out(node: Node) -> bool:
    """Whether it has a connection that has left this network."""
    return any(
        each.relay is not None or each.remote_addr.is_public
        for each in node.connections
        if not each.closed
    )
