"""One look-up without I/O: whom to ask next, and when the nearest have all been asked.

Up to ALPHA requests are under way; a node that is slow does not hold up the others, since its place
is given to the next. Nodes are asked in order of distance until the `width` nearest of those that
live have answered. What peers say is bounded: 20 nodes of a reply, 128 in the shortlist, 96 asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pt.overlay.adapter import Node, Shortlist
from pt.overlay.messages import MAX_NODES

__all__ = ["ALPHA", "MAX_ASKED", "K", "Lookup"]

K: Final = 20
"""Servers that keep a record, and nodes of a bucket."""
ALPHA: Final = 4
MAX_ASKED: Final = 96
MAX_SHORTLIST: Final = 128


class Lookup:
    """Feed it nodes and answers; ask whom `next_nodes` names."""

    def __init__(self, key: bytes, own: bytes, *, width: int = K) -> None:
        self.key = key
        self.width = width
        """May be raised later: the look-up goes on then."""
        self.asked = 0
        self._own = own
        self._list = Shortlist(key, MAX_SHORTLIST)
        self._waiting: set[bytes] = set()
        self._slow: set[bytes] = set()
        self._answered: dict[bytes, Node] = {}
        self._failed: set[bytes] = set()

    def heard_of(self, nodes: Iterable[Node]) -> None:
        """Take in nodes somebody named, at most 20."""
        self._list.push([node for node in nodes if node.id != self._own][:MAX_NODES])

    def next_nodes(self) -> list[Node]:
        """The nodes to ask now; they count as asked."""
        free = ALPHA - len(self._waiting - self._slow)
        found: list[Node] = []
        for node in self._nearest():
            if len(found) >= free or self.asked >= MAX_ASKED:
                break
            if node.id not in self._answered and node.id not in self._waiting:
                self._waiting.add(node.id)
                self.asked += 1
                found.append(node)
        return found

    def answered(self, node: Node, nodes: Iterable[Node] = ()) -> None:
        """A node answered, and named others; one that was not asked may, too."""
        self._list.push([node])
        self._waiting.discard(node.id)
        self._answered[node.id] = node
        self.heard_of(nodes)

    def failed(self, node: Node) -> None:
        """A node did not answer, or not as it should."""
        self._waiting.discard(node.id)
        self._failed.add(node.id)

    def slow(self, node: Node) -> None:
        """A node takes long: ask another one along with it."""
        self._slow.add(node.id)

    @property
    def done(self) -> bool:
        """Whether the nearest nodes have all answered, or nobody is left to ask."""
        if self.asked >= MAX_ASKED and not self._waiting:
            return True
        return all(node.id in self._answered for node in self._nearest())

    def found(self) -> list[Node]:
        """The nodes that answered, the nearest first."""
        return sorted(self._answered.values(), key=self._list.node.distance_to)

    def _nearest(self) -> list[Node]:
        alive = [node for node in self._list if node.id not in self._failed]
        return alive[: self.width]
