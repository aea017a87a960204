"""Where the first servers of the DHT are: bootstrap addresses, followed through the DNS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from pt.dnsaddr.aio import TxtResolver, resolve_dnsaddr
from pt.errors import DnsError, UsageError
from pt.identity.peer_id import PeerId
from pt.kad.messages import MAX_ADDRESSES, PeerInfo
from pt.node.resolve import Resolver, is_named
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

    def __init__(
        self,
        bootstrap: Sequence[Multiaddr],
        txt: TxtResolver | None,
        names: Resolver,
        on_failure: Callable[[Multiaddr, DnsError], None] = lambda *_: None,
    ) -> None:
        for address in bootstrap:
            if address.peer_id_bytes is None and address.components[0][0] != "dnsaddr":
                raise UsageError(f"{address} does not say who is there: add its /p2p/ID")
        self._bootstrap = tuple(bootstrap)
        self._txt = txt
        self._names = names
        self._on_failure = on_failure
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
            await self._offer_all(await resolve_dnsaddr(address, self._txt), offer)
        except DnsError as error:
            self._failures.pop(address, None)  # the last failure is the last entry
            self._failures[address] = error
            self._on_failure(address, error)
            offer(())
        else:
            self._failures.pop(address, None)

    async def _offer_all(
        self, found: Sequence[Multiaddr], offer: Callable[[Sequence[PeerInfo]], None]
    ) -> None:
        """Offer what needs no name at once, the rest when its names are resolved.

        Raises:
            DnsError: there are names only, and they cannot be resolved.

        """
        names = [each for each in found if is_named(each)]
        plain = [each for each in found if not is_named(each)]
        if plain or not names:
            self._offer(plain, offer)
        if names:
            resolved, failure = await self._resolve(names)
            if failure is not None and not plain and not resolved:
                raise failure
            self._offer(resolved, offer)

    async def _resolve(self, names: Sequence[Multiaddr]) -> tuple[list[Multiaddr], DnsError | None]:
        """What the names stand for, and why one of them cannot be resolved."""
        results = await asyncio.gather(*map(self._names.expand, names), return_exceptions=True)
        resolved: list[Multiaddr] = []
        failure: DnsError | None = None
        for result in results:
            if isinstance(result, DnsError):
                failure = result
            elif isinstance(result, BaseException):
                raise result
            else:
                resolved += result
        return resolved, failure

    def _offer(
        self, found: Iterable[Multiaddr], offer: Callable[[Sequence[PeerInfo]], None]
    ) -> None:
        """Who is at these addresses, as far as they are dialed here."""
        peers: dict[PeerId, list[Multiaddr]] = {}
        for each in found:
            raw, bare = each.peer_id_bytes, each.without_peer()
            if raw is not None and bare is not None and each.transport in ("tcp", "quic-v1"):
                peers.setdefault(PeerId(raw), []).append(bare)
        offer([self._merged(peer, addresses) for peer, addresses in peers.items()])

    def _merged(self, peer: PeerId, addresses: Sequence[Multiaddr]) -> PeerInfo:
        """The peer with what other entries say of it, too."""
        known = self._known.get(peer, ())
        self._known[peer] = tuple(dict.fromkeys((*addresses, *known)))[:MAX_ADDRESSES]
        return PeerInfo(peer, self._known[peer])
