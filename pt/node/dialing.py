"""How a node dials a peer: names looked up, addresses in order, each upgraded, all of it noted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from pt.errors import (
    ClosedError,
    ConnectError,
    Dial,
    DialOutcome,
    DnsError,
    PtError,
    UsageError,
)
from pt.identity.peer_id import PeerId
from pt.node.diagnosis import outcome_of, reason_of
from pt.node.dial_plan import Attempt, plan
from pt.node.race import Race, party_of
from pt.node.resolve import is_named
from pt.node.route import Route
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.node.connection import Connection
    from pt.node.node import Node

__all__ = ["connect", "dial_one"]

MAX_NAMES: Final = 8
"""Names of one peer that are looked up; a record may list more to waste our time."""
LONG: Final = 1.0
"""Seconds after which a dial that is given up says something about the network."""


async def connect(
    node: Node,
    addresses: Multiaddr | Iterable[Multiaddr],
    *,
    expected: PeerId | None,
    security: tuple[str, ...],
    timeout: float,
    relay_after: float | None,
) -> Connection:
    """See `Node.connect`."""
    given = (addresses,) if isinstance(addresses, Multiaddr) else tuple(addresses)
    if expected is None:
        ids = {address.peer_id_bytes for address in given} - {None}
        if len(ids) > 1:
            raise UsageError("the addresses name different peers: dial one peer at a time")
        for raw in ids:
            assert raw is not None
            expected = PeerId(raw)
    names = [each for each in given if is_named(each)][:MAX_NAMES]
    plain = [each for each in given if not is_named(each)]
    attempts = plan(plain, frozenset(node.dialers), relay_after)
    if not attempts and not names:
        raise ConnectError(
            f"none of {len(given)} addresses can be dialed: only /ip4, /ip6 and /dns with /tcp "
            "are supported"
        )
    found = {each: _find(node, each, expected) for each in names}
    return await Race(node, expected, security).run(attempts, timeout, found)


async def dial_one(
    node: Node, address: Multiaddr, expected: PeerId | None, security: Sequence[str]
) -> Connection:
    """See `Node.dial_one`."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    dialer = node.dialers.get(address.transport)
    try:
        if dialer is not None:
            connection = await dialer(address, expected, security)
        else:
            connection = await _dial_tcp(node, address, expected, security)
    except (PtError, OSError, TimeoutError, asyncio.CancelledError) as error:
        reason, outcome = reason_of(error), outcome_of(error)
        node.tracer.emit("dial_failed", address=str(address), reason=reason)
        if isinstance(error, asyncio.CancelledError):
            waited = loop.time() - started
            reason = f"no answer within {waited:.1f} s"
            outcome = DialOutcome.SILENT if waited >= LONG else DialOutcome.UNKNOWN
        if not address.is_circuit:  # the dial of its relay is noted itself
            _note(node, Dial(str(address), reason, outcome, party_of(address, expected)))
        raise
    node.tracer.emit("dial_ok", address=str(address), seconds=round(loop.time() - started, 6))
    party = party_of(address, connection.peer_id)
    _note(node, Dial(str(address), "", DialOutcome.ANSWERED, party))
    return connection


async def _dial_tcp(
    node: Node, address: Multiaddr, expected: PeerId | None, security: Sequence[str]
) -> Connection:
    sock = await node.dial_socket(address)
    try:
        async with asyncio.timeout(node.limits.handshake_timeout):
            return await node.adopt(
                sock, Route(address), initiator=True, expected=expected, security=security
            )
    except TimeoutError as error:
        sock.close()
        raise ClosedError("it took the connection, and said too little in time") from error
    except BaseException:
        sock.close()
        raise


async def _find(node: Node, address: Multiaddr, expected: PeerId | None) -> tuple[Attempt, ...]:
    """The attempts that come of an address with a name.

    Raises:
        DnsError: the name stands for nothing.
        ConnectError: nothing of that can be dialed.

    """
    try:
        found = await node.resolver.expand(address)
    except DnsError as error:
        party = party_of(address, expected)
        _note(node, Dial(str(address), str(error), outcome_of(error), party))
        raise
    wanted = None if expected is None else expected.raw
    usable = [each for each in found if each.peer_id_bytes in (None, wanted) or wanted is None]
    attempts = plan(usable, frozenset(node.dialers))
    if not attempts:
        raise ConnectError(f"{address} leads to nothing that can be dialed here")
    return attempts


def _note(node: Node, dial: Dial) -> None:
    node.dials.note(dial, asyncio.get_running_loop().time())
