"""Files that are this user's alone: read with care, replaced whole.

A file is written beside the old one, synced and renamed: readers and crashes see the old content or
the new one.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from pathlib import Path
from typing import Final

from pt.errors import StateError

__all__ = [
    "ENVIRONMENT",
    "MAX_FILE",
    "damaged",
    "file_error",
    "make_directory",
    "read_file",
    "replace_file",
]

MAX_FILE: Final = 1 << 20
"""No file of ours comes near; a bigger one is something else."""
ENVIRONMENT: Final = "PT_HOME"
_NUMBERS: Final = itertools.count()  # threads may write one file at the same time


def read_file(path: Path) -> bytes | None:
    """The content, None if there is no such file.

    Raises:
        StateError: unreadable, too big, not a file, or open to other users.

    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise file_error(error, "read", path) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise StateError(f"{path} is not a file: move it away")
        if status.st_mode & 0o077:
            raise StateError(
                f"{path} can be read or written by other users: "
                f"if nobody did, run `chmod 600 {path}`; else delete it"
            )
        with open(fd, "rb", closefd=False) as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise file_error(error, "read", path) from error
    finally:
        os.close(fd)
    if len(data) > MAX_FILE:
        raise damaged(path, "it is far too big: move it away")
    return data


def replace_file(path: Path, data: bytes) -> None:
    """Write the content whole, readable by this user only.

    Raises:
        StateError: the disk is full, the directory is not ours, ….

    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{next(_NUMBERS)}.new")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise file_error(error, "write", path) from error


def make_directory(path: Path) -> None:
    """Make sure that the directory is there, and not open to everybody.

    Raises:
        StateError: it cannot be made, or any user can write in it.

    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = path.stat().st_mode
    except OSError as error:
        raise file_error(error, "create", path) from error
    if mode & stat.S_IWOTH:
        raise StateError(f"any user can replace the keys in {path}: run `chmod 700 {path}`")


def damaged(path: Path, step: str) -> StateError:
    """The error of a file that makes no sense; `step` says what to do about it."""
    return StateError(f"{path} is damaged: {step}")


def file_error(error: OSError, action: str, path: Path) -> StateError:
    """The error of a file that the system does not let us use."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            step = "the disk or quota is full: free some space"
        case errno.EACCES | errno.EPERM:
            step = f"check who owns {path.parent}"
        case errno.EROFS:
            step = "the file system is read-only"
        case errno.ENOTDIR | errno.EEXIST | errno.EISDIR:
            step = "something else is in its place: move it away"
        case _:
            step = "check the disk"
    return StateError(
        f"cannot {action} {path} ({error.strerror or error}): {step}, "
        f"or choose another directory with --home or {ENVIRONMENT}"
    )
