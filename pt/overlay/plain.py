"""Requests of the unmodified library `kademlia`, whose servers may find and ask ours.

Its datagrams have our framing, a sender of 20 bytes and no token:

    ping [sender] → our id         find_node, find_value [sender, key] → [[id, ip, port], …]
    stun [] → [ip, port]           store [sender, key, value] → false

To them an id is the first 160 bits of ours, which keeps the order of distances. They are in none of
our tables, and store nothing: what they would keep is signed by nobody. No answer is longer than
three times the request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pt.overlay.adapter import ID_LEN, Address, Field, Node, pack
from pt.overlay.messages import AMPLIFICATION, MAX_DATAGRAM

__all__ = ["PlainRequest", "decode", "encode_reply"]

PLAIN_LEN: Final = 20
"""Bytes of an id and of a key."""
_FORM: Final = re.compile(
    rb"\x00(?P<id>.{20})\x92(?:"
    rb"\xa4(?P<ping>ping)\x91\xc4\x14.{20}"
    rb"|\xa4(?P<stun>stun)\x90"
    rb"|(?:\xa9(?P<node>find_node)|\xaa(?P<value>find_value))\x92\xc4\x14.{20}\xc4\x14(?P<key>.{20})"
    rb"|\xa5(?P<store>store)\x93\xc4\x14.{20}\xc4\x14.{20}.+)",
    re.DOTALL,
)
_FALSE: Final = b"\xc2"


@dataclass(frozen=True, slots=True)
class PlainRequest:
    """A request of the library's own."""

    id: bytes
    method: str
    key: bytes
    """Filled up to the length of our keys; empty where there is none."""
    size: int
    """Of the datagram."""


def decode(data: bytes) -> PlainRequest | None:
    """Read a datagram, if it is one of the library's; a stored value is not even looked at."""
    form = _FORM.fullmatch(data) if len(data) <= MAX_DATAGRAM else None
    if form is None:
        return None
    (method,) = (form[name] for name in ("ping", "stun", "node", "value", "store") if form[name])
    key = (form["key"] or b"").ljust(ID_LEN, b"\x00") if form["key"] else b""
    return PlainRequest(form["id"], method.decode(), key, len(data))


def encode_reply(
    request: PlainRequest, own: bytes, near: Iterable[Node], addr: Address
) -> bytes | None:
    """The answer to whoever asked from `addr`, None if none fits.

    `own` is our id, and `near` are nodes near the key.
    """
    head = b"\x01" + request.id
    room = AMPLIFICATION * request.size - len(head)
    body: Field
    match request.method:
        case "store":
            return head + _FALSE
        case "ping":
            body = own[:PLAIN_LEN]
        case "stun":
            body = list(addr)
        case _:
            nodes: list[Field] = []
            for node in near:
                one: Field = [node.id[:PLAIN_LEN], node.ip, node.port]
                if len(pack([*nodes, one])) > room:
                    break
                nodes.append(one)
            body = nodes
    answer = pack(body)
    return head + answer if len(answer) <= room else None
