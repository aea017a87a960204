"""Laboratory: hosts and links in network namespaces without any uplink, for tests and benchmarks.

No part of the product imports it; it needs Linux, root, iproute2, nftables and util-linux.
"""

from __future__ import annotations

from pt.lab.netns import Host, Lan, unavailable

__all__ = ["Host", "Lan", "unavailable"]
