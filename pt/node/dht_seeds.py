"""Where the first servers of the DHT are: bootstrap addresses, followed through the DNS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from pt.dnsaddr.aio import TxtResolver, resolve_dnsaddr
from pt.dnsaddr.resolution import DnsCause, DnsError
from pt.errors import ConnectError, UsageError
from pt.identity.peer_id import PeerId
from pt.kad.messages import MAX_ADDRESSES, PeerInfo
from pt.node.resolve import resolve
from pt.wire.multiaddr import Multiaddr

__all__ = ["DEFAULT_BOOTSTRAP", "Seeds"]

DEFAULT_BOOTSTRAP: Final = tuple(
    Multiaddr.parse(text)
    for text in (
        "/dnsaddr/bootstrap.libp2p.io/p2p/QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN",
        "/dnsaddr/bootstrap.libp2p.io/p2p/QmQCU2EcMqAqQPR2i9bChDtGNJchTbq5TbXJJ16u19uLTa",
        "/dnsaddr/bootstrap.libp2p.io/p2p/QmbLHAnMoJPWSCR5Zhtx6BHJX9KiKNN6tpvbUcqanj75Nb",
        "/dnsaddr/bootstrap.libp2p.io/p2p/QmcZf59bWwK5XFi76CZX8cbJ4BhTzzA3gU1ZjYZcYW3dwt",
        "/dnsaddr/va1.bootstrap.libp2p.io/p2p/12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8",
        "/ip4/104.131.131.82/tcp/4001/p2p/QmaCpDMGvV2BGHeYERUEnRQAwe3N8SzbUtfsmvsqQLuvuJ",
    )
)
"""Those of the public DHT, as kubo has them. The ids are part of them: the DNS cannot change who
is asked."""


class Seeds:
    """The servers that `bootstrap` addresses lead to.

    Raises:
        UsageError: one of them does not say who is there.

    """

    def __init__(self, bootstrap: Sequence[Multiaddr], resolver: TxtResolver | None) -> None:
        for address in bootstrap:
            if address.peer_id_bytes is None and address.components[0][0] != "dnsaddr":
                raise UsageError(f"{address} does not say who is there: add its /p2p/ID")
        self._bootstrap = tuple(bootstrap)
        self._resolver = resolver
        self._known: dict[PeerId, tuple[Multiaddr, ...]] = {}
        self._failures: dict[Multiaddr, DnsError] = {}

    @property
    def dns(self) -> DnsError | None:
        """The last failure of an address that could not be looked up when it was last tried."""
        return next(reversed(self._failures.values()), None)

    async def find(self, offer: Callable[[Sequence[PeerInfo]], None]) -> None:
        """Follow all addresses at the same time; what each leads to is offered at once."""
        await asyncio.gather(*(self._follow(each, offer) for each in self._bootstrap))

    async def _follow(
        self, address: Multiaddr, offer: Callable[[Sequence[PeerInfo]], None]
    ) -> None:
        try:
            found = await _peers(await resolve_dnsaddr(address, self._resolver))
        except DnsError as error:
            self._failures.pop(address, None)  # the last failure is the last entry
            self._failures[address] = error
            found = {}
        else:
            self._failures.pop(address, None)
        offer([self._merged(peer, addresses) for peer, addresses in found.items()])

    def _merged(self, peer: PeerId, addresses: Sequence[Multiaddr]) -> PeerInfo:
        """The peer with what other entries say of it, too."""
        known = self._known.get(peer, ())
        self._known[peer] = tuple(dict.fromkeys((*addresses, *known)))[:MAX_ADDRESSES]
        return PeerInfo(peer, self._known[peer])


async def _peers(found: Iterable[Multiaddr]) -> dict[PeerId, list[Multiaddr]]:
    """Who is at these addresses, as far as they are dialed here; names are looked up.

    Raises:
        DnsError: there are names only, and they cannot be resolved.

    """
    dialed = [
        (PeerId(raw), each)
        for each in found
        if (raw := each.peer_id_bytes) is not None and each.transport == "tcp"
    ]
    results = await asyncio.gather(*(resolve([each]) for _, each in dialed), return_exceptions=True)
    peers: dict[PeerId, list[Multiaddr]] = {}
    failure: ConnectError | None = None
    for (peer, _), result in zip(dialed, results, strict=True):
        if isinstance(result, ConnectError):
            failure = result
        elif isinstance(result, BaseException):
            raise result
        else:
            bare = (each.without_peer() for each in result)
            peers.setdefault(peer, []).extend(each for each in bare if each is not None)
    if failure is not None and not peers:
        raise DnsError(str(failure), DnsCause.FAILED) from failure
    return peers
