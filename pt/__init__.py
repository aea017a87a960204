"""`pt` (PeerTunnel): serverless TCP port forwarding, wire-compatible with libp2p.

The library in two calls, see `pt.api`:

    async with pt.expose(22, "name") as exposed: ...
    async with await pt.connect("name") as tunnel: ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pt.api import Exposed, Tunnel, connect, expose

__all__ = ["Exposed", "Tunnel", "__version__", "connect", "expose"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import the library on first use: `pt --help` must not pay for it."""
    if name in {"Exposed", "Tunnel", "connect", "expose"}:
        from pt import api  # noqa: PLC0415  # that is the point

        value: object = getattr(api, name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
