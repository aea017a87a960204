"""TLS 1.3 as libp2p uses it inside QUIC: aioquic's, with both sides authenticated.

A server asks for a certificate and refuses who has none; both check it while the handshake still
runs, so that the other side hears why in an alert.  ALPN is `libp2p`; no server name, no session
tickets, no early data.  `Context` is what aioquic's own connection uses; `Handshake` wraps it for
an engine that has packets only.  Exceptions of the library end here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # re-exported from C
from aioquic.tls import (
    AlertDescription,
    CipherSuite,
    Epoch,
    ExtensionType,
    Group,
    SignatureAlgorithm,
    State,
)
from cryptography.hazmat.primitives.hashes import Hash

from pt.errors import CryptoFailure, ProtocolError, RemoteProtocolError
from pt.identity.keys import PublicKey
from pt.quic.certificate import CERTIFICATE_REQUIRED, Certificate, CertificateError, load
from pt.quic.codes import CRYPTO_ERROR, describe

__all__ = [
    "ALPN",
    "Context",
    "Direction",
    "Handshake",
    "HandshakeError",
    "Secret",
    "Suite",
    "derive",
    "packet_keys",
]

ALPN: Final = "libp2p"
CHANNEL_BINDING: Final = b"EXPORTER-Channel-Binding"  # RFC 9266

_BUFFER: Final = 16 * 1024
_TRANSPORT_PARAMETERS: Final = ExtensionType.QUIC_TRANSPORT_PARAMETERS

Direction = tls.Direction
Suite = CipherSuite

Verify = Callable[[Sequence[bytes]], PublicKey]
"""Takes the peer's certificates (DER); raises ProtocolError for one that will not do."""


class HandshakeError(CryptoFailure):
    """TLS failed; `code` is what to close the connection with."""

    def __init__(self, alert: int) -> None:
        code = CRYPTO_ERROR | alert
        super().__init__(f"the TLS handshake failed: {describe(code, application=False)}", code)


class _Refused(tls.Alert):
    """An alert with the description of the certificate's fault."""

    def __init__(self, code: int | None) -> None:
        self.description = AlertDescription((code or CRYPTO_ERROR | 42) & 0xFF)
        super().__init__(self.description.name.replace("_", " "))


class Context(tls.Context):
    """One side of a handshake.  `failure` keeps our own reason, which alerts only hint at."""

    def __init__(
        self, *, is_client: bool, certificate: Certificate, verify: Verify, limit: int
    ) -> None:
        super().__init__(
            is_client=is_client,
            alpn_protocols=[ALPN],
            # The cheapest first; a client's order counts, and Go's servers have their own.
            cipher_suites=[
                CipherSuite.AES_128_GCM_SHA256,
                CipherSuite.CHACHA20_POLY1305_SHA256,
                CipherSuite.AES_256_GCM_SHA384,
            ],
            verify_mode=0,  # ssl.CERT_NONE: chains of authorities have no say here
        )
        self.certificate = certificate.x509
        self.certificate_private_key = certificate.private_key
        self._request_client_certificate = not is_client
        # A share is sent for each; X25519 is what everybody takes, P-256 what TLS demands.
        self._supported_groups = [Group.X25519, Group.SECP256R1]
        self._signature_algorithms = [
            SignatureAlgorithm.ECDSA_SECP256R1_SHA256,
            SignatureAlgorithm.ED25519,
            SignatureAlgorithm.ECDSA_SECP384R1_SHA384,
            SignatureAlgorithm.RSA_PSS_RSAE_SHA256,
            SignatureAlgorithm.RSA_PSS_RSAE_SHA384,
            SignatureAlgorithm.RSA_PKCS1_SHA256,  # in certificates alone
            SignatureAlgorithm.RSA_PKCS1_SHA384,
        ]
        self.failure: ProtocolError | None = None
        self.identity: PublicKey | None = None
        self.binding = b""
        self._verify = verify
        self._left = limit

    def handle_message(self, input_data: bytes, output_buf: dict[Epoch, Buffer]) -> None:
        """Take handshake bytes; raises `tls.Alert`."""
        self._left -= len(input_data)
        if self._left < 0:
            self.failure = RemoteProtocolError("the peer's handshake does not end")
            raise tls.AlertDecodeError("too much handshake data")
        try:
            super().handle_message(input_data, output_buf)
        except (AssertionError, ValueError, IndexError) as error:
            # Where the library's parser forgot something that a peer can send.
            raise tls.AlertDecodeError("malformed handshake message") from error

    @property
    def done(self) -> bool:
        """Whether both sides have finished, and the peer is known."""
        return self.identity is not None and self.state in (
            State.CLIENT_POST_HANDSHAKE,
            State.SERVER_POST_HANDSHAKE,
        )

    def export(self) -> None:
        """Derive `binding`; to be called when the first 1-RTT key is there, on both sides.

        That is when the transcript ends with the server's Finished (RFC 8446, section 7.5).
        """
        schedule = self.key_schedule
        if self.binding or schedule is None:
            return
        master = schedule.derive_secret(b"exp master")
        empty = Hash(schedule.algorithm).finalize()
        size = schedule.algorithm.digest_size
        secret = tls.hkdf_expand_label(schedule.algorithm, master, CHANNEL_BINDING, empty, size)
        self.binding = tls.hkdf_expand_label(schedule.algorithm, secret, b"exporter", empty, 32)

    def _set_peer_certificate(self, certificate: tls.Certificate) -> None:
        chain = [der for der, _ in certificate.certificates]
        try:
            self.identity = self._verify(chain)
            self._peer_certificate = load(chain[0])
        except ProtocolError as error:
            self.identity = None
            self.failure = error
            raise _Refused(error.code) from error

    def _server_handle_certificate(self, input_buf: Buffer) -> None:
        super()._server_handle_certificate(input_buf)
        if self.identity is None:
            self.failure = CertificateError("the peer sent no certificate", CERTIFICATE_REQUIRED)
            raise _Refused(self.failure.code)


class Secret(NamedTuple):
    """A traffic secret for packets of `epoch` (0 Initial, 2 Handshake, 3 1-RTT)."""

    direction: tls.Direction
    epoch: int
    suite: CipherSuite
    secret: bytes


_EPOCH_OF: Final = {
    State.CLIENT_EXPECT_SERVER_HELLO: Epoch.INITIAL,
    State.SERVER_EXPECT_CLIENT_HELLO: Epoch.INITIAL,
    State.CLIENT_POST_HANDSHAKE: Epoch.ONE_RTT,
    State.SERVER_POST_HANDSHAKE: Epoch.ONE_RTT,
}


class Handshake:
    """A handshake for an engine that moves CRYPTO bytes: what comes in, what goes out, keys.

    `parameters` are our encoded transport parameters.  After each call take `secrets` and `output`
    (epoch, bytes): both are the engine's to clear.
    """

    def __init__(
        self,
        *,
        is_client: bool,
        certificate: Certificate,
        verify: Verify,
        parameters: bytes,
        limit: int,
    ) -> None:
        self.secrets: list[Secret] = []
        self.output: list[tuple[int, bytes]] = []
        self.peer_parameters: bytes | None = None
        self._context = Context(
            is_client=is_client, certificate=certificate, verify=verify, limit=limit
        )
        self._context.handshake_extensions = [(_TRANSPORT_PARAMETERS, parameters)]
        self._context.alpn_cb = self._negotiated
        self._context.update_traffic_key_cb = self._key

    @property
    def done(self) -> bool:
        """Whether both sides have finished."""
        return self._context.done

    @property
    def identity(self) -> PublicKey | None:
        """The peer's, once its certificate has come; proved when `done`."""
        return self._context.identity

    @property
    def binding(self) -> bytes:
        """The channel binding, once `done`."""
        return self._context.binding

    def start(self) -> None:
        """Make the client's first message."""
        self._run(b"")

    def receive(self, epoch: int, data: bytes) -> None:
        """Take the bytes that follow in the CRYPTO stream of `epoch`.

        Raises:
            ProtocolError: the handshake failed; close with its `code`.

        """
        expected = _EPOCH_OF.get(self._context.state, Epoch.HANDSHAKE)
        if epoch != expected.value:  # a message under weaker keys than its own
            raise HandshakeError(AlertDescription.unexpected_message)
        self._run(data)

    def _run(self, data: bytes) -> None:
        buffers = {
            epoch: Buffer(capacity=_BUFFER)
            for epoch in (Epoch.INITIAL, Epoch.HANDSHAKE, Epoch.ONE_RTT)
        }
        try:
            self._context.handle_message(data, buffers)
        except tls.Alert as alert:
            raise self._context.failure or HandshakeError(alert.description) from alert
        self.output += [(epoch.value, buf.data) for epoch, buf in buffers.items() if buf.tell()]

    def _negotiated(self, protocol: str | None) -> None:
        if self._context.legacy_session_id:  # RFC 9001, section 8.4
            raise tls.AlertIllegalParameter("a session id in QUIC")
        for kind, data in self._context.received_extensions or ():
            if kind == _TRANSPORT_PARAMETERS:
                self.peer_parameters = data
                return
        raise tls.AlertMissingExtension("no transport parameters")

    def _key(
        self, direction: tls.Direction, epoch: Epoch, suite: CipherSuite, secret: bytes
    ) -> None:
        if epoch is Epoch.ONE_RTT:
            self._context.export()
        self.secrets.append(Secret(direction, epoch.value, suite, secret))


def derive(suite: CipherSuite, secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label with the suite's hash and an empty context."""
    return tls.hkdf_expand_label(tls.cipher_suite_hash(suite), secret, label, b"", size)


def packet_keys(suite: CipherSuite, secret: bytes) -> tuple[bytes, bytes, bytes]:
    """(key, IV, header protection key) of packets under `secret` (RFC 9001, section 5.1)."""
    size = 16 if suite is CipherSuite.AES_128_GCM_SHA256 else 32
    return (
        derive(suite, secret, b"quic key", size),
        derive(suite, secret, b"quic iv", 12),
        derive(suite, secret, b"quic hp", size),
    )
