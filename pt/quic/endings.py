"""What the end of a connection means: for people, and for whoever dialed."""

from __future__ import annotations

from pt.errors import ClosedError, RemoteProtocolError
from pt.quic.codes import describe
from pt.quic.events import Closed

__all__ = ["error_of", "reason_of"]


def reason_of(event: Closed) -> str:
    """Why a connection ended, for people."""
    if event.error is not None:
        return str(event.error)
    what = describe(event.code, application=event.application) if event.code else ""
    text = ": ".join(part for part in (event.reason, what) if part)
    if event.by_peer:
        return f"the peer closed the connection{f' ({text})' if text else ''}"
    return text or "no sign of life"


def error_of(event: Closed) -> Exception:
    """What a dial that ended so raises."""
    if event.error is not None:
        return event.error
    if not event.by_peer and not event.code:
        return TimeoutError(event.reason)
    if event.by_peer:
        return ClosedError(reason_of(event))
    return RemoteProtocolError(reason_of(event), event.code)
