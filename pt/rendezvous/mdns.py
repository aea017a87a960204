"""Multicast DNS as libp2p uses it: our questions, their answers (RFC 6762, 6763, libp2p mdns).

    question   PTR _p2p._udp.local                                  class IN, QU bit
    answer     PTR _p2p._udp.local -> INSTANCE._p2p._udp.local      TTL 0: gone
               TXT INSTANCE._p2p._udp.local                         one string an entry:
                   dnsaddr=MULTIADDR/p2p/PEERID                     any number (libp2p)
                   pt=BASE64URL                                     ours: the sealed record, in
                                                                    order, a piece each

INSTANCE is 32 to 63 random characters, new in every run; it is not the peer id. Other records (SRV,
A, AAAA) are ignored as libp2p ignores them. A TXT string has at most 255 bytes (RFC 1035), a packet
at most one Ethernet frame, so several pieces are needed and the sealed record stays small.
"""

from __future__ import annotations

import struct
from binascii import Error as BinasciiError
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pt.errors import LocalProtocolError, RemoteProtocolError
from pt.wire.multiaddr import Multiaddr, MultiaddrError

__all__ = [
    "INSTANCE_RANDOM",
    "MAX_ADDRESSES",
    "MAX_PACKET",
    "MAX_TXT",
    "SERVICE",
    "Announcement",
    "decode_answer",
    "encode_question",
    "encode_txt",
    "instance_name",
    "split_txt",
    "txt_strings",
]

SERVICE: Final = "_p2p._udp.local"
MAX_PACKET: Final = 9000
"""RFC 6762 section 17: the most a multicast DNS message may have, headers included."""
MAX_TXT: Final = 1180
"""Bytes of TXT data that leave room for the other records in a packet of 1,460 bytes."""
MAX_TXT_STRING: Final = 255
MAX_ADDRESSES: Final = 16
"""Addresses taken from one announcement; a host has a handful."""
MAX_TXT_STRINGS: Final = 64
MAX_RECORDS: Final = 128
"""Records read from one packet; the rest is not looked at."""
MAX_NAME: Final = 255
MAX_LABEL: Final = 63
MAX_JUMPS: Final = 16
INSTANCE_RANDOM: Final = 40
"""Random bytes for an instance name: 40 characters of 36, far from any collision."""

TYPE_PTR: Final = 12
TYPE_TXT: Final = 16
CLASS_IN: Final = 1
UNICAST: Final = 0x8000
"""Top bit of a question's class: answer me alone (QU); of a record's class: replaces older ones."""
_HEADER: Final = struct.Struct("!HHHHHH")
_QUESTION_TAIL: Final = struct.Struct("!HH")
_RECORD_TAIL: Final = struct.Struct("!HHIH")
_DNSADDR: Final = b"dnsaddr="
_SEALED: Final = b"pt="
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_SERVICE_LABELS: Final = tuple(label.encode() for label in SERVICE.split("."))


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What one packet says about one instance."""

    instance: str
    addresses: tuple[Multiaddr, ...] = ()
    """Each ends in /p2p/PEERID. Unauthenticated: hints."""
    sealed: bytes | None = None
    """The sealed record, unverified; None when there is none (a peer that is not `pt`)."""
    ttl: int = 0
    """Seconds; 0 means the instance says goodbye."""


def instance_name(random: bytes) -> str:
    """Make an instance name, 32 to 63 of [a-z0-9], from as many random bytes."""
    if not 32 <= len(random) <= MAX_LABEL:
        raise ValueError("an instance name has 32 to 63 characters")
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in random)


def encode_question(transaction: int = 0) -> bytes:
    """Who offers the service? `transaction` (16 bits) comes back in answers to a one-shot query."""
    name = b"".join(bytes((len(label),)) + label for label in _SERVICE_LABELS) + b"\0"
    header = _HEADER.pack(transaction, 0, 1, 0, 0, 0)
    return header + name + _QUESTION_TAIL.pack(TYPE_PTR, CLASS_IN | UNICAST)


def txt_strings(addresses: Iterable[Multiaddr], sealed: bytes | None) -> tuple[bytes, ...]:
    """The TXT strings of an announcement: the record first, then as many addresses as fit.

    Raises:
        LocalProtocolError: the sealed record alone does not fit in a packet.

    """
    strings: list[bytes] = []
    if sealed is not None:
        text = b2a_base64(sealed, newline=False).rstrip(b"=").translate(_TO_URL)
        step = MAX_TXT_STRING - len(_SEALED)
        strings = [_SEALED + text[i : i + step] for i in range(0, len(text), step)]
    size = sum(len(string) + 1 for string in strings)
    if size > MAX_TXT:
        raise LocalProtocolError(f"a sealed record with {size} bytes of text does not fit a packet")
    for address in list(addresses)[:MAX_ADDRESSES]:
        string = _DNSADDR + str(address).encode()
        if len(string) <= MAX_TXT_STRING and size + len(string) + 1 <= MAX_TXT:
            strings.append(string)
            size += len(string) + 1
    return tuple(strings)


def encode_txt(strings: Iterable[bytes]) -> bytes:
    """The data of a TXT record; one empty string when there is none (RFC 6763 section 6.1)."""
    return b"".join(bytes((len(string),)) + string for string in strings) or b"\0"


def split_txt(data: bytes) -> tuple[tuple[Multiaddr, ...], bytes | None]:
    """Read addresses and sealed record from TXT data; strings that mean nothing to us are skipped.

    Raises:
        RemoteProtocolError: the data is cut short, or the record is not base64url.

    """
    addresses: list[Multiaddr] = []
    pieces: list[bytes] = []
    for string in _strings(data):
        if string.startswith(_SEALED):
            pieces.append(string[len(_SEALED) :])
        elif string.startswith(_DNSADDR) and len(addresses) < MAX_ADDRESSES:
            try:
                address = Multiaddr.parse(string[len(_DNSADDR) :].decode("ascii"))
            except (MultiaddrError, UnicodeDecodeError):
                continue  # a protocol we do not know: other addresses may serve
            if address.peer_id_bytes is not None and address not in addresses:
                addresses.append(address)
    return tuple(addresses), _unbase64(b"".join(pieces)) if pieces else None


def decode_answer(packet: bytes) -> tuple[Announcement, ...]:
    """Read what an answer says about instances of the service; empty for anything else.

    Raises:
        RemoteProtocolError: not a DNS message, or a damaged one.

    """
    if len(packet) > MAX_PACKET:
        raise RemoteProtocolError(f"a DNS message of {len(packet)} bytes")
    if len(packet) < _HEADER.size:
        raise RemoteProtocolError("a DNS message that ends in its header")
    _, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(packet)
    if not flags & 0x8000:
        return ()
    position = _HEADER.size
    for _ in range(min(questions, MAX_RECORDS)):
        _, position = _name(packet, position)
        position += _QUESTION_TAIL.size
    texts: dict[str, tuple[bytes, int]] = {}
    gone: set[str] = set()
    for _ in range(min(answers + authorities + additionals, MAX_RECORDS)):
        labels, position = _name(packet, position)
        if position + _RECORD_TAIL.size > len(packet):
            raise RemoteProtocolError("a DNS record that is cut short")
        kind, klass, ttl, length = _RECORD_TAIL.unpack_from(packet, position)
        position += _RECORD_TAIL.size
        if position + length > len(packet):
            raise RemoteProtocolError("a DNS record that is cut short")
        if klass & ~UNICAST == CLASS_IN:
            if kind == TYPE_TXT and (instance := _instance(labels)) is not None:
                texts[instance] = (packet[position : position + length], ttl)
            elif kind == TYPE_PTR and ttl == 0 and _is_service(labels):
                target, _ = _name(packet, position)
                if (instance := _instance(target)) is not None:
                    gone.add(instance)
        position += length
    return tuple(_announcements(texts, gone))


def _announcements(texts: dict[str, tuple[bytes, int]], gone: set[str]) -> Iterator[Announcement]:
    for instance, (data, ttl) in texts.items():
        if instance in gone or ttl == 0:
            gone.add(instance)
            continue
        try:
            addresses, sealed = split_txt(data)
        except RemoteProtocolError:
            continue  # one bad instance must not hide the others of the packet
        if addresses or sealed is not None:
            yield Announcement(instance=instance, addresses=addresses, sealed=sealed, ttl=ttl)
    for instance in gone:
        yield Announcement(instance=instance, ttl=0)


def _strings(data: bytes) -> Iterator[bytes]:
    position = 0
    for _ in range(MAX_TXT_STRINGS):
        if position >= len(data):
            return
        end = position + 1 + data[position]
        if end > len(data):
            raise RemoteProtocolError("a TXT string that is cut short")
        yield data[position + 1 : end]
        position = end


_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_", b"+/")


def _unbase64(text: bytes) -> bytes:
    if b"+" in text or b"/" in text or b"=" in text:
        raise RemoteProtocolError("a sealed record that is not base64url")
    try:
        return a2b_base64(text.translate(_FROM_URL) + b"=" * (-len(text) % 4), strict_mode=True)
    except BinasciiError as error:
        raise RemoteProtocolError("a sealed record that is not base64url") from error


def _name(packet: bytes, position: int) -> tuple[tuple[bytes, ...], int]:
    """Read a possibly compressed name (RFC 1035 section 4.1.4): its labels, the position after.

    A pointer must lead backwards, so that no chain of them can loop.
    """
    labels: list[bytes] = []
    end: int | None = None
    size = jumps = 0
    while True:
        if position >= len(packet):
            raise RemoteProtocolError("a DNS name that is cut short")
        length = packet[position]
        if length == 0:
            return tuple(labels), position + 1 if end is None else end
        if length <= MAX_LABEL:
            label = packet[position + 1 : position + 1 + length]
            size += length + 1
            if len(label) < length or size > MAX_NAME:
                raise RemoteProtocolError("a DNS name that is cut short or too long")
            labels.append(label)
            position += 1 + length
            continue
        if length < 0xC0 or position + 1 >= len(packet):
            raise RemoteProtocolError("a DNS name with a label of unknown form")
        target = (length & 0x3F) << 8 | packet[position + 1]
        jumps += 1
        if target >= position or jumps > MAX_JUMPS:
            raise RemoteProtocolError("a DNS name that loops")
        end = position + 2 if end is None else end
        position = target


def _is_service(labels: tuple[bytes, ...]) -> bool:
    return tuple(label.lower() for label in labels) == _SERVICE_LABELS


def _instance(labels: tuple[bytes, ...]) -> str | None:
    """The first label of INSTANCE._p2p._udp.local, or None for another name."""
    if len(labels) != 1 + len(_SERVICE_LABELS) or not _is_service(labels[1:]):
        return None
    text = labels[0].decode("ascii", "replace")
    return text if text.isascii() and text.isprintable() else None
