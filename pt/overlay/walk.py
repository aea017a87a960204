"""Look-ups, gets and puts over `Rpc`, without I/O: callbacks say what was found.

A client's look-up begins with the servers it knows; with fewer than three, or when none of them
answers, the bootstrap addresses are asked along with them.

A put goes to the K nearest that answered. If fewer than half of them keep the record, as many
again, farther off, are asked to: so nodes that gather around a key and drop what they get cannot
make it vanish. A get for which nobody has an answer looks as far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from pt.errors import RemoteProtocolError
from pt.overlay.adapter import Address, Node, OverlayError
from pt.overlay.fetch import Fetch
from pt.overlay.lookup import K, Lookup
from pt.overlay.messages import MAX_VALUE, PART, Reply, decode_nodes, digest
from pt.overlay.rpc import Rpc
from pt.overlay.storage import Facts, Validate

__all__ = ["Found", "Put", "Store", "Stored", "Walk", "best_first", "checker"]

FEW: Final = 3
MAX_VALUES: Final = 16
"""Distinct values of one get: nobody makes us check for ever."""


@dataclass(frozen=True, slots=True)
class Found:
    """A valid value of a get."""

    value: bytes
    facts: Facts

    @property
    def rank(self) -> tuple[int, float, bytes]:
        """The best value is the greatest by this."""
        return (self.facts.seq, self.facts.expires, self.value)


@dataclass(frozen=True, slots=True)
class Stored:
    """How a put went."""

    acknowledged: int
    asked: int
    refusals: tuple[str, ...]
    """The reasons servers gave, each once."""


class Walk:
    """One look-up for the nodes nearest to `key`, and for its values if `found` is given."""

    def __init__(
        self,
        rpc: Rpc,
        key: bytes,
        *,
        clock: Callable[[], float],
        bootstrap: Sequence[Address] = (),
        done: Callable[[list[Node]], None],
        check: Callable[[bytes], Facts] | None = None,
        found: Callable[[Found], None] | None = None,
    ) -> None:
        self.lookup = Lookup(key, rpc.table.node.id)
        self._rpc = rpc
        self._clock = clock
        self._bootstrap = list(bootstrap)
        self._done = done
        self._check = check
        self._found = found
        self._method = "find_node" if found is None else "find_value"
        self._seen: set[bytes] = set()
        self._fetches: dict[tuple[int, bytes], Fetch] = {}
        self._others = 0
        self._over = False

    def start(self) -> None:
        """Begin."""
        self.lookup.heard_of(self._rpc.table.closest(self.lookup.key, K))
        if len(self._rpc.table) < FEW:
            self._ask_bootstrap()
        self._step()

    def close(self) -> None:
        """Ask nobody else, report nothing else."""
        self._over = True
        for fetch in self._fetches.values():
            fetch.close()

    def widen(self, done: Callable[[list[Node]], None]) -> None:
        """Go on to twice as many nodes after the end, then call `done`."""
        self.lookup.width = 2 * K
        self._done = done
        self._over = False
        self._step()

    def _ask_bootstrap(self) -> None:
        addresses, self._bootstrap = self._bootstrap[:K], []
        for addr in addresses:
            self._others += 1
            self._rpc.ask(
                addr,
                self._method,
                self.lookup.key,
                done=partial(self._answer, None, addr),
                now=self._clock(),
            )

    def _step(self) -> None:
        for node in [] if self._over else self.lookup.next_nodes():
            self._rpc.ask(
                node,
                self._method,
                self.lookup.key,
                done=partial(self._answer, node, node.address),
                slow=partial(self._slow, node),
                now=self._clock(),
            )
        fetching = any(each.active and not each.over for each in self._fetches.values())
        if self._over or self._others or fetching or not self.lookup.done:
            return
        found = self.lookup.found()
        if not found and self._bootstrap:
            self._ask_bootstrap()
            return
        if self._found is not None and not self._seen and self.lookup.width == K:
            self.lookup.width = 2 * K
            self._step()
            return
        self._over = True
        self._done(found)

    def _slow(self, node: Node) -> None:
        self.lookup.slow(node)
        self._step()

    def _answer(self, node: Node | None, addr: Address, reply: Reply | None) -> None:
        if node is None:
            self._others -= 1
        if reply is None:
            if node is not None:
                self.lookup.failed(node)
            self._step()
            return
        if node is None:
            node = Node(reply.sender, *addr)
        try:
            nodes = decode_nodes(reply.get(0, bytes))
        except OverlayError:
            self.lookup.failed(node)
        else:
            self.lookup.answered(node, nodes)
            if self._found is not None and not self._over:
                self._value(node, reply)
        self._step()

    def _value(self, node: Node, reply: Reply) -> None:
        size, mark, value = reply.get(1, int), reply.get(2, bytes), reply.get(3, bytes)
        if not 0 < size <= MAX_VALUE or mark in self._seen or len(self._seen) >= MAX_VALUES:
            return
        if len(value) == size:
            self._take(value)
        elif not value:
            fetch = self._fetches.get((size, mark))
            if fetch is None:
                fetch = self._fetches[size, mark] = Fetch(
                    self._rpc, self.lookup.key, size, mark, clock=self._clock, done=self._fetched
                )
            fetch.add(node)

    def _fetched(self, value: bytes | None) -> None:
        if value is not None and not self._over:
            self._take(value)
        self._step()

    def _take(self, value: bytes) -> None:
        assert self._check is not None
        assert self._found is not None
        try:
            facts = self._check(value)
        except RemoteProtocolError:
            self._rpc.counts["dropped: invalid value"] += 1
            return
        mark = digest(value)
        if mark not in self._seen:
            self._seen.add(mark)
            self._found(Found(value, facts))


class Put:
    """Store a value at the nodes nearest to its key; `done` is told how that went."""

    def __init__(
        self,
        rpc: Rpc,
        key: bytes,
        value: bytes,
        *,
        clock: Callable[[], float],
        bootstrap: Sequence[Address] = (),
        done: Callable[[Stored], None],
    ) -> None:
        self._rpc = rpc
        self._key = key
        self._value = value
        self._clock = clock
        self._done = done
        self._asked: set[bytes] = set()
        self._waiting = 0
        self._kept = 0
        self._refusals: dict[str, None] = {}
        self._wide = False
        self._over = False
        self._stores: list[Store] = []
        self._walk = Walk(rpc, key, clock=clock, bootstrap=bootstrap, done=self._near)

    def start(self) -> None:
        """Begin."""
        self._walk.start()

    def close(self) -> None:
        """Stop; `done` is not called any more."""
        self._over = True
        self._walk.close()
        for store in self._stores:
            store.close()

    def _near(self, nodes: list[Node]) -> None:
        targets = [node for node in nodes[: self._walk.lookup.width] if node.id not in self._asked]
        self._waiting = len(targets)
        for node in targets:
            self._asked.add(node.id)
            one = Store(self._rpc, self._key, self._value, clock=self._clock, done=self._stored)
            self._stores.append(one)
            one.to(node)
        if not targets:
            self._finish()

    def _stored(self, status: str) -> None:
        self._waiting -= 1
        if status == "ok":
            self._kept += 1
        else:
            self._refusals[status[:32]] = None
        if self._waiting == 0 and not self._over:
            if not self._wide and 2 * self._kept < len(self._asked):
                self._wide = True
                self._walk.widen(self._near)
            else:
                self._finish()

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            self._done(Stored(self._kept, len(self._asked), tuple(self._refusals)))


_AGAIN: Final = frozenset({"token", "order"})
"""Refusals after which the whole is sent once more: the answer brought a valid token, or parts of
something else came in between."""


class Store:
    """Sends a value to one node, part after part; `done` is told its status, or "no answer"."""

    def __init__(
        self,
        rpc: Rpc,
        key: bytes,
        value: bytes,
        *,
        clock: Callable[[], float],
        done: Callable[[str], None],
    ) -> None:
        self._rpc = rpc
        self._key = key
        self._value = value
        self._clock = clock
        self._done = done
        self._again = True
        self._over = False

    def close(self) -> None:
        """Send nothing more, call nobody."""
        self._over = True

    def to(self, node: Node, offset: int = 0) -> None:
        """Send the part at `offset`, and what follows it."""
        end = offset + PART

        def answer(reply: Reply | None) -> None:
            if self._over:
                return
            status = "no answer" if reply is None else reply.get(0, str)
            if status == "more" and end < len(self._value):
                self.to(node, end)
            elif status in _AGAIN and self._again:
                self._again = False
                self.to(node)
            else:
                self._done(status)

        part = self._value[offset:end]
        fields = (self._key, len(self._value), offset, part)
        self._rpc.ask(node, "store", *fields, done=answer, now=self._clock())


def checker(validate: Validate, key: bytes, wall: Callable[[], float]) -> Callable[[bytes], Facts]:
    """A check of the values of one key, expiry included."""

    def check(value: bytes) -> Facts:
        now = wall()
        facts = validate(key, value, now)
        if facts.expires <= now:
            raise OverlayError("a record that has expired")
        return facts

    return check


def best_first(found: Iterable[Found]) -> list[Found]:
    """Sort values, the best one first."""
    return sorted(found, key=lambda one: one.rank, reverse=True)
