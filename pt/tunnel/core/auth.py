"""Session authentication of `/peertunnel/2.0.0`: both ends prove that they know the name.

Noise_XXpsk3_25519_ChaChaPoly_SHA256 with the name's membership key as psk, over the session's first
stream.  Each message is preceded by its length, 2 bytes big-endian, 1024 at most:

    1  initiator  e
    2  responder  e, ee, s, es
    3  initiator  s, se, psk   with the initiator's hello
    4  responder  the responder's hello, as its first transport message

    prologue = "/peertunnel/2.0.0" ‖ len ‖ initiator's peer id ‖ len ‖ responder's peer id ‖ binding

The lengths are uvarints; `binding` is the connection's own handshake hash.  So a proof holds for
these two peers on this connection only, and a man in the middle cannot pass it on.

Who finds out that the two ends do not belong together:
- other peers or another connection (the prologue): the responder, at message 1;
- another psk, which enters in message 3: the responder, at message 3.  It sends nothing then but a
  reset of the stream, which is all that the initiator learns;
- a responder without the psk: the initiator, at message 4, the first to depend on what only a
  responder with the psk can compute.
A responder sends nothing that depends on the psk before the initiator has proven it: an initiator
can try one name a session and learns nothing to try others on in private.  The reverse is not so:
message 3 lets the responder test guesses offline, against the cost of the name's key derivation.

Source: The Noise Protocol Framework, revision 34, section 9; RFC 5869 (HKDF); RFC 2104 (HMAC).
"""

from __future__ import annotations

import hmac
from typing import Final

from pt.errors import CryptoFailure, LimitError, LocalProtocolError, RemoteProtocolError
from pt.identity.peer_id import PeerId
from pt.noise.handshake import NoiseXX, Suite
from pt.noise.transport import LENGTH_LEN, TAG_LEN, Opener, Sealer
from pt.wire import uvarint

__all__ = [
    "INITIATOR",
    "MAX_HELLO",
    "MAX_MESSAGE",
    "RESPONDER",
    "SessionAuth",
    "resume_proof",
    "verify_resume_proof",
]

MAX_MESSAGE: Final = 1024  # bytes: the largest, with a full hello, has 592
MAX_HELLO: Final = 512  # bytes
MIN_BINDING: Final = 32  # bytes: less would not identify the connection
INITIATOR: Final = b"initiator"
RESPONDER: Final = b"responder"

_LABEL: Final = b"/peertunnel/2.0.0"
_RESUME_LABEL: Final = b"/peertunnel/2.0.0 resume secret"
_PROOF_LABEL: Final = b"/peertunnel/2.0.0 resume proof"


class SessionAuth:
    """One end of the authentication.

    `psk` is the 32-byte membership key, `static` any 32-byte X25519 private key of ours, `binding`
    at least 32 bytes that both ends know of this connection.  `hello` (512 bytes at most) reaches
    the other end as its `remote_hello`, secret and authentic.

    When `done` is set, `data_to_send` may still hold the last message.  `test_ephemeral` is for
    test vectors only.

    Raises:
        LocalProtocolError: a key, the binding or the hello has a wrong length.

    """

    __slots__ = (
        "_broken",
        "_hello",
        "_in",
        "_initiator",
        "_noise",
        "_out",
        "_remote_hello",
        "_resume_secret",
        "_started",
    )

    def __init__(
        self,
        *,
        initiator: bool,
        psk: bytes,
        local: PeerId,
        remote: PeerId,
        binding: bytes,
        static: bytes,
        hello: bytes = b"",
        test_ephemeral: bytes | None = None,
    ) -> None:
        if len(hello) > MAX_HELLO:
            raise LocalProtocolError(f"a hello of {len(hello)} bytes, over {MAX_HELLO}")
        if len(binding) < MIN_BINDING:
            raise LocalProtocolError(f"a binding of {len(binding)} bytes, under {MIN_BINDING}")
        first, second = (local, remote) if initiator else (remote, local)
        self._initiator = initiator
        self._hello = hello
        self._noise = NoiseXX(
            Suite.CHACHAPOLY,
            initiator=initiator,
            static=static,
            prologue=_LABEL + uvarint.prefix(first.raw) + uvarint.prefix(second.raw) + binding,
            psk=psk,
            test_ephemeral=test_ephemeral,
        )
        self._in = bytearray()
        self._out = bytearray()
        self._remote_hello: bytes | None = None
        self._resume_secret: bytes | None = None
        self._started = self._broken = False
        if initiator:
            self._send(self._noise.write_message())

    @property
    def done(self) -> bool:
        """Whether the other end has proven that it knows the psk."""
        return self._remote_hello is not None

    @property
    def remote_hello(self) -> bytes:
        """What the other end said, 0 to 512 bytes.

        Raises:
            LocalProtocolError: not done yet.

        """
        if self._remote_hello is None:
            raise LocalProtocolError("the session is not authenticated yet")
        return self._remote_hello

    @property
    def resume_secret(self) -> bytes:
        """32 bytes that only these two ends know, for `resume_proof` on later connections.

        Raises:
            LocalProtocolError: not done yet.

        """
        if self._resume_secret is None or not self.done:
            raise LocalProtocolError("the session is not authenticated yet")
        return self._resume_secret

    def receive_data(self, data: bytes | memoryview) -> None:
        """Take bytes from the peer, split in any way; surplus bytes are kept for `leftover`.

        Raises:
            CryptoFailure: the other end has another name, is another peer, or is on another
                connection; reset the stream.
            LimitError: a message is longer than 1024 bytes, or the hello than 512.

        """
        if self._broken:
            raise LocalProtocolError("the authentication has failed; reset the stream")
        self._in += data
        try:
            while not self.done and (message := self._next_message()) is not None:
                self._handle(message)
        except (RemoteProtocolError, LimitError):
            self._broken = True
            self._in.clear()
            raise

    def data_to_send(self) -> bytes:
        """The bytes to write now; each is returned once."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def leftover(self) -> bytes:
        """Bytes received after the authentication; each is returned once."""
        if not self.done:
            return b""
        rest = bytes(self._in)
        self._in.clear()
        return rest

    def _next_message(self) -> bytes | None:
        if len(self._in) < LENGTH_LEN:
            return None
        size = int.from_bytes(self._in[:LENGTH_LEN], "big")
        if size > MAX_MESSAGE:
            raise LimitError(f"an authentication message of {size} bytes, over {MAX_MESSAGE}")
        end = LENGTH_LEN + size
        if len(self._in) < end:
            return None
        message = bytes(self._in[LENGTH_LEN:end])
        del self._in[:end]
        return message

    def _handle(self, message: bytes) -> None:
        first = not self._started
        self._started = True
        try:
            if self._initiator:
                self._handle_as_initiator(message)
            else:
                self._handle_as_responder(message)
        except CryptoFailure as error:
            if first:  # before the psk plays a part
                raise CryptoFailure(
                    "the peer's authentication does not belong to this connection; closing"
                ) from error
            raise CryptoFailure(
                "the peer did not prove that it knows the name: use the same --id on both sides"
            ) from error

    def _handle_as_initiator(self, message: bytes) -> None:
        if self._noise.finished:  # message 4
            opener = Opener(Suite.CHACHAPOLY, self._noise.keys()[1])
            self._accept(bytes(opener.open(memoryview(bytearray(message)))))
            return
        self._noise.read_message(message)  # message 2
        self._send(self._noise.write_message(self._hello))
        self._derive()

    def _handle_as_responder(self, message: bytes) -> None:
        hello = self._noise.read_message(message)
        if not self._noise.finished:  # that was message 1
            self._send(self._noise.write_message())
            return
        self._derive()
        self._accept(hello)
        frame = bytearray(LENGTH_LEN + len(self._hello) + TAG_LEN)
        Sealer(Suite.CHACHAPOLY, self._noise.keys()[0]).seal_into(self._hello, memoryview(frame))
        self._out += frame

    def _accept(self, hello: bytes) -> None:
        if len(hello) > MAX_HELLO:
            raise LimitError(f"the peer's hello has {len(hello)} bytes, over {MAX_HELLO}")
        self._remote_hello = hello

    def _derive(self) -> None:
        # The handshake hash alone would do as long as it stays secret; other uses publish it.
        keys = self._noise.keys()
        ordered = keys if self._initiator else keys[::-1]
        extracted = _hmac(self._noise.handshake_hash, b"".join(ordered))
        self._resume_secret = _hmac(extracted, _RESUME_LABEL + b"\x01")  # one block is 32 bytes

    def _send(self, message: bytes) -> None:
        self._out += len(message).to_bytes(LENGTH_LEN, "big") + message


def resume_proof(
    secret: bytes, *, binding: bytes, initiator: PeerId, responder: PeerId, role: bytes
) -> bytes:
    """32 bytes that show knowledge of a session's `resume_secret` on another connection.

    `initiator` and `responder` are the roles on that connection, which `binding` identifies;
    `role` says who proves, `INITIATOR` or `RESPONDER`, so that a proof cannot be sent back.
    """
    parts = (role, initiator.raw, responder.raw, binding)
    return _hmac(secret, _PROOF_LABEL + b"".join(uvarint.prefix(part) for part in parts))


def verify_resume_proof(
    proof: bytes,
    secret: bytes,
    *,
    binding: bytes,
    initiator: PeerId,
    responder: PeerId,
    role: bytes,
) -> None:
    """Check the other end's proof, in constant time; `role` is the other end's.

    Raises:
        CryptoFailure: it is not that.

    """
    wanted = resume_proof(
        secret, binding=binding, initiator=initiator, responder=responder, role=role
    )
    if not hmac.compare_digest(proof, wanted):
        raise CryptoFailure("the peer did not prove that the session to resume is its own")


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")
