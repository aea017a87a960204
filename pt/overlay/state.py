"""What a server remembers between starts, as lines of JSON: itself and whom it knew, then records.

    {"version": 2, "id": hex, "nodes": [[ip, port], …]}
    {"key": hex, "value": base64, "source": text, "expires": Unix time}
    …

The library keeps this as a pickle, which runs what it reads. Here a line that is damaged, too long
or somebody else's is no more than a missing one. The nodes count for nothing until they answer, and
the records are checked as if somebody had just brought them.
"""

from __future__ import annotations

import binascii
import json
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from pt.overlay.adapter import ID_LEN, Address
from pt.overlay.messages import MAX_VALUE
from pt.overlay.storage import Entry

__all__ = ["MAX_LINE", "MAX_NODES", "State", "dump", "dump_record", "load", "load_record"]

MAX_NODES: Final = 200
MAX_LINE: Final = 32 * 1024
"""Characters; a record of the greatest length takes less than half."""
MAX_SOURCE: Final = 64


@dataclass(frozen=True, slots=True)
class State:
    """Who we are, and the servers we knew."""

    id: bytes
    nodes: tuple[Address, ...]


def dump(state: State) -> str:
    """The first line."""
    known = [[ip, port] for ip, port in state.nodes[:MAX_NODES]]
    return json.dumps({"version": 2, "id": state.id.hex(), "nodes": known})


def load(line: str) -> State | None:
    """Read the first line; None if it is damaged."""
    try:
        read = _object(line)
        if read.get("version") != 2:
            return None
        node_id = bytes.fromhex(read["id"])
        nodes = tuple(_address(*one) for one in read["nodes"][:MAX_NODES])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return State(node_id, nodes) if len(node_id) == ID_LEN else None


def dump_record(key: bytes, entry: Entry) -> str:
    """The line of a record."""
    value = binascii.b2a_base64(entry.value, newline=False).decode()
    return json.dumps(
        {"key": key.hex(), "value": value, "source": entry.source, "expires": entry.expires}
    )


def load_record(line: str) -> tuple[bytes, Entry] | None:
    """Read the line of a record, its sequence left at 0; None if it is damaged."""
    try:
        read = _object(line)
        key = bytes.fromhex(read["key"])
        value = binascii.a2b_base64(read["value"], strict_mode=True)
        source, expires = read["source"], float(read["expires"])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    if (
        len(key) != ID_LEN
        or not 0 < len(value) <= MAX_VALUE
        or not isinstance(source, str)
        or not 0 < len(source) <= MAX_SOURCE
        or not 0 < expires < float("inf")
    ):
        return None
    return key, Entry(value, 0, expires, source)


def _object(line: str) -> dict[str, Any]:
    read = json.loads(line) if len(line) <= MAX_LINE else None
    if not isinstance(read, dict):
        raise TypeError
    return read


def _address(ip: object, port: object) -> Address:
    if not isinstance(ip, str) or type(port) is not int or not 0 < port < 1 << 16:
        raise ValueError
    return (str(ip_address(ip)), port)
