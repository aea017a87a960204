"""Multibase (multiformats/multibase): text whose first character names its base.

Only the bases that libp2p identifiers are met in: `f` base16, `b` base32 (RFC 4648, lower case, no
padding), `k` base36, `z` base58btc, `u` base64url (no padding).
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from pt.errors import UsageError
from pt.wire import base58

__all__ = ["MAX_TEXT", "MultibaseError", "decode", "encode"]

MAX_TEXT: Final = 1024  # as for base58: some conversions are quadratic

_BASE36: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


class MultibaseError(UsageError):
    """The text is not multibase, or of a base that is not read here."""


def decode(text: str) -> bytes:
    """Read `text`, in any of the five bases; upper and lower case as each base allows.

    Raises:
        MultibaseError: too long, an unknown base, or a character outside it.

    """
    if not 1 <= len(text) <= MAX_TEXT:
        raise MultibaseError(f"multibase text has 1 to {MAX_TEXT} characters, not {len(text)}")
    base, body = text[0], text[1:]
    try:
        match base:
            case "f" | "F":
                return base64.b16decode(body, casefold=True)
            case "b" | "B":
                return _base32(body)
            case "k" | "K":
                return _base36(body)
            case "z":
                return base58.decode(body)
            case "u":
                return _base64url(body)
            case _:
                pass
    except ValueError as error:
        raise MultibaseError(f"bad character or length in multibase text {base!r}") from error
    except base58.Base58Error as error:
        raise MultibaseError(f"bad multibase text: {error}") from error
    raise MultibaseError(f"multibase prefix {base!r} is not one of f, b, k, z, u")


def encode(base: str, data: bytes) -> str:
    """Write `data` with the base that the prefix character `base` names.

    Raises:
        MultibaseError: an unknown base.

    """
    match base:
        case "f":
            return "f" + data.hex()
        case "b":
            return "b" + base64.b32encode(data).decode().rstrip("=").lower()
        case "k":
            return "k" + _to_base36(data)
        case "z":
            return "z" + base58.encode(data)
        case "u":
            return "u" + base64.urlsafe_b64encode(data).decode().rstrip("=")
        case _:
            raise MultibaseError(f"multibase prefix {base!r} is not one of f, b, k, z, u")


def _base32(body: str) -> bytes:
    data = base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    if base64.b32encode(data).decode().rstrip("=") != body.upper():
        raise binascii.Error("spare bits are set")
    return data


def _base64url(body: str) -> bytes:
    data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    if base64.urlsafe_b64encode(data).decode().rstrip("=") != body:
        raise binascii.Error("spare bits are set")
    return data


def _base36(body: str) -> bytes:
    lower = body.lower()
    if lower.strip(_BASE36):
        raise binascii.Error("not base36")
    number = int(lower, 36) if lower else 0
    zeros = len(lower) - len(lower.lstrip("0"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _to_base36(data: bytes) -> str:
    zeros = len(data) - len(data.lstrip(b"\0"))
    number = int.from_bytes(data, "big")
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 36)
        digits.append(_BASE36[digit])
    return "0" * zeros + "".join(reversed(digits))
