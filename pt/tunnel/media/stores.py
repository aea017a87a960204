"""Which media a command uses, and their stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pt.identity.peer_id import PeerId
from pt.node.state import StateDir
from pt.trace import Tracer
from pt.tunnel.config import BindConfig, ExposeConfig
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.tunnel.media.store import Store

__all__ = ["media_of", "open_stores"]

OnHop = Callable[[PeerId, tuple[Multiaddr, ...]], None]


def media_of(config: ExposeConfig | BindConfig) -> list[str]:
    """What the user's options leave of the media."""
    media = ["lan"] if config.lan else []
    if config.overlay_seeds and not config.open:
        media.append("overlay")
    if config.public:
        media.append("amino")
    return media


async def open_stores(
    config: ExposeConfig | BindConfig,
    state: StateDir,
    *,
    tracer: Tracer,
    on_hop: OnHop | None = None,
) -> list[Store]:
    """The DHTs for sealed records; modules are loaded for those that are used only."""
    stores: list[Store] = []
    media = media_of(config)
    if "overlay" in media:
        from pt.tunnel.media.overlay import OverlayStore  # noqa: PLC0415

        stores.append(OverlayStore(config.overlay_seeds))
    if "amino" in media:
        from pt.tunnel.media.amino import AminoStore  # noqa: PLC0415

        amino = AminoStore(state, config.dht_bootstrap, on_hop=on_hop, tracer=tracer)
        await amino.start()
        stores.append(amino)
    return stores
