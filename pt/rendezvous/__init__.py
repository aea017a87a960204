"""Rendezvous: how an exposer tells those who know its name where it is.

`name` makes keys of names, `record` seals what is published, `mdns` is the LAN's wire format and
`lan` its sockets. Specs: docs/design.md, RFC 6762, RFC 6763, libp2p mdns.

Limitations: the LAN is the only medium so far, and it speaks IPv4 multicast.
"""

from __future__ import annotations

from pt.rendezvous.name import NameKeys, Strength, estimate_strength, generate_name, normalise_name
from pt.rendezvous.record import Freshness, Record, open_record, seal

__all__ = [
    "Freshness",
    "NameKeys",
    "Record",
    "Strength",
    "estimate_strength",
    "generate_name",
    "normalise_name",
    "open_record",
    "seal",
]
