"""A client's first packet: whether it is one, before it costs a server anything, and a refusal.

The keys of Initials come from the client's destination id, so that anybody can open one and nobody
can make one up without some work.  What does not open is dropped; a connection begun with it would
be deaf to the genuine packet that it is a broken copy of.  Source: RFC 9001, section 5.2.
"""

from __future__ import annotations

from typing import Final

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # re-exported from C
from aioquic.quic.crypto import CryptoError, CryptoPair  # type: ignore[attr-defined]  # same
from aioquic.quic.packet import pull_quic_header

from pt.quic.codes import TransportCode
from pt.quic.packets import CID_LENGTH, VERSION_1, parse_header, put_varint

__all__ = ["opens", "refusal"]

_CONNECTION_CLOSE: Final = 0x1C
_REASON: Final = b"too many connections"


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


def refusal(datagram: bytes) -> bytes:
    """The packet that ends the connection which an Initial would begin: no state, no handshake."""
    header = parse_header(datagram)
    assert header is not None
    frame = bytes([_CONNECTION_CLOSE, TransportCode.CONNECTION_REFUSED, 0, len(_REASON)]) + _REASON
    number = bytes(2)
    keys = CryptoPair()
    keys.setup_initial(header.destination, is_client=False, version=VERSION_1)
    packet: bytes = keys.encrypt_packet(
        bytes([0xC0 | len(number) - 1])
        + VERSION_1.to_bytes(4, "big")
        + bytes([len(header.source)])
        + header.source
        + bytes([len(header.destination)])
        + header.destination
        + put_varint(0)
        + put_varint(len(number) + len(frame) + keys.aead_tag_size)
        + number,
        frame,
        0,
    )
    return packet
