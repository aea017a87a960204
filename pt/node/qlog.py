"""qlog files of QUIC connections beside a trace, on the same clock; qvis reads them.

One file a connection, `TRACE.CONNECTION.client.sqlog` or `.server.sqlog`: a header, then an event a
record.  Source: draft-ietf-quic-qlog-main-schema-04 (qlog 0.3), JSON text sequences (RFC 7464).
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from pt.quic.engine import Trace
    from pt.trace import Tracer

__all__ = ["MAX_BYTES", "MAX_FILES", "QlogFiles"]

MAX_FILES: Final = 128
"""Connections of one process that are written down; later ones are not."""
MAX_BYTES: Final = 64 * 1024 * 1024
"""Length of a file, after which it gets a last event and ends."""
MODE: Final = 0o600
_SEPARATOR: Final = "\x1e"


class QlogFiles:
    """Opens one for each connection; what goes wrong is in the trace, and ends nothing else."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._files: list[_File] = []

    def trace(self, is_client: bool, connection: bytes) -> Trace | None:
        """`Config.trace`: where the events of a connection go, if anywhere."""
        base = self._tracer.path
        if base is None or len(self._files) >= MAX_FILES:
            return None
        side = "client" if is_client else "server"
        name = f"{base}.{connection.hex()}.{side}.sqlog"
        try:
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, MODE)
        except OSError as error:
            self._tracer.emit("qlog_failed", path=name, reason=error.strerror or str(error))
            return None
        self._tracer.emit("qlog", path=name, connection=connection.hex(), side=side)
        file = _File(os.fdopen(fd, "w"), self._tracer, side, connection)
        self._files.append(file)
        return file

    def close(self) -> None:
        """Close them all."""
        for file in self._files:
            file.close()


class _File:
    """One connection's: call it with each event."""

    def __init__(self, sink: TextIO, tracer: Tracer, side: str, connection: bytes) -> None:
        self._sink: TextIO | None = sink
        self._tracer = tracer
        self._size = 0
        common = {
            "ODCID": connection.hex(),
            "time_format": "relative",
            "reference_time": tracer.wall * 1000,
        }
        trace = {"vantage_point": {"type": side}, "common_fields": common}
        self._write({"qlog_version": "0.3", "qlog_format": "JSON-SEQ", "trace": trace})

    def __call__(self, now: float, name: str, data: dict[str, object]) -> None:
        """Write an event; `now` is on the trace's clock."""
        if self._sink is None:
            return
        if self._size > MAX_BYTES:
            data = {"message": f"this file ends after {MAX_BYTES} bytes"}
            name = "generic:info"
        self._write({"time": round(self._tracer.since(now) * 1000, 3), "name": name, "data": data})
        if name == "generic:info":
            self.close()

    def _write(self, record: dict[str, object]) -> None:
        text = f"{_SEPARATOR}{json.dumps(record, separators=(',', ':'))}\n"
        self._size += len(text)
        try:
            assert self._sink is not None
            self._sink.write(text)
            self._sink.flush()
        except OSError:  # a full disk ends the file, never the connection
            self.close()

    def close(self) -> None:
        """Write no more."""
        sink, self._sink = self._sink, None
        if sink is not None:
            try:
                sink.close()
            except OSError:
                return
