"""Our private Kademlia: sealed records kept by `pt relay`s, found by everyone else.

Source: docs/design.md. The library `kademlia` gives the routing table and the shortlist of
look-ups, `pt.overlay.adapter` is the one module that knows it. The asyncio shell is
`pt.overlay.aio`.
"""

from __future__ import annotations

from pt.overlay.storage import Facts, Refusal, Storage

__all__ = ["Facts", "Refusal", "Storage"]
