"""Base58 with the Bitcoin alphabet, the usual text form of peer ids (libp2p peer-ids spec).

Leading zero bytes become leading `1`s; the rest is one big-endian number in base 58.
"""

from __future__ import annotations

from typing import Final

from pt.errors import UsageError

__all__ = ["ALPHABET", "MAX_TEXT", "Base58Error", "decode", "encode"]

ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
MAX_TEXT: Final = 1024  # the conversion is quadratic; peer ids have 46 to 55 characters

_VALUES: Final = {char: value for value, char in enumerate(ALPHABET)}


class Base58Error(UsageError):
    """The text is not base58."""


def encode(data: bytes) -> str:
    """Write `data` in base58, without a multibase prefix."""
    zeros = len(data) - len(data.lstrip(b"\0"))
    number = int.from_bytes(data, "big")
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(ALPHABET[digit])
    return ALPHABET[0] * zeros + "".join(reversed(digits))


def decode(text: str) -> bytes:
    """Read base58 of at most `MAX_TEXT` characters.

    Raises:
        Base58Error: too long, or a character outside the alphabet.

    """
    if len(text) > MAX_TEXT:
        raise Base58Error(f"base58 text of {len(text)} characters; at most {MAX_TEXT} are read")
    number = 0
    for char in text:
        value = _VALUES.get(char)
        if value is None:
            raise Base58Error(f"{char!r} is not a base58 character")
        number = number * 58 + value
    zeros = len(text) - len(text.lstrip(ALPHABET[0]))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
