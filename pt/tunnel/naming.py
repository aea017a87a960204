"""From the user's name to its keys, through the cache of the state directory."""

from __future__ import annotations

import asyncio
import contextlib

from pt.errors import StateError, UsageError
from pt.node.state import StateDir
from pt.rendezvous.name import NameKeys, normalise_name
from pt.rendezvous.topic import cid

__all__ = ["keys_of"]


async def keys_of(name: str, state: StateDir, *, is_open: bool = False) -> NameKeys:
    """Derive the name's keys (0.5 s and 128 MiB, in a thread), or take them from the cache.

    The id of an open tunnel may be what is no name, since the Go program takes any: then its CID
    is its name on the local network.

    Raises:
        UsageError: it is no name, and not the id of an open tunnel.

    """
    if is_open:
        try:
            normalise_name(name)
        except UsageError:
            name = cid(name)
    cached = state.cached_keys(name)
    if cached is not None:
        return cached
    keys = await asyncio.to_thread(NameKeys.derive, name)
    with contextlib.suppress(StateError):  # a cache that cannot be written costs time, no more
        state.cache_keys(name, keys)
    return keys
