"""Encodings every protocol shares: varints, protobuf, multihashes, multiaddrs (multiformats).

Import the module you need, as `from pt.wire import uvarint`; the one class that is everywhere is
re-exported.
"""

from __future__ import annotations

from pt.wire.multiaddr import Multiaddr, MultiaddrError

__all__ = ["Multiaddr", "MultiaddrError"]
