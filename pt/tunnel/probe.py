"""An exposer's look at itself: READY is only said of what a stranger can dial.

Each dials under a new identity, with nothing but the addresses, and expects ours.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

from pt.errors import NetworkError, PtError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node.node import Node
from pt.node.resolve import Resolver
from pt.wire.multiaddr import Multiaddr

__all__ = ["probe", "probe_relayed"]

TIMEOUT: Final = 5.0
RELAYED_TIMEOUT: Final = 10.0
_ALL: Final = frozenset({("ip4", "0.0.0.0"), ("ip6", "::")})


async def probe(
    addresses: Sequence[Multiaddr], peer_id: PeerId, listen: Sequence[Multiaddr] = ()
) -> None:
    """Dial our own listeners; `listen` is what was asked for: all interfaces are not loopback.

    Raises:
        NetworkError: none answers as us.

    """
    direct = tuple(each for each in addresses if not each.is_circuit)
    outside = tuple(each for each in direct if not each.is_loopback)
    if not outside and any(each.host in _ALL for each in listen):
        raise NetworkError("no network interface is up: connect this machine to a network first")
    direct = outside or direct
    if not direct:
        raise NetworkError("no network interface has an address: connect this machine first")
    prober = _stranger()
    try:
        connection = await prober.connect(direct, expected=peer_id, timeout=TIMEOUT)
        connection.close()
    except PtError as error:
        raise NetworkError(
            f"this machine cannot reach its own listener ({error}): check the firewall"
        ) from error
    finally:
        await prober.close()


async def probe_relayed(
    addresses: Sequence[Multiaddr], peer_id: PeerId, resolver: Resolver | None = None
) -> None:
    """Dial ourselves through relays; `resolver` knows their names.

    Raises:
        NetworkError: none lets us through.

    """
    from pt.node.circuits import Circuits  # noqa: PLC0415

    prober = _stranger(resolver)
    circuits = Circuits(prober)
    try:
        connection = await prober.connect(addresses, expected=peer_id, timeout=RELAYED_TIMEOUT)
        connection.close()
    except PtError as error:
        raise NetworkError(
            f"the relay holds a reservation, and lets nobody through: {error}"
        ) from error
    finally:
        await prober.close()
        await circuits.close()


def _stranger(resolver: Resolver | None = None) -> Node:
    return Node(identity=PrivateKey.generate(secrets.token_bytes(32)), resolver=resolver)
