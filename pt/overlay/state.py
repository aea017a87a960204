"""What a node remembers between starts: its id and the servers it knew, as JSON.

    {"version": 1, "id": hex, "nodes": [[ip, port], …]}

The library keeps this as a pickle, which runs what it reads. Here a file that is damaged, too long
or somebody else's is no more than an empty one, and the nodes in it count for nothing until they
answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from pt.overlay.adapter import ID_LEN, Address, Node

__all__ = ["MAX_NODES", "MAX_TEXT", "State", "dump", "load"]

MAX_NODES: Final = 200
MAX_TEXT: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class State:
    """What was remembered."""

    id: bytes
    nodes: tuple[Address, ...]


def dump(node_id: bytes, nodes: Iterable[Node]) -> str:
    """The text of a state file."""
    known = [[node.ip, node.port] for node in nodes][:MAX_NODES]
    return json.dumps({"version": 1, "id": node_id.hex(), "nodes": known})


def load(text: str) -> State | None:
    """Read a state file's text; None if it is damaged."""
    if len(text) > MAX_TEXT:
        return None
    try:
        read = json.loads(text)
        if not isinstance(read, dict) or read.get("version") != 1:
            return None
        node_id = bytes.fromhex(read["id"])
        nodes = tuple(_address(*one) for one in read["nodes"][:MAX_NODES])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return State(node_id, nodes) if len(node_id) == ID_LEN else None


def _address(ip: object, port: object) -> Address:
    if not isinstance(ip, str) or not isinstance(port, int) or not 0 < port < 1 << 16:
        raise ValueError
    return (str(ip_address(ip)), port)
