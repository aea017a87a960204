"""The file in which a relay keeps what its overlay server knows: `overlay.jsonl` in its home.

The form is that of `pt.overlay.state`. The file is replaced whole; `overlay.lock` beside it is held
while the relay runs, so that two relays of one home are not one node at two places.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final

from pt.overlay import state
from pt.overlay.state import State
from pt.overlay.storage import Entry

__all__ = ["OverlayFile"]

NAME: Final = "overlay.jsonl"


class OverlayFile:
    """Blocking, so that what takes long belongs in a thread; every method may raise OSError."""

    def __init__(self, home: Path) -> None:
        self.path: Final = home / NAME
        self.damaged = 0
        """Lines that made no sense so far."""
        self._lock: int | None = None

    def lock(self) -> bool:
        """Take the file for us; False if another process has it."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        except OSError:
            os.close(lock)
            raise
        self._lock = lock
        return True

    def open(self) -> IO[str] | None:
        """Open it for `head` and `records`; None if there is none."""
        try:
            return self.path.open(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return None

    def head(self, file: IO[str]) -> State | None:
        """Who we were; None if that is damaged, and what follows is not worth reading."""
        return state.load(file.readline(state.MAX_LINE))

    def records(self, file: IO[str]) -> Iterator[tuple[bytes, Entry]]:
        """The records behind the head, unchecked; what is no record is counted in `damaged`."""
        whole = True
        while line := file.readline(state.MAX_LINE):
            began, whole = whole, line.endswith("\n")
            record = state.load_record(line) if began and whole else None
            if record is not None:
                yield record
            elif began:
                self.damaged += 1

    def write(self, head: State, records: Iterable[tuple[bytes, Entry]]) -> None:
        """Replace the file; the old one stays if that fails."""
        part = self.path.with_suffix(".new")
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "w", encoding="ascii") as file:
                file.write(state.dump(head) + "\n")
                for key, entry in records:
                    file.write(state.dump_record(key, entry) + "\n")
                file.flush()
                os.fsync(fd)
            part.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()
            raise

    def close(self) -> None:
        """Give the file up for others."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
