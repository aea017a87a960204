"""What a laboratory writes down: a journal of JSON lines and a capture of packets, on one clock.

Times of the journal are of CLOCK_MONOTONIC, which all processes of a machine share; its first line
has the wall-clock time of the same moment. The capture's times are that clock on the wall.
"""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import IO, Any, Final

__all__ = ["LINKTYPE_RAW", "MAX_BYTES", "Capture", "Journal"]

MAX_BYTES: Final = 1 << 30
"""Of one file; what comes then is not written."""
LINKTYPE_RAW: Final = 101
_NANOSECONDS: Final = 0xA1B23C4D
SNAP: Final = 65535


class Journal:
    """Events as JSON lines; without a path it writes nothing."""

    def __init__(self, path: str) -> None:
        self._file: IO[str] | None = None
        if path:
            self._file = Path(path).open("w", encoding="utf-8")  # noqa: SIM115  # see close
        self._size = 0
        self._dirty = False

    def write(self, event: str, now: float, facts: dict[str, Any]) -> None:
        """Write one event."""
        if self._file is None or self._size > MAX_BYTES:
            return
        line = json.dumps({"t": round(now, 6), "event": event, **facts}) + "\n"
        self._size += len(line)
        if self._size > MAX_BYTES:
            line = json.dumps({"t": round(now, 6), "event": "full", "bytes": MAX_BYTES}) + "\n"
        self._file.write(line)
        self._dirty = True

    def flush(self) -> None:
        """Let readers see what was written."""
        if self._file is not None and self._dirty:
            self._file.flush()
            self._dirty = False

    def close(self) -> None:
        """Write the rest."""
        if self._file is not None:
            self._file.close()


class Capture:
    """IP packets in a pcap file with nanoseconds; without a path it writes nothing."""

    def __init__(self, path: str) -> None:
        self._file: IO[bytes] | None = None
        self._offset = time.time() - time.monotonic()
        self._size = 0
        if path:
            self._file = Path(path).open("wb")  # noqa: SIM115  # see close
            self._file.write(struct.pack("IHHiIII", _NANOSECONDS, 2, 4, 0, 0, SNAP, LINKTYPE_RAW))

    def packet(self, now: float, data: bytes) -> None:
        """Write one packet."""
        if self._file is None or self._size > MAX_BYTES:
            return
        seconds, rest = divmod(now + self._offset, 1)
        head = struct.pack("IIII", int(seconds), int(rest * 1e9), len(data), len(data))
        self._file.write(head + data)
        self._size += len(head) + len(data)

    def flush(self) -> None:
        """Let readers see what was written."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Write the rest."""
        if self._file is not None:
            self._file.close()
