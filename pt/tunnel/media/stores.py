"""Which media a command uses, and their stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pt.node.state import StateDir
from pt.tunnel.config import TunnelConfig

if TYPE_CHECKING:
    from pt.node.node import Node
    from pt.tunnel.media.amino import OnHop
    from pt.tunnel.media.open_dht import OpenDht
    from pt.tunnel.media.store import Store
    from pt.tunnel.network import Network

__all__ = ["media_of", "open_dht_of", "open_stores"]


def media_of(config: TunnelConfig) -> list[str]:
    """What the user's options leave of the media."""
    media = ["lan"] if config.lan else []
    if config.overlay_seeds and not config.open:
        media.append("overlay")
    if config.public:
        media.append("amino")
    return media


async def open_stores(
    config: TunnelConfig,
    state: StateDir,
    network: Network,
    *,
    on_hop: OnHop | None = None,
) -> list[Store]:
    """The DHTs for sealed records; modules are loaded for those that are used only.

    There is none for an open tunnel, whose records are not sealed: see `open_dht_of`.
    """
    stores: list[Store] = []
    media = [] if config.open else media_of(config)
    if "overlay" in media:
        from pt.tunnel.media.overlay import OverlayStore  # noqa: PLC0415

        stores.append(OverlayStore(config.overlay_seeds, network))
    if "amino" in media:
        from pt.tunnel.media.amino import AminoStore  # noqa: PLC0415

        amino = AminoStore(state, config.dht_bootstrap, network, on_hop=on_hop)
        await amino.start()
        stores.append(amino)
    return stores


async def open_dht_of(
    config: TunnelConfig,
    state: StateDir,
    network: Network,
    *,
    node: Node | None = None,
    on_hop: OnHop | None = None,
) -> OpenDht | None:
    """The DHT for an open tunnel, asked by `node`; None for other tunnels, or if it is left out."""
    if not config.open or config.name is None or "amino" not in media_of(config):
        return None
    from pt.tunnel.media.open_dht import OpenDht  # noqa: PLC0415

    dht = OpenDht(config.name, state, config.dht_bootstrap, network, node=node, on_hop=on_hop)
    await dht.start()
    return dht
