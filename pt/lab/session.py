"""Laboratories that stay up between commands: one router process each, found by its socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pt.lab.machine import TERM_GRACE
from pt.lab.remote import ANSWER_TIMEOUT, LabError, Remote, start_router

__all__ = ["NAME", "connect", "down", "names", "up"]

NAME: Final = "lab"
"""The session's name if none is given."""


def _directory() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(base) / "pt-lab" if base else Path("/run/pt-lab")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _socket_path(name: str) -> Path:
    if not name.isalnum() or not name.isascii() or len(name) > 32:
        raise LabError(f"{name!r} is not a laboratory's name: at most 32 letters and digits")
    return _directory() / f"{name}.sock"


def names() -> list[str]:
    """Return the laboratories that are up."""
    found = []
    for path in sorted(_directory().glob("*.sock")):
        try:
            _dial(path).close()
        except OSError:
            path.unlink(missing_ok=True)  # of one that was killed
            continue
        found.append(path.stem)
    return found


def _dial(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(ANSWER_TIMEOUT)
    try:
        sock.connect(str(path))
    except OSError:
        sock.close()
        raise
    return sock


def up(
    name: str, words: Mapping[str, Any], *, engine: str, seed: int, trace: str, pcap: str
) -> Remote:
    """Build a laboratory that outlives this process.

    Raises: LabError.
    """
    path = _socket_path(name)
    if name in names():
        raise LabError(f"laboratory {name!r} is up already: `pt lab down` ends it")
    start_router(
        Remote(),
        words,
        engine=engine,
        seed=seed,
        trace=trace,
        pcap=pcap,
        socket_path=str(path),
        keep=True,
    )
    return connect(name)


def connect(name: str) -> Remote:
    """Return a laboratory that is up.

    Raises: LabError.
    """
    remote = Remote()
    try:
        remote.attach(_dial(_socket_path(name)))
    except OSError as error:
        up_now = ", ".join(names()) or "none"
        raise LabError(
            f"no laboratory {name!r} is up (up: {up_now}): `pt lab up` makes one"
        ) from error
    remote.learn(remote.ask("describe"))
    return remote


def down(name: str) -> None:
    """End what runs on the hosts of a laboratory, and the laboratory.

    Raises: LabError.
    """
    remote = connect(name)
    remote.end_programs()
    remote.save()
    remote.ask("end")
    remote.disconnect()
    path = _socket_path(name)
    deadline = time.monotonic() + TERM_GRACE
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.005)  # another process's file: there is nothing to wait on
