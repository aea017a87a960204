"""Rendezvous: how an exposer tells those who know its name where it is.

`name` makes keys of names, `record` seals what is published, `mdns` is the LAN's wire format and
`lan` its sockets. For the DHTs, `epoch` makes the day's keys, `ipns` (with `cbor`) is the form that
their nodes store, and `mailbox` puts the records of several exposers into one value. `exposers`
keeps what was found, whatever medium it came from. Those are imported by who uses a DHT: a LAN does
without them.
Specs: docs/design.md, docs/rendezvous.md, RFC 6762, RFC 6763, libp2p mdns, IPNS records.

Limitations: the LAN speaks IPv4 multicast only.
"""

from __future__ import annotations

from pt.rendezvous.name import NameKeys, Strength, estimate_strength, generate_name, normalise_name
from pt.rendezvous.record import Record, open_record, seal

__all__ = [
    "NameKeys",
    "Record",
    "Strength",
    "estimate_strength",
    "generate_name",
    "normalise_name",
    "open_record",
    "seal",
]
