"""Yamux stream multiplexer, without I/O.  Source: libp2p specs `yamux/README.md`."""

from __future__ import annotations

from pt.yamux.frames import MAX_PAYLOAD, YamuxError
from pt.yamux.session import Limits, Session
from pt.yamux.stream import Stream

__all__ = ["MAX_PAYLOAD", "Limits", "Session", "Stream", "YamuxError"]
