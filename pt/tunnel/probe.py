"""An exposer's look at itself: READY is only said of what a stranger can dial.

It dials under a new identity, with nothing but the addresses, and expects ours.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from typing import Final

from pt.errors import NetworkError, PtError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node.node import Node
from pt.node.resolve import Resolver
from pt.wire.multiaddr import Multiaddr

__all__ = ["probe"]

TIMEOUT: Final = 5.0
RELAYED_TIMEOUT: Final = 10.0
_ALL: Final = frozenset({("ip4", "0.0.0.0"), ("ip6", "::")})


async def probe(
    addresses: Sequence[Multiaddr],
    peer_id: PeerId,
    *,
    listen: Sequence[Multiaddr] = (),
    resolver: Resolver | None = None,
) -> None:
    """Dial ourselves: through relays if all addresses lead through some, else directly alone.

    `listen` is what was asked for: all interfaces are not loopback. `resolver` knows relays' names.

    Raises:
        NetworkError: nobody answers as us.

    """
    relayed = bool(addresses) and all(each.is_circuit for each in addresses)
    where = tuple(addresses) if relayed else _direct(addresses, listen)
    prober = Node(identity=PrivateKey.generate(secrets.token_bytes(32)), resolver=resolver)
    async with contextlib.AsyncExitStack() as stack:
        if relayed:
            from pt.node.circuits import Circuits  # noqa: PLC0415  # of use here only

            stack.push_async_callback(Circuits(prober).close)
        stack.push_async_callback(prober.close)
        try:
            timeout = RELAYED_TIMEOUT if relayed else TIMEOUT
            (await prober.connect(where, expected=peer_id, timeout=timeout)).close()
        except PtError as error:
            if relayed:
                why = f"the relay holds a reservation, and lets nobody through: {error}"
            else:
                why = f"this machine cannot reach its own listener ({error}): check the firewall"
            raise NetworkError(why) from error


def _direct(addresses: Sequence[Multiaddr], listen: Sequence[Multiaddr]) -> tuple[Multiaddr, ...]:
    """Those that are dialed directly, of others than this machine if there are any.

    Raises:
        NetworkError: there is none.

    """
    direct = tuple(each for each in addresses if not each.is_circuit)
    outside = tuple(each for each in direct if not each.is_loopback)
    if not outside and any(each.host in _ALL for each in listen):
        raise NetworkError("no network interface is up: connect this machine to a network first")
    if not direct:
        raise NetworkError("no network interface has an address: connect this machine first")
    return outside or direct
