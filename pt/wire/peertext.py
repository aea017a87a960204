"""Text forms of a peer id (libp2p peer-ids spec, "String representation").

Written: base58btc of the multihash (`12D3…`, `Qm…`). Read: that, or a CID version 1 with the
multicodec `libp2p-key` in any multibase (`bafz…`, `k51…`):
`multibase(uvarint 1 ‖ uvarint 0x72 ‖ multihash)`.
"""

from __future__ import annotations

from typing import Final

from pt.errors import UsageError
from pt.wire import base58, multibase, uvarint
from pt.wire.multihash import Multihash, MultihashError

__all__ = ["PeerTextError", "decode", "encode", "encode_cid"]

_CID_VERSION: Final = 1
_LIBP2P_KEY: Final = 0x72
_CID_PREFIX: Final = bytes((_CID_VERSION, _LIBP2P_KEY))


class PeerTextError(UsageError):
    """The text is not a peer id."""


def decode(text: str) -> bytes:
    """Read either form; return the bytes of the multihash.

    Raises:
        PeerTextError: not a peer id; the message quotes the text's beginning.

    """
    try:
        raw = base58.decode(text) if text.startswith(("1", "Qm")) else _from_cid(text)
        Multihash.decode(raw)
    except (base58.Base58Error, multibase.MultibaseError, MultihashError) as error:
        raise PeerTextError(
            f"{text[:64]!r} is not a peer id ({error}); one looks like 12D3KooW… or Qm…"
        ) from error
    return raw


def encode(raw: bytes) -> str:
    """Write the usual base58 form."""
    return base58.encode(raw)


def encode_cid(raw: bytes, base: str = "b") -> str:
    """Write the CID form with multibase prefix `base`."""
    return multibase.encode(base, _CID_PREFIX + raw)


def _from_cid(text: str) -> bytes:
    data = multibase.decode(text)
    try:
        version, pos = uvarint.decode(data)
        codec, pos = uvarint.decode(data, pos)
    except uvarint.UvarintError as error:
        raise MultihashError("not a CID") from error
    if version != _CID_VERSION or codec != _LIBP2P_KEY:
        raise MultihashError(f"a CID of version {version} and codec {codec:#x}, not a libp2p key")
    return data[pos:]
