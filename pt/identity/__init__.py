"""Who a peer is: keys, peer ids and what a peer signs (libp2p peer-ids, RFC 0002, RFC 0003)."""

from __future__ import annotations

from pt.identity.envelope import Envelope, open_envelope, seal
from pt.identity.keys import KeyType, PrivateKey, PublicKey
from pt.identity.peer_id import PeerId
from pt.identity.peer_record import PeerRecord

__all__ = [
    "Envelope",
    "KeyType",
    "PeerId",
    "PeerRecord",
    "PrivateKey",
    "PublicKey",
    "open_envelope",
    "seal",
]
