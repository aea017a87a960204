"""Addresses that stand in the DNS: `/dnsaddr/DOMAIN[/p2p/ID]` (libp2p addressing, "dnsaddr").

`resolution` follows the TXT records, whoever asks for them; `aio` asks the system's resolvers.
"""

from __future__ import annotations

from pt.dnsaddr.resolution import DnsCause, DnsError, resolve

__all__ = ["DnsCause", "DnsError", "resolve"]
