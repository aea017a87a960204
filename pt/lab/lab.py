"""A laboratory in one line: hosts, NATs and links, up in a fraction of a second.

    with Lab(a="eim-apdf", b="apdm-random,timeout=30", link="delay=10,loss=1") as lab:
        lab["s1"].popen([...])                  # a public host: 11.1.0.1 and 11.1.1.1
        lab["a"].run([...])                     # 192.168.1.10, behind its NAT
        lab.flush("a", renumber=True)           # the NAT reboots and gets another address

The words are those of docs/lab.md. Hosts are namespaces without a way out; whatever ends this
process ends them and what runs on them.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from pt.lab.machine import LanError, Machine, end_processes
from pt.lab.model.plan import make_plan
from pt.lab.system import namespace_link

__all__ = ["Engine", "Lab", "LabError", "Remote"]

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
    """Hosts and orders of a router process, through a connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._answers = sock.makefile("rb")
        self.machines: dict[str, Machine] = {}
        self.nats: dict[str, tuple[str, ...]] = {}

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
            line = self._answers.readline()
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
        self._answers.close()
        self._socket.close()


def start_router(
    words: Mapping[str, object],
    *,
    engine: str = "user",
    seed: int = 1,
    trace: str = "",
    pcap: str = "",
    socket_path: str = "",
    keep: bool = False,
) -> tuple[subprocess.Popen[bytes], Remote]:
    """Start a router process and wait until its hosts are there.

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
    remote = Remote(ours)
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
        _ending.append(router)
        raise
    ours.settimeout(ANSWER_TIMEOUT)
    if keep:
        remote.disconnect()
        router.returncode = 0  # not ours any more
    return router, remote


class Lab(Remote):
    """Use it in a `with` block; hosts by name, in brackets.

    sides: NATs by one letter. public: hosts in the open. lan: hosts a side. overlap: all private
    networks have the same addresses. cgn: one NAT between all sides and the internet. link: of
    every side and public host; links: of single ones. engine:
    user for every behaviour, kernel for throughput. seed: everything random in NATs and links.
    trace: file for bindings and drops. pcap: file for packets in the middle of the internet.

    Raises: SpecError for words that are none; LabError.
    """

    def __init__(
        self,
        *,
        public: int = 2,
        lan: int = 1,
        overlap: bool = False,
        cgn: str = "",
        link: str = "",
        links: Mapping[str, str] | None = None,
        engine: Engine = "user",
        seed: int = 1,
        trace: str | os.PathLike[str] = "",
        pcap: str | os.PathLike[str] = "",
        **sides: str,
    ) -> None:
        self._words: dict[str, Any] = {
            "sides": sides,
            "public": public,
            "lan": lan,
            "overlap": overlap,
            "cgn": cgn,
            "link": link,
            "links": dict(links or {}),
        }
        make_plan(**self._words)  # wrong words are told at once, and here
        self._engine = engine
        self._seed = seed
        self._trace = os.path.abspath(trace) if trace else ""
        self._pcap = os.path.abspath(pcap) if pcap else ""
        self._router: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._router, remote = start_router(
            self._words, engine=self._engine, seed=self._seed, trace=self._trace, pcap=self._pcap
        )
        self.__dict__.update(remote.__dict__)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what runs on the hosts, and the hosts; may be called twice."""
        router, self._router = self._router, None
        if router is None:
            return
        self.end_programs()
        with contextlib.suppress(LabError):  # it has ended, with what it could write
            self.save()
        self.disconnect()
        _ending.append(router)
