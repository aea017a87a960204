"""Every exception `pt` raises on purpose, in one tree.

    PtError
    ├─ UsageError              bad input from the user (exit 2)
    ├─ StateError              the state directory cannot be read or written (exit 11)
    ├─ ProtocolError           .code: what we tell the peer, or None
    │  ├─ LocalProtocolError   we broke a rule: a bug in the caller
    │  └─ RemoteProtocolError  the peer broke a rule: close (exit 5)
    │     └─ CryptoFailure     authentication failed; the message never says why (exit 4)
    ├─ ClosedError             the stream or connection has ended (exit 5)
    │  └─ ResetError           it ended abruptly, data may be lost
    ├─ LimitError              a bound was reached, ours or theirs
    │  └─ LimitedError         not on a connection that its relay limits (exit 5)
    ├─ NotFoundError           the name was not found in time (exit 3)
    ├─ RefusedError            the other side refuses us (exit 4)
    ├─ ConnectError            found, but no path opened; .attempts (exit 5)
    ├─ LocalPortError          a local port or target is unusable (exit 6)
    ├─ NetworkError            there is no usable network (exit 7)
    ├─ WaitTimeoutError        a wait the user bounded ran out (exit 8)
    └─ IdentityChangedError    the peer is not the pinned one (exit 9)

A message names the cause and, where the user can act, the next step.
"""

from __future__ import annotations

from typing import ClassVar, Final

__all__ = [
    "ClosedError",
    "ConnectError",
    "CryptoFailure",
    "IdentityChangedError",
    "LimitError",
    "LimitedError",
    "LocalPortError",
    "LocalProtocolError",
    "NetworkError",
    "NotFoundError",
    "ProtocolError",
    "PtError",
    "RefusedError",
    "RemoteProtocolError",
    "ResetError",
    "StateError",
    "UsageError",
    "WaitTimeoutError",
]

EXIT_INTERNAL: Final = 1


class PtError(Exception):
    """Root of all errors; `exit_code` is what a command ends with."""

    exit_code: ClassVar[int] = EXIT_INTERNAL


class UsageError(PtError):
    """The user's input is wrong."""

    exit_code = 2


class StateError(PtError):
    """The state directory is unusable: unwritable, full, or a damaged file."""

    exit_code = 11


class ProtocolError(PtError):
    """A protocol rule was broken; `code` is the wire code to send, if there is one."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class LocalProtocolError(ProtocolError):
    """Our side broke a rule: a bug in the calling code."""


class RemoteProtocolError(ProtocolError):
    """The peer broke a rule."""

    exit_code = 5


class CryptoFailure(RemoteProtocolError):  # noqa: N818  # the field's word
    """A signature, MAC or handshake did not verify."""

    exit_code = 4


class ClosedError(PtError):
    """The stream or connection has ended."""

    exit_code = 5


class ResetError(ClosedError):
    """The stream or connection ended abruptly; `code` is the peer's reason, 0 when it gave none."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class LimitError(PtError):
    """A bound was reached."""


class LimitedError(LimitError):
    """The connection runs over a relay that limits it; what was asked needs a better one."""

    exit_code = 5


class NotFoundError(PtError):
    """Nobody was found under the name in time."""

    exit_code = 3


class RefusedError(PtError):
    """The other side does not let us in."""

    exit_code = 4


class ConnectError(PtError):
    """No address of the peer could be reached; `attempts` holds (address, reason)."""

    exit_code = 5

    def __init__(self, message: str, attempts: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.attempts = attempts


class LocalPortError(PtError):
    """A local port cannot be listened on, or a local target cannot be reached."""

    exit_code = 6


class NetworkError(PtError):
    """There is no usable network."""

    exit_code = 7


class WaitTimeoutError(PtError):
    """A wait that the user bounded ran out."""

    exit_code = 8


class IdentityChangedError(PtError):
    """The peer's key is not the pinned one."""

    exit_code = 9
