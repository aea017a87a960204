"""Running the session's authentication over a stream, both roles, and re-attaching later."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Final

from pt.aio.muxed import MuxedStream
from pt.errors import ClosedError, ConnectError, RefusedError, ResetError
from pt.tunnel.core import messages as wire
from pt.tunnel.core.auth import (
    INITIATOR,
    RESPONDER,
    SessionAuth,
    resume_proof,
    verify_resume_proof,
)

if TYPE_CHECKING:
    from pt.node.connection import Connection

__all__ = [
    "RESET_BUSY",
    "RESET_NOT_ALLOWED",
    "RESET_WRONG_NAME",
    "ask_session",
    "ask_to_attach",
    "attach_message",
    "check_attach_answer",
    "grant_attach",
    "grant_session",
    "session_id",
]

RESET_WRONG_NAME: Final = 0x2001
RESET_NOT_ALLOWED: Final = 0x2002
RESET_BUSY: Final = 0x2003
_READ: Final = 2048
_REASONS: Final = {
    RESET_WRONG_NAME: "the exposer says that this is not its name: use the same --id on both sides",
    RESET_NOT_ALLOWED: "the exposer does not allow this peer: add our peer id with --allow there",
}


def session_id(secret: bytes) -> bytes:
    """The session's 16-byte public number, from its resume secret."""
    return hashlib.sha256(b"/peertunnel/2.0.0 session id" + secret).digest()[:16]


async def _run(stream: MuxedStream, machine: SessionAuth) -> None:
    while True:
        if out := machine.data_to_send():
            await stream.write(out)
        if machine.done:
            break
        data = await stream.read(_READ)
        if not data:
            raise ClosedError("the peer ended the authentication")
        machine.receive_data(data)
    if rest := machine.leftover():
        stream.unread(rest)


async def ask_session(connection: Connection, psk: bytes) -> tuple[MuxedStream, bytes]:
    """The binder's part: prove the name, have it proved; the control stream and the secret.

    Raises:
        RefusedError: the exposer has another name, or does not let this peer in.
        ConnectError: it takes no more attempts from here for now.
        CryptoFailure: the peer does not know the name.
        PtError: the connection broke, or the peer is no `pt`.

    """
    stream = await connection.open_likely(wire.PROTOCOL, limited=True)
    machine = SessionAuth(
        initiator=True,
        psk=psk,
        local=connection.node.peer_id,
        remote=connection.peer_id,
        binding=connection.handshake_hash,
        static=secrets.token_bytes(32),
    )
    try:
        await stream.write(bytes((wire.SESSION_KIND,)))
        await _run(stream, machine)
    except ResetError as error:
        if error.code == RESET_BUSY:  # not for good: whoever can, tries again
            raise ConnectError(
                "the exposer takes no more attempts from this address for now; try again in a "
                "minute"
            ) from error
        if error.code in _REASONS:
            raise RefusedError(_REASONS[error.code]) from error
        raise
    return stream, machine.resume_secret


async def grant_session(stream: MuxedStream, connection: Connection, psk: bytes) -> bytes:
    """The exposer's part; returns the resume secret.

    Raises:
        CryptoFailure: the binder does not know the name.
        PtError: the connection broke.

    """
    machine = SessionAuth(
        initiator=False,
        psk=psk,
        local=connection.node.peer_id,
        remote=connection.peer_id,
        binding=connection.handshake_hash,
        static=secrets.token_bytes(32),
    )
    await _run(stream, machine)
    return machine.resume_secret


async def ask_to_attach(connection: Connection, secret: bytes) -> MuxedStream | None:
    """The binder's part of ATTACH: the control stream, or None if the exposer forgot the session.

    Raises:
        CryptoFailure: the exposer answered yes without proving that the session is its own.
        PtError: the connection broke.

    """
    stream = await connection.open_likely(wire.PROTOCOL, limited=True)
    await stream.write(attach_message(connection, secret))
    answer = await stream.read_exactly(wire.ATTACH_ANSWER.size)
    if not check_attach_answer(connection, secret, answer):
        await stream.reset()
        return None
    return stream


def attach_message(connection: Connection, secret: bytes) -> bytes:
    """ATTACH with the binder's proof."""
    us, them = connection.node.peer_id, connection.peer_id
    binding = connection.handshake_hash
    proof = resume_proof(secret, binding=binding, initiator=us, responder=them, role=INITIATOR)
    return wire.ATTACH.pack(wire.ATTACH_KIND, session_id(secret), proof)


def check_attach_answer(connection: Connection, secret: bytes, answer: bytes) -> bool:
    """Whether the exposer has the session still.

    Raises:
        CryptoFailure: it says so without proving that the session is its own.

    """
    code, proof = wire.ATTACH_ANSWER.unpack(answer)
    if code != wire.Code.OK:
        return False
    us, them = connection.node.peer_id, connection.peer_id
    binding = connection.handshake_hash
    verify_resume_proof(
        proof, secret, binding=binding, initiator=us, responder=them, role=RESPONDER
    )
    return True


def grant_attach(connection: Connection, secret: bytes, proof: bytes) -> bytes:
    """The exposer's part: check the binder's proof; the answer to send.

    Raises:
        CryptoFailure: the session is not the binder's.

    """
    us, them = connection.node.peer_id, connection.peer_id
    binding = connection.handshake_hash
    verify_resume_proof(
        proof, secret, binding=binding, initiator=them, responder=us, role=INITIATOR
    )
    ours = resume_proof(secret, binding=binding, initiator=them, responder=us, role=RESPONDER)
    return wire.ATTACH_ANSWER.pack(wire.Code.OK, ours)
