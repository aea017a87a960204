"""State and credit of one yamux stream.  Source: libp2p specs `yamux/README.md`, "Flow Control".

A stream has one handler, called from within `Session.receive`.  The hot calls exchange buffers:
`data_received` lends a view into the receive buffer, valid only during the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pt.muxer import StreamHandler
from pt.yamux.frames import INITIAL_WINDOW

if TYPE_CHECKING:
    from pt.yamux.session import Session

__all__ = ["Stream"]


class Stream:
    """One stream; all fields are the session's to write, a handler reads `send_window`."""

    __slots__ = (
        "ack_pending",
        "consumed",
        "handler",
        "id",
        "last_update",
        "local_closed",
        "open_acked",
        "recv_left",
        "recv_window",
        "remote_closed",
        "send_window",
        "session",
        "syn_pending",
    )

    def __init__(self, session: Session, stream_id: int, *, inbound: bool) -> None:
        self.session = session
        self.id = stream_id
        self.handler: StreamHandler | None = None
        self.send_window = INITIAL_WINDOW
        self.recv_window = INITIAL_WINDOW  # what the peer may have in flight at most
        self.recv_left = INITIAL_WINDOW  # what the peer may still send now
        self.consumed = 0  # read by us, not yet given back as credit
        self.last_update = 0.0
        self.syn_pending = not inbound
        self.ack_pending = inbound
        self.open_acked = inbound
        self.local_closed = False  # we sent FIN or RST
        self.remote_closed = False  # we received FIN or RST

    @property
    def inbound(self) -> bool:
        """Whether the peer opened the stream."""
        return (self.id & 1) == (0 if self.session.initiator else 1)

    @property
    def closed(self) -> bool:
        """Whether the stream is over in both directions."""
        return self.local_closed and self.remote_closed

    def credit(self, count: int) -> None:
        """Say that `count` received bytes were consumed; may queue a WINDOW_UPDATE."""
        self.consumed += count
        if self.consumed * 2 >= self.recv_window and not self.remote_closed:
            self.session.update_window(self)

    def close(self) -> None:
        """Send FIN: no more data from us.  Idempotent."""
        self.session.close_stream(self)

    def reset(self, code: int = 0) -> None:
        """Kill both directions at once.  Idempotent; the handler is not called back."""
        self.session.reset_stream(self, code)
