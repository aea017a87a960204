"""The overlay's datagrams, at most 1,200 bytes each: no network has to fragment them.

    datagram = kind (0 request, 1 reply) · id (20 random bytes) · msgpack body
    request  = [method, [sender, token, argument…, padding?]]
    reply    = [sender, token, result…]

`sender` is the id of a server, and empty for a client: clients answer nothing and are put into no
table. `token` proves that its bearer receives what is sent to its address: a server gives one with
every reply. To a request without a valid token, no more than three times its size is answered,
hence the padding.

    method      arguments                        result
    ping                                         nodes (empty)
    find_node   key                              nodes
    find_value  key                              nodes, size (0 = not here), digest, value or empty
    fetch       key, digest, offset              part
    store       key, size, offset, part          status: "ok", "more", or why not
    offer       entries                          mask: a byte for each, 1 = wanted

    nodes   = (id 32 · family 4 or 6 · address · port 2)…      digest = first 8 bytes of SHA-256
    entries = (key 32 · digest 8)…

A value that does not fit comes in parts, asked for with a token, and goes in parts the same way.
What follows the known arguments is ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeVar

from pt.overlay.adapter import ID_LEN, Field, Node, OverlayError, pack, unpack

__all__ = [
    "AMPLIFICATION",
    "DIGEST_LEN",
    "ENTRY_LEN",
    "MAX_DATAGRAM",
    "MAX_NODES",
    "MAX_VALUE",
    "METHODS",
    "PADDED",
    "PART",
    "REQUEST_ID_LEN",
    "TOKEN_LEN",
    "Reply",
    "Request",
    "decode",
    "decode_nodes",
    "digest",
    "encode_nodes",
    "encode_reply",
    "encode_request",
    "entries",
]

MAX_DATAGRAM: Final = 1200
MAX_VALUE: Final = 10 * 1024
PART: Final = 1024
"""Bytes of a value in one datagram at most."""
PADDED: Final = MAX_DATAGRAM // 3
"""Size of a request for nodes or a value that has no token."""
AMPLIFICATION: Final = 3
MAX_NODES: Final = 20
"""Of one reply."""
REQUEST_ID_LEN: Final = 20
TOKEN_LEN: Final = 8
DIGEST_LEN: Final = 8
ENTRY_LEN: Final = ID_LEN + DIGEST_LEN

_HEADER_LEN: Final = 1 + REQUEST_ID_LEN
_ARGUMENTS: Final[dict[str, tuple[type, ...]]] = {
    "ping": (),
    "find_node": (bytes,),
    "find_value": (bytes,),
    "fetch": (bytes, bytes, int),
    "store": (bytes, int, int, bytes),
    "offer": (bytes,),
}
_RESULTS: Final[dict[str, tuple[type, ...]]] = {
    "ping": (bytes,),
    "find_node": (bytes,),
    "find_value": (bytes, int, bytes, bytes),
    "fetch": (bytes,),
    "store": (str,),
    "offer": (bytes,),
}
METHODS: Final = tuple(_ARGUMENTS)
_T = TypeVar("_T", int, str, bytes)


@dataclass(frozen=True, slots=True)
class _Message:
    id: bytes
    sender: bytes
    """32 bytes of a server, or empty."""
    token: bytes
    fields: tuple[Field, ...]

    def get(self, index: int, kind: type[_T]) -> _T:
        """An argument or a result whose type was checked."""
        value = self.fields[index]
        if not isinstance(value, kind):
            raise OverlayError("a field of another type")
        return value


@dataclass(frozen=True, slots=True)
class Request(_Message):
    """A request whose arguments have the method's types; keys in it have 32 bytes."""

    method: str


@dataclass(frozen=True, slots=True)
class Reply(_Message):
    """A reply; `check` it against the method that was asked."""

    def check(self, method: str) -> None:
        """Raise OverlayError unless the results are those of the method, from a server."""
        if len(self.sender) != ID_LEN:
            raise OverlayError("a reply of somebody who is no server")
        _check(self.fields, _RESULTS[method])


def digest(value: bytes) -> bytes:
    """What tells values of one key apart."""
    return hashlib.sha256(value).digest()[:DIGEST_LEN]


def encode_request(
    request_id: bytes, method: str, sender: bytes, token: bytes, *fields: Field, size: int = 0
) -> bytes:
    """Encode a request, padded to at least `size` bytes."""
    head = b"\x00" + request_id
    data = head + pack([method, [sender, token, *fields]])
    if (spare := size - len(data)) > 0:
        data = head + pack([method, [sender, token, *fields, bytes(spare)]])
    return data


def encode_reply(request_id: bytes, sender: bytes, token: bytes, *fields: Field) -> bytes:
    """Encode a reply."""
    return b"\x01" + request_id + pack([sender, token, *fields])


def decode(data: bytes) -> Request | Reply:
    """Read a datagram.

    Raises:
        OverlayError: it is none of ours.

    """
    if not _HEADER_LEN < len(data) <= MAX_DATAGRAM:
        raise OverlayError(f"a datagram of {len(data)} bytes")
    kind, request_id = data[0], data[1:_HEADER_LEN]
    if kind > 1:
        raise OverlayError(f"a datagram of kind {kind}")
    body = unpack(data[_HEADER_LEN:])
    if not isinstance(body, list):
        raise OverlayError("a body that is no array")
    if kind == 1:
        return Reply(request_id, *_head(body))
    if len(body) != 2 or not isinstance(body[0], str) or not isinstance(body[1], list):
        raise OverlayError("a request that is no pair of method and arguments")
    method = body[0]
    if method not in _ARGUMENTS:
        raise OverlayError("a request for a method that is not known here")
    sender, token, fields = _head(body[1])
    _check(fields, _ARGUMENTS[method])
    if method not in ("ping", "offer"):
        key = fields[0]
        if not isinstance(key, bytes) or len(key) != ID_LEN:
            raise OverlayError(f"a key that has not {ID_LEN} bytes")
    return Request(request_id, sender, token, fields, method)


def _head(fields: list[Field]) -> tuple[bytes, bytes, tuple[Field, ...]]:
    if len(fields) < 2:
        raise OverlayError("a message without sender and token")
    sender, token = fields[0], fields[1]
    if not isinstance(sender, bytes) or not isinstance(token, bytes):
        raise OverlayError("a sender or token that is not bytes")
    if len(sender) not in (0, ID_LEN) or len(token) not in (0, TOKEN_LEN):
        raise OverlayError("a sender or token of the wrong length")
    return sender, token, tuple(fields[2:])


def _check(fields: tuple[Field, ...], kinds: tuple[type, ...]) -> None:
    if len(fields) < len(kinds) or not all(map(isinstance, fields, kinds)):
        raise OverlayError("a message with missing or mistyped fields")


def entries(raw: bytes) -> list[tuple[bytes, bytes]]:
    """The (key, digest) pairs of an offer.

    Raises:
        OverlayError: they are not whole.

    """
    if len(raw) % ENTRY_LEN:
        raise OverlayError("an offer that ends early")
    return [
        (raw[at : at + ID_LEN], raw[at + ID_LEN : at + ENTRY_LEN])
        for at in range(0, len(raw), ENTRY_LEN)
    ]


def encode_nodes(nodes: Iterable[Node], room: int) -> bytes:
    """As many nodes, the first ones first, as `room` bytes hold."""
    raw = b""
    for node in nodes:
        address = ip_address(node.ip)
        one = node.id + bytes([address.version]) + address.packed + node.port.to_bytes(2, "big")
        if len(raw) + len(one) > room:
            break
        raw += one
    return raw


def decode_nodes(raw: bytes) -> list[Node]:
    """Read nodes; those with an impossible address are left out.

    Raises:
        OverlayError: too many, or not whole.

    """
    nodes: list[Node] = []
    at = count = 0
    while at < len(raw):
        count += 1
        family = raw[at + ID_LEN : at + ID_LEN + 1]
        width = {b"\x04": 4, b"\x06": 16}.get(family)
        if width is None or count > MAX_NODES:
            raise OverlayError("a list of nodes that is too long or damaged")
        start = at + ID_LEN + 1
        end = start + width + 2
        if end > len(raw):
            raise OverlayError("a list of nodes that ends early")
        packed, port = raw[start : end - 2], int.from_bytes(raw[end - 2 : end], "big")
        address = IPv4Address(packed) if width == 4 else IPv6Address(packed)
        if port and not (address.is_multicast or address.is_unspecified or _broadcast(address)):
            nodes.append(Node(raw[at : at + ID_LEN], str(address), port))
        at = end
    return nodes


def _broadcast(address: IPv4Address | IPv6Address) -> bool:
    return address == IPv4Address("255.255.255.255")
