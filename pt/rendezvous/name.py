"""Names: what users type behind `--id`, and the keys that only a name gives (docs/design.md).

    master      = scrypt(name, salt = "pt/2", N = 2^17, r = 8, p = 1, 32 bytes)          RFC 7914
    membership  = HKDF-SHA256(ikm = master, salt = "pt/2", info = "membership")          RFC 5869
    record_key  = HKDF-SHA256(..., info = "record key")
    record_tag  = HKDF-SHA256(..., info = "record tag", 16 bytes)

One guess of a name costs what the derivation costs: about half a second and 128 MiB. The keys are
independent of each other, and none of them leads back to `master`. `master` is what the cache on
disk holds; it opens everything the name opens.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from dataclasses import dataclass, field
from typing import Final

from pt.errors import LimitError, UsageError

__all__ = [
    "GENERATE_BYTES",
    "MASTER_BYTES",
    "MAX_NAME_BYTES",
    "SALT",
    "NameKeys",
    "Strength",
    "estimate_strength",
    "generate_name",
    "hkdf",
    "normalise_name",
]

MAX_NAME_BYTES: Final = 255
"""Longer names are a mistake (a pasted file), not a name."""
MASTER_BYTES: Final = 32
GENERATE_BYTES: Final = 10
"""Random bytes `generate_name` wants: 80 bits, five groups of 16."""

SALT: Final = b"pt/2"
SCRYPT_N: Final = 1 << 17
SCRYPT_R: Final = 8
SCRYPT_P: Final = 1
SCRYPT_MAXMEM: Final = 128 * SCRYPT_R * (SCRYPT_N + SCRYPT_P + 2) + (1 << 20)
"""What scrypt with these parameters needs (RFC 7914 section 6), and room for OpenSSL's own."""


def normalise_name(text: str) -> str:
    """Check a name and bring it to Unicode NFC, so that it means the same on every keyboard.

    Names are case-sensitive. Nothing is stripped: what does not belong is refused and named.

    Raises:
        UsageError: empty, too long, or with white space, control or invisible characters or `~`.

    """
    if not text:
        raise UsageError("the name is empty: give one with --id NAME")
    if not text.isascii():
        import unicodedata  # noqa: PLC0415  # most names are ASCII and need no tables

        text = unicodedata.normalize("NFC", text)
        for char in text:
            if unicodedata.category(char)[0] in "CZ" and not char.isspace():
                raise UsageError(
                    f"the name holds the invisible character U+{ord(char):04X}: use visible ones"
                )
    for char in text:
        if char.isspace():
            raise UsageError("the name holds white space: use '-' or '.' between words")
        if ord(char) < 0x20 or ord(char) == 0x7F:
            raise UsageError(
                f"the name holds the control character U+{ord(char):04X}: use visible ones"
            )
    if "~" in text:
        raise UsageError(
            "'~' in a name is reserved for NAME~CODE, which this version does not speak: "
            "leave it out"
        )
    size = len(text.encode())
    if size > MAX_NAME_BYTES:
        raise UsageError(f"the name has {size} bytes, more than {MAX_NAME_BYTES}: shorten it")
    return text


def hkdf(ikm: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF with SHA-256 (RFC 5869); `length` is at most 255 * 32 bytes."""
    prk = hmac.digest(salt or bytes(32), ikm, "sha256")
    out, block = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(prk, block + info + bytes((counter,)), "sha256")
        out += block
    return out[:length]


@dataclass(frozen=True, slots=True)
class NameKeys:
    """The keys of one name. Whoever holds them is a member; they never appear in a `repr`."""

    master: bytes = field(repr=False)
    membership: bytes = field(repr=False)
    """32 bytes: the pre-shared key both ends prove to each other."""
    record_key: bytes = field(repr=False)
    """32 bytes: seals rendezvous records."""
    record_tag: bytes = field(repr=False)
    """16 bytes: ties a record's signature to this name; never sent."""

    @classmethod
    def derive(cls, name: str) -> NameKeys:
        """Derive the keys of `name`: about 0.5 s and 128 MiB, without the GIL (use a thread).

        Raises:
            UsageError: not a name, see `normalise_name`.
            LimitError: the machine has not the memory.

        """
        password = normalise_name(name).encode()
        try:
            master = hashlib.scrypt(
                password,
                salt=SALT,
                n=SCRYPT_N,
                r=SCRYPT_R,
                p=SCRYPT_P,
                maxmem=SCRYPT_MAXMEM,
                dklen=MASTER_BYTES,
            )
        except (MemoryError, ValueError) as error:
            raise LimitError(
                "deriving the keys of the name takes 128 MiB of memory, which this machine does "
                "not give: free some, or raise the memory limit of this process"
            ) from error
        return cls.from_master(master)

    @classmethod
    def from_master(cls, master: bytes) -> NameKeys:
        """The keys from the 32 bytes `derive` computed earlier (from the disk cache).

        Raises:
            ValueError: not 32 bytes.

        """
        if len(master) != MASTER_BYTES:
            raise ValueError("a master key has 32 bytes")
        return cls(
            master=master,
            membership=hkdf(master, salt=SALT, info=b"membership", length=32),
            record_key=hkdf(master, salt=SALT, info=b"record key", length=32),
            record_tag=hkdf(master, salt=SALT, info=b"record tag", length=16),
        )


# --- making and judging names ----------------------------------------------------------------

_CONSONANTS: Final = "bdfghjklmnprstvz"
_VOWELS: Final = "aiou"
_GROUP: Final = f"[{_CONSONANTS}][{_VOWELS}][{_CONSONANTS}][{_VOWELS}][{_CONSONANTS}]"


def generate_name(random: bytes) -> str:
    """Make a strong name that can be read out loud, like "lusab-babad-gutih-tugad-bimok".

    Each group carries 16 bits (the proquint alphabet). `random` has at least GENERATE_BYTES
    bytes, an even number.
    """
    if len(random) < GENERATE_BYTES or len(random) % 2:
        raise ValueError(f"an even number of at least {GENERATE_BYTES} random bytes is needed")
    groups = []
    for high, low in zip(random[::2], random[1::2], strict=True):
        word = high << 8 | low
        groups.append(
            _CONSONANTS[word >> 12]
            + _VOWELS[word >> 10 & 3]
            + _CONSONANTS[word >> 6 & 15]
            + _VOWELS[word >> 4 & 3]
            + _CONSONANTS[word & 15]
        )
    return "-".join(groups)


FAIR_BITS: Final = 36
"""2^36 guesses at half a second each are a thousand core-years."""
STRONG_BITS: Final = 60
"""2^60 guesses are out of reach of anyone."""

# Bits of one guess, by kind of token. A word counts as drawn from the ten thousand or so that
# crackers try first, however long it is: length is no secret when the word is in a list.
_COMMON_BITS: Final = 4.0
_SHORT_WORD_BITS: Final = 11.0
_WORD_BITS: Final = 13.0
_YEAR_BITS: Final = 6.0
_SEQUENCE_BITS: Final = 4.0
_COMMON_WORDS: Final = (
    "a abc access admin alice app backup bob box cloud com computer data db demo desktop dev "
    "dns example family file files foo bar ftp git gossip home host http https id lab lan "
    "laptop local localhost mail main my myhome mysql name nas net network node office org "
    "pass password pc peer pg pi postgres printer prod proxy public pt qwerty rdp remote root "
    "router secret server service share smb ssh staging test tcp tmp tunnel user video vnc "
    "vpn web win work www x "
)
_COMMON: Final = frozenset(_COMMON_WORDS.split())
_SEPARATORS: Final = "-._:/@+"
# Patterns are compiled at first use: most runs of `pt` judge no name.
_HEX: Final = r"[0-9a-f]+|[0-9A-F]+"
_LEET: Final = str.maketrans("013457$@", "oleastsa")
_PIECE: Final = r"[A-Za-z]+|[0-9]+|[^A-Za-z0-9]+"
_ODD: Final = r"[^aeiouy]{5}|[aeiouy]{5}|q[^u]|^[^aeiouy]{4,}$"
"""No word of a European language looks like this."""
_RUNS: Final = "abcdefghijklmnopqrstuvwxyz 01234567890 qwertyuiop asdfghjkl zxcvbnm"


@dataclass(frozen=True, slots=True)
class Strength:
    """How hard a name is to guess; `str()` is what users read."""

    label: str
    """`weak`, `fair` or `strong`."""
    bits: int
    """Binary logarithm of the guesses a careful attacker needs; an estimate."""

    def __str__(self) -> str:
        detail = "dictionary-like, " if self.label == "weak" else ""
        return f"{self.label}: {detail}about {self.bits} bits"


def estimate_strength(name: str) -> Strength:
    """Judge how well a name resists guessing; errs on the low side."""
    bits = _bits(name)
    label = "strong" if bits >= STRONG_BITS else "fair" if bits >= FAIR_BITS else "weak"
    return Strength(label, int(bits))


def _bits(name: str) -> float:
    groups = name.split("-")
    if len(groups) >= 4 and all(re.fullmatch(_GROUP, group) for group in groups):
        return 16.0 * len(set(groups))
    tokens = re.findall(_PIECE, name)
    if _looks_random(name, tokens):
        return 4.0 * len(name) if re.fullmatch(_HEX, name) else _brute_force(name)
    plain = name.translate(_LEET)
    if plain != name and not name.isdigit() and len(re.findall(_PIECE, plain)) < len(tokens):
        return min(_sum(tokens, name), _sum(re.findall(_PIECE, plain), plain) + 3.0)
    return _sum(tokens, name)


def _sum(tokens: list[str], name: str) -> float:
    seen: set[str] = set()
    total = 0.0
    for token in tokens:
        if token.lower() not in seen:
            total += _token_bits(token)
        seen.add(token.lower())
    return min(total, _brute_force(name))


def _looks_random(name: str, tokens: list[str]) -> bool:
    """Letters and digits mixed through each other, as no word list has them."""
    core = "".join(token for token in tokens if token.isalnum())
    mixed = sum(1 for token in tokens if token.isalnum())
    return (
        len(core) >= 12
        and len(set(core)) >= 8
        and mixed >= max(4, len(core) / 3)
        and not (name.replace(".", "").replace(":", "").isdigit())
    )


def _token_bits(token: str) -> float:
    lower = token.lower()
    if not token.isalnum():
        return 1.0 if len(token) == 1 and token in _SEPARATORS else 3.0 * len(set(token))
    if len(set(lower)) == 1 or (len(lower) >= 3 and (lower in _RUNS or lower[::-1] in _RUNS)):
        return _SEQUENCE_BITS
    if token.isdigit():
        if len(token) == 4 and token[:2] in ("19", "20"):
            return _YEAR_BITS
        return math.log2(10) * len(token)
    if lower in _COMMON:
        bits = _COMMON_BITS
    elif not token.isascii() or re.search(_ODD, lower) is None:
        bits = _SHORT_WORD_BITS if len(lower) <= 3 else _WORD_BITS
    else:
        bits = math.log2(26) * len(lower)
    plain = token in (lower, lower.upper(), lower.capitalize())
    return min(bits + (0.0 if plain else 4.0), _brute_force(token))


def _brute_force(text: str) -> float:
    """Bits of a string drawn at random from the kinds of characters it shows."""
    alphabet = (
        26 * any(c.islower() for c in text)
        + 26 * any(c.isupper() for c in text)
        + 10 * any(c.isdigit() for c in text)
        + (0 if text.isalnum() else 8)
    )
    return math.log2(max(alphabet, 2)) * min(len(text), 4 * len(set(text)))
