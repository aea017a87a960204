"""Whether a client's first packet is one: before it costs a server anything.

The keys of an Initial come from its destination id, so that anybody can open it and nobody can make
one up without some work.  What does not open is dropped; a connection begun with it would be deaf
to the genuine packet that it is a broken copy of.  Source: RFC 9001, section 5.2.
"""

from __future__ import annotations

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # re-exported from C
from aioquic.quic.crypto import CryptoError, CryptoPair  # type: ignore[attr-defined]  # same
from aioquic.quic.packet import pull_quic_header

from pt.quic.packets import CID_LENGTH, VERSION_1

__all__ = ["opens"]


def opens(datagram: bytes) -> bool:
    """Whether the Initial that a datagram begins with is authentic under its own keys."""
    buffer = Buffer(data=datagram)
    keys = CryptoPair()
    try:
        header = pull_quic_header(buffer, CID_LENGTH)
        keys.setup_initial(header.destination_cid, is_client=False, version=VERSION_1)
        keys.decrypt_packet(datagram[: header.packet_length], buffer.tell(), 0)
    except (CryptoError, ValueError):
        return False
    return True
