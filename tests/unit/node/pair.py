"""Two nodes joined by a socket pair, without dialing."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator

from pt.aio.keep_alive import KeepAlive
from pt.node.connection import Connection
from pt.node.node import Node
from tests.sim.world import connection_on, node, quiet_pair


@contextlib.asynccontextmanager
async def joined(
    keep_alive: KeepAlive | None = None, *, left: Node | None = None, right: Node | None = None
) -> AsyncIterator[tuple[Connection, Connection]]:
    """The two ends of one connection; everything is closed afterwards."""
    one, two = left or node(1), right or node(2)
    ours, theirs = quiet_pair()
    try:
        first = connection_on(ours, one, two.peer_id, initiator=True, keep_alive=keep_alive)
        second = connection_on(theirs, two, one.peer_id, initiator=False, keep_alive=keep_alive)
        yield first, second
    finally:
        await one.close()
        await two.close()


@contextlib.asynccontextmanager
async def half(
    keep_alive: KeepAlive | None = None,
) -> AsyncIterator[tuple[Connection, socket.socket]]:
    """One end and the raw socket of the other, for a peer that misbehaves."""
    one, two = node(1), node(2)
    ours, theirs = quiet_pair()
    try:
        yield (
            connection_on(ours, one, two.peer_id, initiator=False, keep_alive=keep_alive),
            theirs,
        )
    finally:
        theirs.close()
        await one.close()
        await two.close()
