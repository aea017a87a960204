"""Two or more hosts of one LAN, the real `pt` command on them, and its JSON events.

Nothing here sleeps to let something happen: events of `pt` tell what is ready. The one loop that
looks again and again is for programs of others, which do not tell when they listen.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pt.lab import Host, Lan

CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
PT = Path(sys.executable).with_name("pt")
NAME = "e2e-pale-otter-49-quiet-lantern"
TIMEOUT = 60.0
"""Seconds anything may take that is not a transfer; it takes far less unless the machine drowns."""
MIB = 1024 * 1024
LISTEN = "/ip4/0.0.0.0/tcp/4001"
Event = dict[str, object]


def soak() -> bool:
    return os.environ.get("PT_SOAK") == "1"


def need(*programs: str) -> None:
    """Skip the test, naming what is missing (conftest turns that into a failure under CI)."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def _parse(line: bytes) -> Event:
    try:
        event = json.loads(line)
    except ValueError:
        return {"event": "not JSON", "line": line.decode(errors="replace")}
    return event if isinstance(event, dict) else {"event": "no object", "line": event}


class PtProcess:
    """A running `pt … --json`: its events as they come, its log, its end."""

    def __init__(
        self,
        host: Host,
        argv: Sequence[str],
        home: Path,
        log: Path,
        stdin: int,
        *,
        maps: bool = False,
    ) -> None:
        self.host = host
        self.argv = list(argv)
        self.log_path = log
        self.events: list[Event] = []
        self.output = b""
        """Everything on stdout, as it was."""
        self._ended = False
        self._news = threading.Condition()
        env = {k: v for k, v in os.environ.items() if not k.startswith("PT_")}
        env |= {k: v for k, v in os.environ.items() if k == "PT_QUIC_ENGINE"}
        env |= {"PT_HOME": str(home), "PYTHONUNBUFFERED": "1", "HOME": str(home.parent)}
        env |= {"PT_NO_PUBLIC": "1"}  # --bootstrap says otherwise
        if not maps:
            env |= {"PT_NO_PORTMAP": "1"}
        with log.open("wb") as err:
            self.process = host.popen(
                [str(PT), *argv], stdin=stdin, stdout=subprocess.PIPE, stderr=err, env=env
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError, OSError):  # closed with the host
            for line in self.process.stdout:
                with self._news:
                    self.output += line
                    if "--json" in self.argv:
                        self.events.append(_parse(line))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def matching(self, event: str, **facts: object) -> list[Event]:
        with self._news:
            return [
                seen
                for seen in self.events
                if seen.get("event") == event and all(seen.get(k) == v for k, v in facts.items())
            ]

    def wait(
        self, event: str, *, count: int = 1, timeout: float = TIMEOUT, **facts: object
    ) -> Event:
        """Return the `count`-th such event; fail if the process ends or time runs out first."""
        deadline = time.monotonic() + timeout
        with self._news:
            while len(found := self.matching(event, **facts)) < count:
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    why = "the process ended" if self._ended else f"{timeout:.0f} s passed"
                    what = f"no {event} {facts or ''} ({len(found)} of {count})"
                    raise AssertionError(f"{what}: {why}\n{self.describe()}")
                self._news.wait(left)
        return found[count - 1]

    def exit_code(self, timeout: float = TIMEOUT) -> int:
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"still running after {timeout:.0f} s\n{self.describe()}"
            ) from None
        self._reader.join(TIMEOUT)
        return code

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def memory(self, field: str = "VmRSS") -> int:
        """Bytes of VmRSS (now) or VmHWM (the most it ever was)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {field}: the process has ended\n{self.describe()}")

    def baseline(self) -> int:
        """VmRSS now, with VmHWM counted anew from here (deriving a name's keys needs 128 MiB)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return self.memory()

    def running(self) -> bool:
        return self.process.poll() is None

    def describe(self) -> str:
        events = "\n".join(json.dumps(event) for event in self.events[-60:])
        code = self.process.poll()
        return (
            f"--- {self.host.name}: pt {' '.join(self.argv)}"
            f" ({'running' if code is None else f'exit {code}'})\n"
            f"{events}\n--- its log\n{self.log[-6000:]}"
        )


def direct_address(exposer: PtProcess) -> str:
    """The exposer's IPv4 multiaddr, with its id, from its ready event."""
    ready = exposer.wait("ready")
    addresses = ready["addresses"]
    assert isinstance(addresses, list)
    wanted = f"/ip4/{exposer.host.ip}/tcp/"
    for address in addresses:
        if str(address).startswith(wanted):
            assert str(address).endswith(f"/p2p/{ready['peer_id']}")
            return str(address)
    raise AssertionError(f"no address {wanted}… in {addresses}")


def local_port(binder: PtProcess, index: int = 0) -> int:
    ports = binder.wait("ready")["ports"]
    assert isinstance(ports, list)
    return int(ports[index]["local"])


def relay_addresses(process: PtProcess) -> list[str]:
    """Where a `pt relay` can be dialed, once it can be."""
    addresses = process.wait("relay_ready")["addresses"]
    assert isinstance(addresses, list)
    return [str(each) for each in addresses]


class Rig:
    """The hosts of one test: `a` exposes, `b` binds, `c` is somebody else."""

    def __init__(self, lan: Lan, tmp: Path) -> None:
        self.lan = lan
        self.a, self.b, self.c = lan.hosts
        self.tmp = tmp
        self.processes: list[PtProcess] = []
        self._stack = contextlib.ExitStack()

    maps = False
    """Whether gateways are asked for port mappings."""

    def close(self) -> None:
        self._stack.close()

    def home(self, label: str) -> Path:
        path = self.tmp / label / "state"
        path.parent.mkdir(exist_ok=True)
        return path

    def pt(
        self,
        *argv: str,
        host: Host | None = None,
        home: str | Path = "b",
        stdin: int = subprocess.DEVNULL,
    ) -> PtProcess:
        where = self.home(home) if isinstance(home, str) else home
        log = self.tmp / f"pt-{len(self.processes)}.log"
        process = PtProcess(host or self.b, argv, where, log, stdin, maps=self.maps)
        self.processes.append(process)
        return process

    def expose(
        self,
        *argv: str,
        name: str = NAME,
        host: Host | None = None,
        home: str = "a",
        lan: bool = False,
        ready: bool = True,
    ) -> PtProcess:
        """Start `pt tcp` on host `a` and wait until it is ready."""
        flags = [] if lan else ["--no-lan"]
        if "--listen" not in argv and not lan:
            flags += ["--listen", LISTEN]
        process = self.pt(
            "tcp", "--id", name, "--json", *flags, *argv, host=host or self.a, home=home
        )
        if ready:
            process.wait("ready")
        return process

    def bind(
        self,
        *argv: str,
        to: PtProcess | str | None = None,
        name: str = NAME,
        host: Host | None = None,
        home: str = "b",
        ready: bool = True,
    ) -> PtProcess:
        """Start `pt bind` on host `b`, at the address of `to` or by the LAN, and wait for ready."""
        flags = []
        if to is not None:
            address = to if isinstance(to, str) else direct_address(to)
            flags = ["--no-lan", "--peer", address]
        process = self.pt(
            "bind", "--id", name, "--json", *flags, *argv, host=host or self.b, home=home
        )
        if ready:
            process.wait("ready")
        return process

    def tunnel(self, to: int | socket.socket, *argv: str) -> tuple[PtProcess, PtProcess, int]:
        """An exposer of a port or a listener, a binder to it and the binder's local port."""
        port = to if isinstance(to, int) else to.getsockname()[1]
        exposer = self.expose("--port", str(port), *argv)
        binder = self.bind("--port", "0", *argv, to=exposer)
        if not isinstance(to, int):
            take_waiting(to)
        return exposer, binder, local_port(binder)

    def dial(
        self,
        port: int,
        *,
        host: Host | None = None,
        ip: str = "127.0.0.1",
        timeout: float = TIMEOUT,
    ) -> socket.socket:
        """A client socket on host `b`, closed with the rig."""
        with (host or self.b).inside():
            return self.keep(socket.create_connection((ip, port), timeout))

    def keep(self, sock: socket.socket) -> socket.socket:
        """The same socket, closed with the rig."""
        return self._stack.enter_context(sock)

    def listen(self, host: Host, port: int = 0, ip: str = "127.0.0.1") -> socket.socket:
        with host.inside():
            sock = socket.create_server((ip, port))
        sock.settimeout(TIMEOUT)
        return self.keep(sock)

    def accept(self, listener: socket.socket) -> socket.socket:
        sock, _ = listener.accept()
        sock.settimeout(TIMEOUT)
        return self.keep(sock)

    def echo_service(self, host: Host | None = None, port: int = 0) -> int:
        """A service that sends back what comes and half-closes after the client did."""
        listener = self.listen(host or self.a, port)
        listener.settimeout(None)
        serve_connections(listener, echo)
        return int(listener.getsockname()[1])

    def daemon(self, host: Host, argv: Sequence[str], port: int, **options: object) -> None:
        """Start a program of others and wait until it listens on 127.0.0.1:port."""
        path = self.tmp / f"daemon-{port}.log"
        with path.open("wb") as log:
            process = host.popen(argv, stdout=log, stderr=log, **options)  # type: ignore[arg-type]
        wait_listening(host, port, process, path)

    def case_service(self) -> int:
        """The service side of the wire-exactness suite, in a process of its own."""
        argv = [sys.executable, "-m", "pt.tunnel.selftest", "serve"]
        service = self.a.popen(argv, stdout=subprocess.PIPE)
        assert service.stdout is not None
        return int(json.loads(service.stdout.readline())["port"])

    def describe(self) -> str:
        return "\n".join(process.describe() for process in self.processes)


def wait_listening(host: Host, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + TIMEOUT
    while True:
        with host.inside(), socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"{process.args!r} does not listen\n{log.read_text()[-3000:]}")
        time.sleep(0.02)


def take_waiting(listener: socket.socket) -> int:
    """Close the connections that wait at a listener, and return how many.

    An exposer looks once, at its start, whether its target answers: that is one.
    """
    count = 0
    listener.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    listener.settimeout(TIMEOUT)
    return count


def serve_connections(listener: socket.socket, behave: Callable[[socket.socket], None]) -> None:
    """Serve every connection in a thread until the listener is closed."""

    def one(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            behave(sock)

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def echo(sock: socket.socket) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def ask_echo(sock: socket.socket, data: bytes = b"ping") -> None:
    """Send `data` and insist on getting it back."""
    sock.sendall(data)
    got = bytearray()
    while len(got) < len(data):
        piece = sock.recv(len(data) - len(got))
        assert piece, f"the connection ended after {len(got)} of {len(data)} bytes"
        got += piece
    assert bytes(got) == data


def finish(sock: socket.socket) -> None:
    """End a connection on either side; one that is cut short may be resumed, and is waited for."""
    sock.shutdown(socket.SHUT_WR)
    assert read_all(sock) == b""


def big_file(path: Path, size: int) -> str:
    """Write `size` bytes that do not repeat or compress, and return their SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as out:
        seed, left = hashlib.shake_256(path.name.encode()), size
        block = seed.digest(MIB)
        while left:
            # Every MiB differs from the others: a swapped or repeated block changes the hash.
            piece = (left.to_bytes(8, "big") + block[8:])[:left]
            out.write(piece)
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


@contextlib.contextmanager
def rig_at(tmp: Path) -> Iterator[Rig]:
    with Lan(hosts=3, names=["a", "b", "c"], congestion="reno") as lan:
        rig = Rig(lan, tmp)
        try:
            yield rig
        finally:
            rig.close()
