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
    ├─ ConnectError            found, but no path opened; .attempts: what was dialed (exit 5)
    ├─ LocalPortError          a local port or target is unusable (exit 6)
    ├─ NetworkError            there is no usable network (exit 7)
    │  ├─ DnsError             .cause: a host name could not be looked up (exit 12)
    │  └─ BlockedError         the network lets nothing through (exit 13)
    ├─ WaitTimeoutError        a wait the user bounded ran out (exit 8)
    └─ IdentityChangedError    the peer is not the pinned one (exit 9)

A message names the cause and, where the user can act, the next step.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import ClassVar, Final, NamedTuple

__all__ = [
    "BlockedError",
    "ClosedError",
    "ConnectError",
    "CryptoFailure",
    "Dial",
    "DialOutcome",
    "DnsCause",
    "DnsError",
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
    "message_of",
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


class DialOutcome(Enum):
    """How far a dial got."""

    ANSWERED = "answered"
    """Somebody answered, whatever came of it."""
    CUT = "cut"
    """The connection opened, and ended before anybody had proved to be there."""
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    """A router on the way, or the local network, says that there is no such host."""
    SILENT = "silent"
    """No answer in time."""
    NO_ROUTE = "no-route"
    """This machine has no way to such an address."""
    FORBIDDEN = "forbidden"
    """This machine does not let us send there."""
    NO_NAME = "no-name"
    """The DNS says that there is no address of this name."""
    NO_DNS = "no-dns"
    """The DNS does not answer."""
    UNKNOWN = "unknown"
    """It was not really tried, or failed for a reason that says nothing about the network."""


class Dial(NamedTuple):
    """One address that was dialed, and how that ended; `party` is who was expected there."""

    address: str
    reason: str
    outcome: DialOutcome = DialOutcome.UNKNOWN
    party: str = ""


class ConnectError(PtError):
    """No address of the peer could be reached; `attempts` says why, for each."""

    exit_code = 5

    def __init__(self, message: str, attempts: Iterable[Dial] = ()) -> None:
        super().__init__(message)
        self.attempts = tuple(attempts)


class LocalPortError(PtError):
    """A local port cannot be listened on, or a local target cannot be reached."""

    exit_code = 6


class NetworkError(PtError):
    """There is no usable network."""

    exit_code = 7


class DnsCause(Enum):
    """Why a name could not be looked up."""

    NO_RESOLVER = "no-resolver"
    """The system names no resolver."""
    UNREACHABLE = "unreachable"
    """No resolver could be sent to: there is no network, or it is blocked."""
    TIMEOUT = "timeout"
    REFUSED = "refused"
    """The resolver does not answer such questions, or not ours."""
    FAILED = "failed"
    """The resolver, or the domain's own servers, failed, or answered nonsense."""
    NO_NAME = "no-name"
    """The name does not exist."""
    NO_RECORD = "no-record"
    """The name exists, and has nothing that was asked for."""

    @property
    def is_answer(self) -> bool:
        """Whether the DNS works, and this is what it says."""
        return self in (DnsCause.NO_NAME, DnsCause.NO_RECORD)


class DnsError(NetworkError):
    """A name could not be looked up; `cause` is the kind of failure."""

    exit_code = 12

    def __init__(self, message: str, cause: DnsCause) -> None:
        super().__init__(message)
        self.cause = cause


class BlockedError(NetworkError):
    """The network is there, and nothing gets through."""

    exit_code = 13


class WaitTimeoutError(PtError):
    """A wait that the user bounded ran out."""

    exit_code = 8


class IdentityChangedError(PtError):
    """The peer's key is not the pinned one."""

    exit_code = 9


def message_of(error: BaseException) -> str:
    """Its message; a TimeoutError of asyncio has none."""
    return str(error) or "no answer in time"
