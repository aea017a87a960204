"""The laboratory's pure half: packets, NATs, links and the network they form, on a passed-in clock.

Nothing here knows a socket, a clock or a generator of its own: the same seed and the same packets
give the same fates, in a test as well as in the router process.
"""

from __future__ import annotations

__all__: list[str] = []
