from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pt.cli.notify import Notifier
from pt.errors import UsageError
from tests.unit.cli.samples import EVENTS, READY_BIND


@pytest.mark.parametrize("abstract", [False, True])
def test_ready_is_told_once_and_only_after_the_event(tmp_path: Path, abstract: bool) -> None:
    name = f"@pt-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0", 1))
        manager.settimeout(5)
        notifier = Notifier(environ={"NOTIFY_SOCKET": name})
        notifier(EVENTS[0])
        notifier(READY_BIND)
        notifier(READY_BIND)
        notifier.stopping()
        assert [manager.recv(100) for _ in range(2)] == [b"READY=1", b"STOPPING=1"]


@pytest.mark.parametrize("address", ["", "relative", "/nonexistent/socket", "@nobody-listens"])
def test_nobody_to_tell(address: str) -> None:
    notifier = Notifier(environ={"NOTIFY_SOCKET": address})
    notifier(READY_BIND)
    notifier.stopping()


def test_ready_fd() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as file:
        notifier = Notifier(writer, {})
        notifier(READY_BIND)
        assert file.read() == b"READY=1\n"  # to the end: the descriptor is closed


def test_a_ready_fd_that_is_not_open() -> None:
    with pytest.raises(UsageError, match="987"):
        Notifier(987, {})
