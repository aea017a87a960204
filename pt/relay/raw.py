"""Our additions to circuit relay v2: raw circuits and proofs of the operator's secret.

A raw circuit is a pair of TCP connections to the relay. Each end names its circuit in a preface of
40 bytes, `00 "pt-raw" 01` and a token; from the 41st byte on the connection is the circuit.

On an AUTH stream a client sends `version (1 byte, 1) · proof (32 bytes)`, with

    key   = HMAC-SHA256(b"/peertunnel/relay/1.0.0 secret", secret)
    proof = HMAC-SHA256(key, b"/peertunnel/relay/1.0.0 user"
                             · prefixed(client) · prefixed(relay) · prefixed(binding))

where the secret's text is stripped of white space at its ends, in NFC and UTF-8, ids are peer ids
in bytes, binding is the hash of the connection's handshake, and prefixed means preceded by the
length as a uvarint. A proof of zeros says that there is no secret. The relay answers one byte of
`AuthAnswer`, and may send bytes of `Notice` as long as the stream is open.

Source: docs/design.md, "Relays".
"""

from __future__ import annotations

import hmac
import unicodedata
from enum import IntEnum
from typing import Final

from pt.errors import LocalProtocolError, RemoteProtocolError, UsageError
from pt.identity.peer_id import PeerId
from pt.wire import uvarint

__all__ = [
    "AUTH_VERSION",
    "MIN_SECRET",
    "NO_PROOF",
    "PREFACE",
    "PREFACE_LEN",
    "PROOF_LEN",
    "TOKEN_LEN",
    "AuthAnswer",
    "Notice",
    "PrefaceError",
    "PrefaceReader",
    "preface",
    "proof",
    "secret_key",
    "verify_proof",
]

PREFACE: Final = b"\x00pt-raw\x01"
TOKEN_LEN: Final = 32
PREFACE_LEN: Final = len(PREFACE) + TOKEN_LEN
MIN_SECRET: Final = 16
"""Characters a secret has at least: who poses as the relay can test guesses at leisure."""
PROOF_LEN: Final = 32
AUTH_VERSION: Final = 1
NO_PROOF: Final = bytes(PROOF_LEN)

_KEY_LABEL: Final = b"/peertunnel/relay/1.0.0 secret"
_PROOF_LABEL: Final = b"/peertunnel/relay/1.0.0 user"


class AuthAnswer(IntEnum):
    """What the relay takes the client for."""

    USER = 0
    STRANGER = 1
    """The proof is wrong or missing."""
    NOTHING = 2
    """As STRANGER, and strangers get nothing here."""


class Notice(IntEnum):
    """What the relay may say later on an AUTH stream."""

    DRAINING = 0x10
    """It is about to stop: reserve elsewhere now."""


class PrefaceError(RemoteProtocolError):
    """The connection does not begin with the preface of a raw circuit."""


def preface(token: bytes) -> bytes:
    """What the leg of a raw circuit begins with.

    Raises:
        LocalProtocolError: the token does not have 32 bytes.

    """
    if len(token) != TOKEN_LEN:
        raise LocalProtocolError(f"a raw circuit's token has {TOKEN_LEN} bytes, not {len(token)}")
    return PREFACE + token


class PrefaceReader:
    """Collects the preface, at most 40 bytes: read no more than `missing`, the rest is not ours."""

    __slots__ = ("_in",)

    def __init__(self) -> None:
        self._in = bytearray()

    @property
    def missing(self) -> int:
        """How many bytes are still to come; 0 once it is complete."""
        return PREFACE_LEN - len(self._in)

    def receive_data(self, data: bytes | memoryview) -> bytes | None:
        """Take up to `missing` bytes; the token once it is complete.

        Raises:
            PrefaceError: a byte differs, known as soon as it is there.
            LocalProtocolError: more than `missing` bytes.

        """
        if len(data) > self.missing:
            raise LocalProtocolError("more than a preface was read")
        self._in += data
        head = bytes(self._in[: len(PREFACE)])
        if head != PREFACE[: len(head)]:
            raise PrefaceError("the connection does not begin as a raw circuit does")
        return None if self.missing else bytes(self._in[len(PREFACE) :])


def secret_key(text: str) -> bytes:
    """The key that the operator's secret stands for.

    Raises:
        UsageError: the secret has fewer than 16 characters, or is not text.

    """
    secret = unicodedata.normalize("NFC", text).strip()
    if len(secret) < MIN_SECRET:
        raise UsageError(
            f"a relay secret has at least {MIN_SECRET} characters, this one has {len(secret)}: "
            "take random ones, such as 24 random bytes in base64"
        )
    try:
        return hmac.digest(_KEY_LABEL, secret.encode(), "sha256")
    except UnicodeEncodeError as error:
        raise UsageError("a relay secret is text in UTF-8: this one is not") from error


def proof(key: bytes, *, client: PeerId, relay: PeerId, binding: bytes) -> bytes:
    """Show that `client` knows the secret, on the connection whose handshake hash is `binding`."""
    parts = (client.raw, relay.raw, binding)
    said = _PROOF_LABEL + b"".join(uvarint.prefix(part) for part in parts)
    return hmac.digest(key, said, "sha256")


def verify_proof(
    given: bytes, key: bytes, *, client: PeerId, relay: PeerId, binding: bytes
) -> bool:
    """Whether `given` is the proof of `key`; takes the same time for every wrong one."""
    right = proof(key, client=client, relay=relay, binding=binding)
    return hmac.compare_digest(right, given)
