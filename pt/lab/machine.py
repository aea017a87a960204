"""A machine of the laboratory, whoever made its namespace: run programs and sockets there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from pt.lab.system import members, namespace_link, setns

__all__ = ["SETUP_TIMEOUT", "TERM_GRACE", "LanError", "Machine", "end_processes", "setup"]

SETUP_TIMEOUT: Final = 60.0
"""Seconds a set-up command may take; they take milliseconds unless the machine drowns."""
TERM_GRACE: Final = 2.0
"""Seconds between SIGTERM and SIGKILL for what still runs on a machine that is closed."""


class LanError(RuntimeError):
    """A command of the laboratory failed; the message has its output."""


def setup(argv: Sequence[str], feed: str = "") -> str:
    """Run a command that builds the laboratory; its output.

    Raises: LanError.
    """
    done = subprocess.run(
        argv, input=feed, capture_output=True, text=True, check=False, timeout=SETUP_TIMEOUT
    )
    if done.returncode:
        raise LanError(f"{' '.join(argv)} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout


def end_processes(links: Sequence[str]) -> None:
    """End what runs in these namespaces: SIGTERM, then SIGKILL."""
    deadline = time.monotonic() + TERM_GRACE
    asked: set[int] = set()
    while pids := members(links):
        late = time.monotonic() > deadline
        for pid in pids:
            if late or pid not in asked:
                asked.add(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(0.005)  # processes of others: there is no handle to wait on


class Machine:
    """A network namespace with a name and addresses; `netns` is its path, for setns(2)."""

    def __init__(self, name: str, ip: str, ip6: str, netns: str) -> None:
        self.name: Final = name
        self.ip: Final = ip
        self.ip6: Final = ip6
        self.netns: Final = netns
        self.addresses: tuple[str, ...] = tuple(each for each in (ip, ip6) if each)
        self._children: list[subprocess.Popen[bytes]] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.ip or self.ip6}>"

    @property
    def prefix(self) -> list[str]:
        """What to put before an argv to run it here, in the same process that exec leaves."""
        return ["nsenter", f"--net={self.netns}", "--"]

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Move this thread to the machine for the block; threads and sockets made there stay there.

        So a test can hold the sockets of several machines at once.
        """
        with open("/proc/thread-self/ns/net", "rb") as home, open(self.netns, "rb") as away:
            setns(away.fileno())
            try:
                yield
            finally:
                setns(home.fileno())

    def exec_argv(self, argv: Sequence[str]) -> list[str]:
        """Return the argv that runs `argv` here, with the same process id after exec."""
        return [*self.prefix, *argv]

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[bytes] | None = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        start_new_session: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a process here; it is killed, reaped and its pipes closed with the machine."""
        child = subprocess.Popen(
            self.exec_argv(argv),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            cwd=cwd,
            start_new_session=start_new_session,
        )
        self._children.append(child)
        return child

    def run(
        self,
        argv: Sequence[str],
        *,
        feed: bytes | None = None,
        check: bool = True,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run to the end and capture the output.

        Raises: LanError with the output when `check` and the exit code is not 0;
        subprocess.TimeoutExpired.
        """
        done = subprocess.run(
            self.exec_argv(argv),
            input=feed,
            stdin=subprocess.DEVNULL if feed is None else None,
            capture_output=True,
            check=False,
            timeout=timeout,
            env=env,
            cwd=cwd,
        )
        if check and done.returncode:
            tail = (done.stdout[-2000:] + done.stderr[-2000:]).decode(errors="replace")
            raise LanError(f"{self.name}: {' '.join(argv)} exited with {done.returncode}\n{tail}")
        return done

    def sysctl(self, name: str, value: str) -> None:
        """Set a sysctl of this namespace, such as `net.ipv4.tcp_congestion_control`."""
        path = "/proc/sys/" + name.replace(".", "/")
        with self.inside():
            try:
                Path(path).write_text(value)
            except OSError as error:
                raise LanError(f"{self.name}: cannot set {name} to {value}: {error}") from error

    def congestion_control(self, algorithm: str) -> None:
        """Pin the congestion control of connections made from now on (reno, bbr, cubic)."""
        self.sysctl("net.ipv4.tcp_congestion_control", algorithm)

    def end(self) -> None:
        """End every process here."""
        end_processes([namespace_link(self.netns)])
        self.reap()

    def reap(self) -> None:
        """Wait for our children, which have been ended, and close their pipes."""
        for child in self._children:
            child.wait(SETUP_TIMEOUT)
            for pipe in (child.stdin, child.stdout, child.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # unsent bytes of a pipe nobody reads
                        pipe.close()
        self._children.clear()
