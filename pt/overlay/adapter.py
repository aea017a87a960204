"""The library `kademlia` 2.2.3 (with rpcudp and umsgpack), made safe; nobody else imports it.

What is used, and what was wrong with it:

- `routing.RoutingTable`, `KBucket`, `node.Node`: ids had 160 bits (ours 256); a node on the border
  of two buckets went to the wrong one; the nodes returned as the nearest were only those of
  neighbouring buckets; whoever sent anything was added, unchecked; strangers could make buckets
  split without end; a full bucket started a task nobody waited for. `Table` takes in only nodes
  that have answered us, splits only around our own id, and limits how many share one address.
- `node.NodeHeap`: it searched the whole heap for every node, and grew with what peers sent.
  `Shortlist` is bounded and sorts once.
- The framing of `rpcudp`: kept; its protocol is replaced by `pt.overlay.rpc`, for it started a task
  for every datagram, took replies from anybody, called any method by name, and had no bounds.
- `crawling` waited for the slowest of each round, believed every node list and returned the most
  frequent value: replaced by `pt.overlay.lookup`. `storage` kept anything for a week: replaced by
  `pt.overlay.storage`. `network` kept its state as a pickle, which runs what it reads: replaced by
  `pt.overlay.state`.
- `umsgpack`: nested arrays exhausted the stack, and it reads every type there is. `unpack` first
  scans for what our messages are made of.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Final, TypeAlias

import umsgpack
from kademlia.node import Node as _LibraryNode
from kademlia.node import NodeHeap
from kademlia.routing import KBucket, RoutingTable

from pt.errors import LocalProtocolError, RemoteProtocolError
from pt.wire.ipranges import is_public

__all__ = [
    "ID_LEN",
    "Address",
    "Field",
    "Node",
    "OverlayError",
    "Shortlist",
    "Table",
    "group",
    "pack",
    "unpack",
]

Address: TypeAlias = tuple[str, int]
"""An IP address in its usual spelling, and a UDP port."""
Field: TypeAlias = int | str | bytes | list["Field"]

ID_LEN: Final = 32
MAX_ID: Final = (1 << 8 * ID_LEN) - 1
MAX_PER_HOST: Final = 2
"""Nodes of one public IP address (IPv6: /64), in the table and in a look-up."""
MAX_PER_NET: Final = 16
"""Nodes of one public /24 (IPv6: /48) in the table."""
MAX_DEPTH: Final = 3


class OverlayError(RemoteProtocolError):
    """A datagram, or something in it, that is none of ours."""


# --- msgpack ------------------------------------------------------------------------------------


def pack(value: Field) -> bytes:
    """Encode a message body."""
    return bytes(umsgpack.packb(value))


def unpack(data: bytes) -> Field:
    """Decode a message body: whole, nothing but arrays, text, bytes and numbers from 0.

    Raises:
        OverlayError: it is something else, or is nested too deeply.

    """
    if _skip(data, 0, MAX_DEPTH) != len(data):
        raise OverlayError("a message with something behind it")
    try:
        value: Field = umsgpack.unpackb(data)
    except umsgpack.UnpackException as error:
        raise OverlayError("a message that is not msgpack") from error
    return value


_LENGTHS: Final = {0xC4: 1, 0xC5: 2, 0xD9: 1, 0xDA: 2}
"""Bytes and text: how long their lengths are; longer ones do not fit a datagram."""
_NUMBERS: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}


def _skip(data: bytes, at: int, depth: int) -> int:
    """The end of the value that begins at `at`."""
    if at >= len(data):
        raise OverlayError("a message that ends early")
    tag = data[at]
    at += 1
    if tag < 0x80:
        return at
    if 0x90 <= tag < 0xA0:
        if depth == 0:
            raise OverlayError("a message nested too deeply")
        for _ in range(tag - 0x90):
            at = _skip(data, at, depth - 1)
        return at
    if 0xA0 <= tag < 0xC0:
        return at + tag - 0xA0
    if tag in _LENGTHS:
        end = at + _LENGTHS[tag]
        return end + int.from_bytes(data[at:end], "big")
    if tag in _NUMBERS:
        return at + _NUMBERS[tag]
    raise OverlayError(f"a message with a value of type {tag:#04x}")


# --- nodes --------------------------------------------------------------------------------------


class Node(_LibraryNode):  # type: ignore[misc]  # the library has no types
    """A server: its id of 32 bytes and its address; a point of the key space if it has none."""

    id: bytes
    long_id: int

    def __init__(self, node_id: bytes, ip: str = "", port: int = 0) -> None:
        if len(node_id) != ID_LEN:
            raise LocalProtocolError(f"an id has {ID_LEN} bytes, not {len(node_id)}")
        super().__init__(node_id, ip, port)

    @property
    def address(self) -> Address:
        """Where it is."""
        return (self.ip, self.port)


@functools.lru_cache(4096)
def group(ip: str) -> str | None:
    """Whom an address belongs to, for quotas: itself, or its /64; None if it is not public."""
    address = ip_address(ip)
    if not is_public(address):
        return None
    return ip if address.version == 4 else address.packed[:8].hex()


@functools.lru_cache(4096)
def _net(ip: str) -> str | None:
    address = ip_address(ip)
    if not is_public(address):
        return None
    return address.packed[: 3 if address.version == 4 else 6].hex()


class Shortlist(NodeHeap):  # type: ignore[misc]  # the library has no types
    """The nodes nearest to a point that were heard of: at most `limit`, the far ones dropped.

    Of one public address at most two are in it, so that nobody fills it from a single host.
    """

    def __init__(self, key: bytes, limit: int) -> None:
        super().__init__(Node(key), limit)
        self._known: set[bytes] = set()
        self._hosts: Counter[str] = Counter()
        self._sorted: list[Node] = []

    def __contains__(self, node: object) -> bool:
        return isinstance(node, Node) and node.id in self._known

    def __len__(self) -> int:
        return len(self._sorted)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._sorted)

    def push(self, nodes: Iterable[Node]) -> None:
        """Take in nodes; an id that is known, or was dropped for being far, stays as it is."""
        for node in nodes:
            host = group(node.ip)
            if node.id in self._known or (host is not None and self._hosts[host] >= MAX_PER_HOST):
                continue
            self._known.add(node.id)
            if host is not None:
                self._hosts[host] += 1
            self._sorted.append(node)
        self._sorted.sort(key=self.node.distance_to)
        for node in self._sorted[self.maxsize :]:
            self._known.discard(node.id)
            if (host := group(node.ip)) is not None:
                self._hosts[host] -= 1
        del self._sorted[self.maxsize :]


class Table(RoutingTable):  # type: ignore[misc]  # the library has no types
    """The servers that answered us: at most `ksize` in a bucket, split only around our own id.

    A live node is never put out for a newer one; who fails twice in a row makes room.
    """

    MAX_FAILS: Final = 2

    def __init__(self, own: bytes, ksize: int) -> None:
        super().__init__(None, ksize, Node(own))
        self._entries: dict[bytes, tuple[Node, float, int]] = {}

    def flush(self) -> None:
        """Begin with one bucket; called by the library."""
        self.buckets = [KBucket(0, MAX_ID, self.ksize)]

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, node_id: bytes) -> bool:
        return node_id in self._entries

    def __iter__(self) -> Iterator[Node]:
        return (node for node, _, _ in self._entries.values())

    def is_at(self, node_id: bytes, address: Address) -> bool:
        """Whether this node is in the table, with this address."""
        entry = self._entries.get(node_id)
        return entry is not None and entry[0].address == address

    def get_bucket_for(self, node: Node) -> int:
        """The index of a node's bucket; their ranges include both ends."""
        for index, bucket in enumerate(self.buckets):
            if node.long_id <= bucket.range[1]:
                return index
        raise AssertionError("ids end where the last bucket ends")

    def wants(self, node: Node) -> bool:
        """Whether this node would be taken in if it answered."""
        if node.id == self.node.id or node.id in self._entries or not self._diverse(node):
            return False
        bucket = self.buckets[self.get_bucket_for(node)]
        return bool(len(bucket) < self.ksize or bucket.has_in_range(self.node))

    def answered(self, node: Node, now: float) -> bool:
        """Take in a node that answered from its address; whether it is in now."""
        known = self._entries.get(node.id)
        if known is not None:
            if known[0].address != node.address:
                return False  # whoever is in stays there as long as he answers
            self._entries[node.id] = (known[0], now, 0)
            return True
        if not self.wants(node):
            return False
        self.add_contact(node)
        if node.id not in self._entries:
            return False
        self._entries[node.id] = (node, now, 0)
        return True

    def add_contact(self, node: Node) -> None:
        """Put a node into its bucket, which is split while it is full and holds our own id."""
        while True:
            index = self.get_bucket_for(node)
            bucket = self.buckets[index]
            if len(bucket) < self.ksize:
                bucket.add_node(node)
                self._entries[node.id] = (node, 0.0, 0)
                return
            if not bucket.has_in_range(self.node):
                return
            self.split_bucket(index)

    def failed(self, node_id: bytes) -> None:
        """Count a request without an answer; the second in a row is the last."""
        entry = self._entries.get(node_id)
        if entry is None:
            return
        node, seen, fails = entry
        if fails + 1 >= self.MAX_FAILS:
            del self._entries[node_id]
            self.remove_contact(node)
        else:
            self._entries[node_id] = (node, seen, fails + 1)

    def closest(self, key: bytes, count: int) -> list[Node]:
        """At most `count` nodes, the nearest to `key` first."""
        point = int.from_bytes(key, "big")
        return sorted(self, key=lambda node: node.long_id ^ point)[:count]

    def stale(self, before: float, count: int) -> list[Node]:
        """At most `count` nodes that have not answered since, the longest silent first."""
        found = sorted((seen, node.id) for node, seen, _ in self._entries.values() if seen < before)
        return [self._entries[node_id][0] for _, node_id in found[:count]]

    def _diverse(self, node: Node) -> bool:
        host, net = group(node.ip), _net(node.ip)
        if host is None:
            return True
        return (
            sum(group(other.ip) == host for other in self) < MAX_PER_HOST
            and sum(_net(other.ip) == net for other in self) < MAX_PER_NET
        )
