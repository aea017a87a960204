"""What a /dnsaddr address stands for: TXT records, followed from one domain to the next.

`_dnsaddr.DOMAIN` has TXT strings `dnsaddr=MULTIADDR`. Of these, those count that end as the asked
address does behind its domain (its /p2p/ID, when it has one); a /dnsaddr among them is followed in
turn. Public bootstrap domains lead to one domain a region, and those to addresses.

Foreign strings, addresses of unknown protocols and loops are skipped. A domain that fails does not
spoil what others gave: its error counts only when nothing was found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from pt.errors import DnsCause, DnsError, UsageError
from pt.wire.multiaddr import Component, Multiaddr, MultiaddrError

__all__ = ["MAX_DEPTH", "MAX_QUERIES", "MAX_RESULTS", "DnsCause", "DnsError", "resolve"]

MAX_DEPTH: Final = 4
"""Domains in a row, as go-multiaddr-dns has it."""
MAX_RESULTS: Final = 100
MAX_QUERIES: Final = 32
MAX_STRINGS: Final = 512
"""TXT strings looked at in one answer."""

_PREFIX: Final = "dnsaddr="
_TASK: Final = "_dnsaddr."


async def resolve(
    address: Multiaddr, query: Callable[[str], Awaitable[list[str]]]
) -> list[Multiaddr]:
    """All addresses that `address` stands for, in the order of discovery, each once.

    `query(name)` gives the TXT strings of a name or raises DnsError. An address that is no /dnsaddr
    stands for itself.

    Raises:
        DnsError: nothing was found; of several failures, the first.
        UsageError: something precedes the /dnsaddr.

    """
    if not _is_dnsaddr(address):
        if any(name == "dnsaddr" for name, _ in address.components):
            raise UsageError(f"{address} cannot be looked up: /dnsaddr is not its first part")
        return [address]
    found: dict[Multiaddr, None] = {}
    asked = {address}
    waiting = deque([(address, 1)])
    failure: DnsError | None = None
    for _ in range(MAX_QUERIES):
        if not waiting or len(found) >= MAX_RESULTS:
            break
        current, depth = waiting.popleft()
        try:
            strings = await query(f"{_TASK}{current.components[0][1]}")
        except DnsError as error:
            failure = failure or error
            continue
        for entry in _entries(strings, current.components[1:]):
            if not _is_dnsaddr(entry):
                found[entry] = None
            elif depth < MAX_DEPTH and entry not in asked and len(asked) < MAX_QUERIES:
                asked.add(entry)
                waiting.append((entry, depth + 1))
    if not found:
        raise failure or DnsError(
            f"{address} leads to no address that is known here: check it, or use --peer ADDRESS",
            DnsCause.NO_RECORD,
        )
    return list(found)[:MAX_RESULTS]


def _is_dnsaddr(address: Multiaddr) -> bool:
    return address.components[0][0] == "dnsaddr"


def _entries(strings: list[str], suffix: tuple[Component, ...]) -> list[Multiaddr]:
    """The usable addresses among TXT strings that end with `suffix`."""
    entries = []
    for text in strings[:MAX_STRINGS]:
        if not text.startswith(_PREFIX):
            continue
        try:
            entry = Multiaddr.parse(text.removeprefix(_PREFIX))
        except MultiaddrError:
            continue
        parts = entry.components
        dialable = entry.host is not None and all(name != "dnsaddr" for name, _ in parts[1:])
        if dialable and parts[max(len(parts) - len(suffix), 1) :] == suffix:
            entries.append(entry)
    return entries
