"""The multiaddr protocols `pt` understands (multiformats/multiaddr): code, width, text form.

On the wire a component is uvarint(code) followed by the value: nothing, a fixed number of bytes, or
uvarint(length) and that many bytes. A code that is not in this table makes an address unreadable,
because its width is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from pt.errors import PtError
from pt.wire import multibase, peertext
from pt.wire.multihash import Multihash

__all__ = ["BY_CODE", "BY_NAME", "MAX_VALUE", "VARIABLE", "Protocol", "ValueFormatError"]

VARIABLE: Final = -1
MAX_VALUE: Final = 255  # bytes of one value; a DNS name has at most 255


class ValueFormatError(PtError):
    """A component's value does not fit its protocol; always translated by `pt.wire.multiaddr`."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """One kind of component; `size` is the value's width in bytes, 0 for none, or `VARIABLE`.

    `is_path` says that the text value extends to the end of the address, slashes included.
    """

    name: str
    code: int
    size: int
    to_text: Callable[[bytes], str]
    to_bytes: Callable[[str], bytes]
    is_path: bool = False


def _uint(size: int) -> tuple[Callable[[bytes], str], Callable[[str], bytes]]:
    limit = 1 << 8 * size

    def to_text(raw: bytes) -> str:
        return str(int.from_bytes(raw, "big"))

    def to_bytes(text: str) -> bytes:
        if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) >= limit:
            raise ValueFormatError(f"{text[:64]!r} is not a number from 0 to {limit - 1}")
        return int(text).to_bytes(size, "big")

    return to_text, to_bytes


def _ip4_bytes(text: str) -> bytes:
    try:
        return IPv4Address(text).packed
    except AddressValueError:
        raise ValueFormatError(f"{text[:64]!r} is not an IPv4 address") from None


def _ip6_bytes(text: str) -> bytes:
    try:
        address = IPv6Address(text)
    except AddressValueError:
        raise ValueFormatError(f"{text[:64]!r} is not an IPv6 address") from None
    if address.scope_id is not None:
        raise ValueFormatError(f"the zone of {text[:64]!r} goes before it, as /ip6zone/ZONE")
    return address.packed


def _label_text(raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ValueFormatError("a text value is not UTF-8") from None
    return _checked_label(text)


def _label_bytes(text: str) -> bytes:
    return _checked_label(text).encode()


def _checked_label(text: str) -> str:
    # Printable only: these strings reach terminals and logs, and peers choose them.
    if not text or "/" in text or " " in text or not text.isprintable():
        raise ValueFormatError(f"{text[:64]!r} is not a name")
    return text


def _peer_text(raw: bytes) -> str:
    Multihash.decode(raw)
    return peertext.encode(raw)


def _certhash_text(raw: bytes) -> str:
    Multihash.decode(raw)
    return multibase.encode("u", raw)


def _certhash_bytes(text: str) -> bytes:
    raw = multibase.decode(text)
    Multihash.decode(raw)
    return raw


def _path_text(raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ValueFormatError("a path is not UTF-8") from None
    if not text.startswith("/") or text.endswith("/") or not text.isprintable():
        raise ValueFormatError(f"{text[:64]!r} is not an absolute path")
    return text


def _path_bytes(text: str) -> bytes:
    return _path_text(text.encode()).encode()


def _no_text(_raw: bytes) -> str:
    return ""


def _no_bytes(_text: str) -> bytes:
    return b""


_LABEL: Final = (_label_text, _label_bytes)
_NONE: Final = (_no_text, _no_bytes)

_TABLE: Final = (
    Protocol("ip4", 4, 4, lambda raw: str(IPv4Address(raw)), _ip4_bytes),
    Protocol("tcp", 6, 2, *_uint(2)),
    Protocol("ip6", 41, 16, lambda raw: str(IPv6Address(raw)), _ip6_bytes),
    Protocol("ip6zone", 42, VARIABLE, *_LABEL),
    Protocol("dns", 53, VARIABLE, *_LABEL),
    Protocol("dns4", 54, VARIABLE, *_LABEL),
    Protocol("dns6", 55, VARIABLE, *_LABEL),
    Protocol("dnsaddr", 56, VARIABLE, *_LABEL),
    Protocol("udp", 273, 2, *_uint(2)),
    Protocol("webrtc-direct", 280, 0, *_NONE),
    Protocol("webrtc", 281, 0, *_NONE),
    Protocol("p2p-circuit", 290, 0, *_NONE),
    Protocol("unix", 400, VARIABLE, _path_text, _path_bytes, is_path=True),
    Protocol("p2p", 421, VARIABLE, _peer_text, peertext.decode),
    Protocol("https", 443, 0, *_NONE),
    Protocol("tls", 448, 0, *_NONE),
    Protocol("sni", 449, VARIABLE, *_LABEL),
    Protocol("noise", 454, 0, *_NONE),
    Protocol("quic", 460, 0, *_NONE),
    Protocol("quic-v1", 461, 0, *_NONE),
    Protocol("webtransport", 465, 0, *_NONE),
    Protocol("certhash", 466, VARIABLE, _certhash_text, _certhash_bytes),
    Protocol("ws", 477, 0, *_NONE),
    Protocol("wss", 478, 0, *_NONE),
    Protocol("http", 480, 0, *_NONE),
    Protocol("memory", 777, 8, *_uint(8)),
)
BY_CODE: Final = {protocol.code: protocol for protocol in _TABLE}
BY_NAME: Final = {protocol.name: protocol for protocol in _TABLE} | {"ipfs": BY_CODE[421]}
