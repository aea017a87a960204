"""Which addresses names had last: dialed when the DNS does not answer.

    {"version": 1, "names": {"relay.example": {"addresses": ["11.0.0.7"], "when": 1700000000}}}

`addresses.json` of the state directory; `when` is Unix time. A key is a host name, whose addresses
are IP addresses, or a whole /dnsaddr address, which stands for multiaddrs. Who is reached there has
to prove who it is as always: an old address costs a vain dial at the worst. So a damaged file is
worth a warning, and nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from pt.errors import PtError, StateError
from pt.node.state import StateDir
from pt.wire.multiaddr import Multiaddr

__all__ = ["FILE", "MAX_ADDRESSES", "MAX_NAMES", "AddressBook", "Remembered", "dump", "load"]

FILE: Final = "addresses.json"
MAX_NAMES: Final = 256
MAX_ADDRESSES: Final = 16
MAX_WHEN: Final = 1 << 40
FRESH: Final = 3600.0
"""Seconds for which the same answer is not written again."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a name stood for at `when` (Unix time)."""

    addresses: tuple[str, ...]
    when: float


def dump(names: Mapping[str, Remembered]) -> bytes:
    """The content of the file."""
    listed = {
        name: {"addresses": list(one.addresses), "when": int(one.when)}
        for name, one in names.items()
    }
    return json.dumps({"version": 1, "names": listed}, indent=1).encode() + b"\n"


def load(data: bytes) -> dict[str, Remembered] | None:
    """What `dump` wrote, the name used longest ago first; None if it is damaged."""
    try:
        read = json.loads(data)
        if not isinstance(read, dict) or read.get("version") != 1:
            return None
        names = {str(name): _entry(name, one) for name, one in read["names"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, PtError):
        return None
    return _newest(names)


def _entry(name: str, one: dict[str, object]) -> Remembered:
    texts, when = one["addresses"], one["when"]
    if not isinstance(texts, list) or not isinstance(when, int) or not 0 <= when < MAX_WHEN:
        raise ValueError
    checked: Callable[[str], object] = Multiaddr.parse if name.startswith("/") else ip_address
    addresses = tuple(str(checked(str(text))) for text in texts[:MAX_ADDRESSES])
    return Remembered(addresses, float(when))


def _newest(names: dict[str, Remembered]) -> dict[str, Remembered]:
    while len(names) > MAX_NAMES:
        del names[min(names, key=lambda name: names[name].when)]
    return names


class AddressBook:
    """The file of one state directory; `warn` is told once of each kind of trouble with it.

    Blocks for as long as the disk takes. Other processes may write the same file.
    """

    def __init__(self, state: StateDir, warn: Callable[[str], None] = lambda _: None) -> None:
        self._state = state
        self._warn = warn
        self._warned: set[str] = set()
        self._names: dict[str, Remembered] | None = None

    def get(self, name: str) -> Remembered | None:
        """What is known of a name."""
        if self._names is None:
            self._names = {}
            try:
                self._names = self._parsed(self._state.read(FILE))
            except StateError as error:
                self._trouble(str(error))
        return self._names.get(name)

    def put(
        self,
        name: str,
        addresses: Sequence[str],
        now: float,
        keep: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Remember what a name stands for now, besides those known addresses that `keep` allows.

        Nothing at all is remembered as nothing.
        """

        def merged(known: Remembered | None) -> Remembered:
            kept = () if known is None else tuple(filter(keep, known.addresses))
            return Remembered(tuple(dict.fromkeys((*addresses, *kept)))[:MAX_ADDRESSES], now)

        def change(data: bytes | None) -> bytes:
            names = self._parsed(data)
            entry = merged(names.pop(name, None))
            if entry.addresses:
                names[name] = entry
            self._names = _newest(names)
            return dump(names)

        known = self.get(name)
        if known is None:
            fresh = not addresses
        else:
            same = merged(known).addresses == known.addresses
            fresh = same and 0 <= now - known.when < FRESH
        if fresh:
            return

        try:
            self._state.rewrite(FILE, change)
        except StateError as error:
            self._trouble(str(error))

    def _parsed(self, data: bytes | None) -> dict[str, Remembered]:
        names = {} if data is None else load(data)
        if names is None:
            self._trouble(
                f"{self._state.path / FILE} is damaged and begun anew: until the DNS has answered "
                "again, relays cannot be reached without it"
            )
            return {}
        return names

    def _trouble(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self._warn(message)
