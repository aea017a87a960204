"""The Noise XX handshake: the one adapter around `noiseprotocol`.

The library runs the handshake only.  Transport messages go through `pt.noise.transport` with the
keys it yields, because its own ciphers copy every message and accept plaintexts that are too long.
It and `cryptography` are imported on first use: start-up pays for neither.

Source: The Noise Protocol Framework, revision 34, sections 5.3 (HandshakeState) and 9 (psk).
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from pt.errors import CryptoFailure, LocalProtocolError

if TYPE_CHECKING:
    from noise.backends.default.keypairs import KeyPair25519
    from noise.connection import NoiseConnection

__all__ = ["MAX_MESSAGE", "NoiseXX", "Suite", "preload", "public_key"]

MAX_MESSAGE: Final = 65535  # bytes, tag included: Noise section 3
KEY_LEN: Final = 32


class Suite(Enum):
    """The cipher suites we speak; the value is the Noise protocol name."""

    CHACHAPOLY = "Noise_XX_25519_ChaChaPoly_SHA256"
    AESGCM = "Noise_XX_25519_AESGCM_SHA256"


def public_key(private: bytes) -> bytes:
    """The 32-byte X25519 public key of a 32-byte private key."""
    _require_key(private, "static private key")
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey  # noqa: PLC0415  # start-up cost

    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def preload() -> None:
    """Import the library now (some 25 ms of CPU), if there is idle time before a handshake."""
    import noise.connection  # noqa: F401, PLC0415  # the purpose


class NoiseXX:
    """One XX handshake: e / e, ee, s, es / s, se; with a psk it is XXpsk3.

    `static` is the 32-byte X25519 private key; `psk`, when given, is 32 bytes.  Messages must be
    written and read in turn, the initiator first.  After any exception the object is unusable.

    `test_ephemeral` replaces the random ephemeral private key.  Vectors need it; using it twice
    gives the session keys away.

    Raises:
        LocalProtocolError: a key or psk is not 32 bytes long.

    """

    __slots__ = (
        "_broken",
        "_connection",
        "_finished",
        "_hash",
        "_keys",
        "_my_turn",
        "_state",
    )

    def __init__(
        self,
        suite: Suite,
        *,
        initiator: bool,
        static: bytes,
        prologue: bytes = b"",
        psk: bytes | None = None,
        test_ephemeral: bytes | None = None,
    ) -> None:
        from noise.connection import NoiseConnection  # noqa: PLC0415  # start-up cost

        _require_key(static, "static private key")
        name = suite.value
        if psk is not None:
            _require_key(psk, "pre-shared key")
            name = name.replace("_XX_", "_XXpsk3_")
        connection = NoiseConnection.from_name(name.encode())
        if psk is not None:
            connection.set_psks(psk=psk)
        if initiator:
            connection.set_as_initiator()
        else:
            connection.set_as_responder()
        connection.set_prologue(prologue)
        connection.noise_protocol.keypairs["s"] = _key_pair(static)
        connection.start_handshake()
        # The library forgets its handshake state when it ends, and with it the remote static key.
        self._state = connection.noise_protocol.handshake_state
        if test_ephemeral is not None:
            # Set here, not through the library's setter, which warns about it.
            self._state.e = _key_pair(test_ephemeral)
        self._connection: NoiseConnection = connection
        self._my_turn = initiator
        self._finished = self._broken = False
        self._keys: tuple[bytes, bytes] | None = None
        self._hash = b""

    @property
    def finished(self) -> bool:
        """Whether all three messages have been processed."""
        return self._finished

    @property
    def local_static(self) -> bytes:
        """Our 32-byte X25519 public key."""
        public: bytes = self._state.s.public_bytes
        return public

    @property
    def remote_static(self) -> bytes:
        """The peer's 32-byte X25519 public key; authentic only once a message with it was read.

        Raises:
            LocalProtocolError: it has not arrived yet.

        """
        remote: bytes | None = getattr(self._state.rs, "public_bytes", None)
        if self._broken or remote is None:
            raise LocalProtocolError("the peer's static key has not been received yet")
        return remote

    @property
    def handshake_hash(self) -> bytes:
        """32 bytes that both sides share and that bind to this very handshake."""
        self._require_finished()
        return self._hash

    def keys(self) -> tuple[bytes, bytes]:
        """(send key, receive key), 32 bytes each."""
        self._require_finished()
        assert self._keys is not None
        return self._keys

    def write_message(self, payload: bytes = b"") -> bytes:
        """Our next handshake message, with `payload` in it.

        Raises:
            LocalProtocolError: it is not our turn, or the payload is too long.
            CryptoFailure: the peer's key of the previous message is unusable.

        """
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # start-up cost

        self._require_turn(mine=True)
        try:
            message = bytes(self._connection.write_message(payload))
        except (ValueError, InvalidTag) as error:
            raise self._failed() from error
        if len(message) > MAX_MESSAGE:
            self._broken = True
            raise LocalProtocolError(
                f"a handshake message of {len(message)} bytes exceeds Noise's {MAX_MESSAGE}"
            )
        self._advance()
        return message

    def read_message(self, message: bytes) -> bytes:
        """The payload of the peer's next handshake message.

        Raises:
            LocalProtocolError: it is our turn to write.
            CryptoFailure: the message is malformed or does not authenticate.

        """
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # start-up cost
        from noise.exceptions import NoiseValueError  # noqa: PLC0415  # start-up cost

        self._require_turn(mine=False)
        if len(message) > MAX_MESSAGE:
            raise self._failed()
        try:
            payload = bytes(self._connection.read_message(message))
        except (ValueError, InvalidTag, NoiseValueError) as error:
            raise self._failed() from error
        self._advance()
        return payload

    def _advance(self) -> None:
        self._my_turn = not self._my_turn
        if not self._connection.handshake_finished:
            return
        protocol = self._connection.noise_protocol
        self._keys = (
            bytes(protocol.cipher_state_encrypt.k),
            bytes(protocol.cipher_state_decrypt.k),
        )
        self._hash = bytes(self._connection.get_handshake_hash())
        self._finished = True

    def _failed(self) -> CryptoFailure:
        self._broken = True
        return CryptoFailure("the Noise handshake did not authenticate")

    def _require_turn(self, *, mine: bool) -> None:
        if self._broken:
            raise LocalProtocolError("the handshake has failed; close the connection")
        if self._finished:
            raise LocalProtocolError("the handshake is over; use the transport keys")
        if self._my_turn is not mine:
            raise LocalProtocolError("handshake messages must alternate, the initiator first")

    def _require_finished(self) -> None:
        if not self._finished:
            raise LocalProtocolError("the handshake is not over yet")


@lru_cache(maxsize=2)  # a process uses one static key for all its connections
def _key_pair(private: bytes) -> KeyPair25519:
    from noise.backends.default.keypairs import KeyPair25519  # noqa: PLC0415  # start-up cost

    return KeyPair25519.from_private_bytes(private)


def _require_key(key: bytes, what: str) -> None:
    if len(key) != KEY_LEN:
        raise LocalProtocolError(f"the {what} must be {KEY_LEN} bytes, not {len(key)}")
