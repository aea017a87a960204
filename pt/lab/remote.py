"""Hosts of a router process, and orders to it: one JSON object a line over a Unix socket."""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final, Literal

from pt.lab.machine import LanError, Machine, end_processes
from pt.lab.system import namespace_link

__all__ = ["ANSWER_TIMEOUT", "Engine", "LabError", "Remote", "retire", "start_router"]

Engine = Literal["user", "kernel"]
BUILD_TIMEOUT: Final = 60.0
ANSWER_TIMEOUT: Final = 20.0
_ROOT: Final = str(Path(__file__).resolve().parents[2])
_START: Final = f"import sys; sys.path.insert(0, {_ROOT!r}); import pt.lab.router as r; r.main()"
_ending: list[subprocess.Popen[bytes]] = []
"""Routers that were told to end. Closing devices takes the kernel a while: nobody waits for it."""


class LabError(LanError):
    """The laboratory cannot be built, or refuses an order; the message says why."""


@atexit.register
def _reap_all() -> None:
    for router in _ending:
        router.wait()


def _reap() -> None:
    _ending[:] = [router for router in _ending if router.poll() is None]


class Remote:
    """Hosts of a router process, and what can be asked of it once `attach` gave a socket to it."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._answers: IO[bytes] | None = None
        self.machines: dict[str, Machine] = {}
        self.nats: dict[str, tuple[str, ...]] = {}
        """Outer addresses, as they were in the beginning."""

    def attach(self, sock: socket.socket) -> None:
        """Use a connected socket."""
        self._socket, self._answers = sock, sock.makefile("rb")

    def __getitem__(self, name: str) -> Machine:
        if name not in self.machines:
            raise LabError(f"no host {name!r}: there are {', '.join(self.machines)}")
        return self.machines[name]

    def __iter__(self) -> Iterator[Machine]:
        return iter(self.machines.values())

    def ask(self, do: str, **order: object) -> Any:  # noqa: ANN401  # JSON
        """Give an order and return its result.

        Raises: LabError.
        """
        if self._socket is None:
            raise LabError("the laboratory is not up")
        try:
            self._socket.sendall(json.dumps({"do": do, **order}).encode() + b"\n")
        except OSError as error:
            raise LabError(f"the laboratory has ended: {error}") from error
        return self.answer()

    def answer(self) -> Any:  # noqa: ANN401  # JSON
        """Read the answer to an order.

        Raises: LabError.
        """
        try:
            line = self._answers.readline() if self._answers is not None else b""
        except OSError as error:
            raise LabError(f"the laboratory does not answer: {error}") from error
        if not line:
            raise LabError("the laboratory ended before it answered; its error is above")
        found = json.loads(line)
        if not found["ok"]:
            raise LabError(found["error"])
        return found["result"]

    def learn(self, description: Mapping[str, Any]) -> None:
        """Take in what `describe` told."""
        self.nats = {name: tuple(found) for name, found in description["nats"].items()}
        for name, host in description["hosts"].items():
            addresses = tuple(host["addresses"])
            ip = next((each for each in addresses if ":" not in each), "")
            ip6 = next((each for each in addresses if ":" in each), "")
            machine = Machine(name, ip, ip6, host["netns"])
            machine.addresses = addresses
            self.machines[name] = machine

    def mappings(self) -> dict[str, list[dict[str, Any]]]:
        """Return what each NAT remembers."""
        found: dict[str, list[dict[str, Any]]] = self.ask("mappings")
        return found

    def stats(self) -> dict[str, Any]:
        """Return the counters: packets of links, drops by place and reason."""
        found: dict[str, Any] = self.ask("stats")
        return found

    def flush(self, nat: str, *, renumber: bool = False) -> tuple[str, ...]:
        """Reboot a NAT: it forgets, and with `renumber` comes back with another address."""
        return tuple(self.ask("flush", name=nat, renumber=renumber))

    def set_nat(self, nat: str, spec: str) -> None:
        """Put another NAT in the place of one."""
        self.ask("nat", name=nat, spec=spec)

    def set_link(self, link: str, spec: str) -> None:
        """Give the link of a host or side another shape."""
        self.ask("link", name=link, spec=spec)

    def cut(self, link: str) -> None:
        """Let a link swallow everything, silently."""
        self.ask("cut", name=link, cut=True)

    def restore(self, link: str) -> None:
        """Undo `cut`."""
        self.ask("cut", name=link, cut=False)

    def mark(self, text: str) -> float:
        """Write a line into the trace; return its time."""
        return float(self.ask("mark", text=text))

    def save(self) -> None:
        """Have trace and capture complete on the disk."""
        self.ask("save")

    def end_programs(self) -> None:
        """End everything that runs on the hosts."""
        end_processes([namespace_link(machine.netns) for machine in self.machines.values()])
        for machine in self.machines.values():
            machine.reap()

    def disconnect(self) -> None:
        """Close the socket."""
        if self._answers is not None and self._socket is not None:
            self._answers.close()
            self._socket.close()
        self._answers = self._socket = None


def retire(router: subprocess.Popen[bytes]) -> None:
    """Let a router end that has nothing to do any more, without waiting for it."""
    _ending.append(router)


def start_router(
    remote: Remote,
    words: Mapping[str, object],
    *,
    engine: str = "user",
    seed: int = 1,
    trace: str = "",
    pcap: str = "",
    socket_path: str = "",
    keep: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a router process and wait until its hosts are there, and `remote` knows them.

    With `socket_path` it takes orders there; with `keep` it outlives this process, which is not to
    wait for it.

    Raises: LabError.
    """
    _reap()
    ours, theirs = socket.socketpair()
    # Without site-packages it starts twice as fast; it needs none.
    argv = [sys.executable, "-S", "-E", "-s", "-c", _START]
    with theirs:
        router = subprocess.Popen(
            argv,
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if keep else None,
            start_new_session=True,
        )
    ours.settimeout(BUILD_TIMEOUT)
    remote.attach(ours)
    order = {
        "words": words,
        "engine": engine,
        "seed": seed,
        "trace": trace,
        "pcap": pcap,
        "socket": socket_path,
        "path": [os.getcwd(), *sys.path],
    }
    try:
        ours.sendall(json.dumps(order).encode() + b"\n")
        remote.learn(remote.answer())
    except BaseException:
        remote.disconnect()
        router.kill()
        retire(router)
        raise
    ours.settimeout(ANSWER_TIMEOUT)
    if keep:
        remote.disconnect()
        router.returncode = 0  # not ours any more
    return router
