"""The process of the user-space engine: it holds a TUN device of every host, and is the rest.

One plain loop around `pt.lab.model.world`: packets in, packets out, commands in between. It makes
the hosts' namespaces, too, and keeps them: they are `/proc/PID/fd/N` of this process and end with
it. Started by `pt.lab.remote`; the orders, one JSON object a line on a Unix socket, are `ORDERS`.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final

from pt.lab.kernel import KernelNet, core_plan
from pt.lab.model.box import Box
from pt.lab.model.plan import HostPlan, make_plan
from pt.lab.model.spec import NatSpec, SpecError, parse_link, parse_nat
from pt.lab.model.world import UnknownError, World
from pt.lab.recorder import Capture, Journal
from pt.lab.system import Netlink, members, namespace_link, open_tun, setns, unshare

__all__ = ["DEVICE", "Router", "main"]

DEVICE: Final = "eth0"
"""Name of every host's device."""
BATCH: Final = 64
"""Packets taken from one device before the next one has its turn."""
MAX_WAIT: Final = 0.5
"""Seconds after which bindings that timed out are noticed although nothing moves."""
DEVICE_QUEUE: Final = 4096
MTU: Final = 1500
MAX_CLIENTS: Final = 16
MAX_ORDER: Final = 65536
PACKET: Final = 65535


def make_host(plan: HostPlan, router: str) -> tuple[int, int]:
    """Make a host's namespace and device; return a descriptor of each. Leaves the thread there."""
    namespace = unshare()
    tun = open_tun(DEVICE)
    settings = Path("/proc/sys/net")
    with contextlib.suppress(OSError):  # a kernel without IPv6
        (settings / "ipv6/conf" / DEVICE / "addr_gen_mode").write_text("1")
    (settings / "ipv4/ping_group_range").write_text("0 2147483647")
    with Netlink() as net:
        net.loopback_up()
        index = net.link_up(DEVICE, mtu=MTU, queue=DEVICE_QUEUE)
        for address in plan.addresses:
            net.address(index, address, 64 if ":" in address else plan.prefix)
        if plan.ip:
            net.route(index, "0.0.0.0", 0, router if plan.prefix < 32 else "")
        if plan.ip6:
            net.route(index, "::", 0)
        net.commit()
    return namespace, tun


def box_class(spec: NatSpec, path: list[str]) -> type[Box]:
    """Return the class of a NAT, one of somebody's own from a module on `path`.

    Raises: SpecError.
    """
    if not spec.box:
        return Box
    module, _, name = spec.box.partition(":")
    sys.path += [each for each in path if each not in sys.path]
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SpecError(f"box={spec.box}: {error}") from error
    if not isinstance(found, type) or not issubclass(found, Box):
        raise SpecError(f"box={spec.box} is not a subclass of pt.lab.model.box.Box")
    return found


class Router:
    """The process's state. `words` are those of `make_plan`."""

    def __init__(
        self,
        *,
        words: dict[str, Any],
        engine: str,
        seed: int,
        trace: str,
        pcap: str,
        path: list[str],
    ) -> None:
        self._plan = make_plan(**words)
        self._kernel = KernelNet(self._plan) if engine == "kernel" else None
        self._journal = Journal(trace)
        self._capture = Capture(pcap)
        facts = {"version": 1, "wall": time.time(), "engine": engine, "seed": seed, **words}
        self._journal.write("lab", time.monotonic(), facts)
        self._world = World(
            self._plan if self._kernel is None else core_plan(self._plan),
            lambda name: random.Random(f"{seed}/{name}"),  # noqa: S311  # must be repeatable
            self._journal.write if trace else None,
            self._capture.packet if pcap else None,
            functools.partial(box_class, path=path),
        )
        self._tuns: dict[int, str] = {}
        self._devices: dict[str, int] = {}
        self._namespaces: dict[str, int] = {}
        self._clients: dict[int, tuple[socket.socket, bytearray]] = {}
        self._owner: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._running = True

    def build(self) -> None:
        """Make all hosts."""
        if self._kernel is not None:
            self._kernel.build()
            self._namespaces, self._devices = self._kernel.hosts, self._kernel.tuns
            self._tuns = {tun: name for name, tun in self._devices.items()}
            return
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        routers = {network.name: network.router for network in self._plan.networks}
        for host in self._plan.hosts:
            namespace, tun = make_host(host, routers[host.at.network])
            self._namespaces[host.name], self._devices[host.name] = namespace, tun
            self._tuns[tun] = host.name
        setns(home)
        os.close(home)

    def describe(self, _: dict[str, Any]) -> dict[str, Any]:
        """Return where the hosts are."""
        return {
            "pid": os.getpid(),
            "hosts": {
                host.name: {
                    "netns": f"/proc/{os.getpid()}/fd/{self._namespaces[host.name]}",
                    "addresses": host.addresses,
                }
                for host in self._plan.hosts
            },
            "nats": {nat.name: nat.addresses for nat in self._plan.nats},
        }

    # --- the loop ------------------------------------------------------------------------------

    def serve(self, owner: socket.socket | None, listener: socket.socket | None) -> None:
        """Route until the owner goes away, or somebody orders the end."""
        self._owner, self._listener = owner, listener
        if owner is not None:
            self._client(owner)
        if listener is not None:
            listener.setblocking(False)
        world, tuns, clock = self._world, self._tuns, time.monotonic
        next_look = clock() + MAX_WAIT
        gc.freeze()
        while self._running:
            now = clock()
            self._deliver(now)
            due = world.next_due()
            wait = MAX_WAIT if due is None else min(MAX_WAIT, max(0.0, due - clock()))
            if wait:
                self._journal.flush()
            # select(2) waits in microseconds; epoll and poll would round up to milliseconds.
            listeners = [] if listener is None else [listener.fileno()]
            ready, _, _ = select.select([*tuns, *self._clients, *listeners], (), (), wait)
            now = clock()
            for fd in ready:
                if fd in tuns:
                    self._take(fd, tuns[fd], now)
                elif fd in self._clients:
                    self._listen(fd)
                else:
                    self._accept()
            if now >= next_look:
                next_look = now + MAX_WAIT
                world.expire(now)
                self._capture.flush()

    def _take(self, fd: int, host: str, now: float) -> None:
        send, read = self._world.send, os.read
        with contextlib.suppress(BlockingIOError):
            for _ in range(BATCH):
                send(host, read(fd, PACKET), now)

    def _deliver(self, now: float) -> None:
        devices, write = self._devices, os.write
        for host, data in self._world.advance(now):
            with contextlib.suppress(OSError):  # the device is down: the packet is lost
                write(devices[host], data)

    def close(self) -> None:
        """End every process on the hosts; the namespaces end with this process."""
        links = [namespace_link(f"/proc/self/fd/{fd}") for fd in self._namespaces.values()]
        for pid in members(links):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._journal.close()
        self._capture.close()

    # --- orders --------------------------------------------------------------------------------

    def _accept(self) -> None:
        if self._listener is None:
            return
        with contextlib.suppress(BlockingIOError):
            sock, _ = self._listener.accept()
            if len(self._clients) >= MAX_CLIENTS:
                sock.close()
                return
            self._client(sock)

    def _client(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._clients[sock.fileno()] = (sock, bytearray())

    def _listen(self, fd: int) -> None:
        sock, pending = self._clients[fd]
        try:
            data = sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or len(pending) > MAX_ORDER:
            del self._clients[fd]
            sock.close()
            if sock is self._owner:
                self._running = False
            return
        pending += data
        while b"\n" in pending:
            line, _, rest = bytes(pending).partition(b"\n")
            pending[:] = rest
            answer = json.dumps(self._obey(line)).encode() + b"\n"
            sock.settimeout(1.0)  # a client that does not read is not waited for
            with contextlib.suppress(OSError):
                sock.sendall(answer)
            sock.setblocking(False)

    def _obey(self, line: bytes) -> dict[str, Any]:
        try:
            order = json.loads(line)
            result = ORDERS[order["do"]](self, order)
        except (ValueError, KeyError, TypeError) as error:
            return {"ok": False, "error": f"not an order: {error}"}
        except (UnknownError, OSError) as error:
            return {"ok": False, "error": str(error)}
        return {"ok": True, "result": result}

    def _flush(self, order: dict[str, Any]) -> object:
        renumber = bool(order.get("renumber"))
        if self._kernel is not None:
            if renumber:
                raise SpecError("the kernel engine does not renumber: use the user engine")
            return self._kernel.flush(str(order["name"]))
        return self._world.flush(str(order["name"]), time.monotonic(), renumber=renumber)

    def _nat(self, order: dict[str, Any]) -> object:
        (spec, *more) = parse_nat(str(order["spec"]))
        if more:
            raise SpecError("one NAT, not a chain")
        if self._kernel is not None:
            self._kernel.change(str(order["name"]), spec)
            return None
        self._world.change_nat(str(order["name"]), spec, time.monotonic())
        return None

    def _link(self, order: dict[str, Any]) -> object:
        self._world.set_link(str(order["name"]), parse_link(str(order["spec"])))
        return None

    def _cut(self, order: dict[str, Any]) -> object:
        self._world.cut(str(order["name"]), cut=bool(order.get("cut", True)))
        return None

    def _mappings(self, _: dict[str, Any]) -> object:
        if self._kernel is not None:
            return self._kernel.mappings()
        return self._world.mappings(time.monotonic())

    def _mark(self, order: dict[str, Any]) -> object:
        self._journal.write("mark", time.monotonic(), {"text": str(order.get("text", ""))})
        return time.monotonic()

    def _save(self, _: dict[str, Any]) -> object:
        self._world.expire(time.monotonic())
        self._journal.flush()
        self._capture.flush()
        return None

    def _end(self, _: dict[str, Any]) -> object:
        self._running = False
        return None


ORDERS: Final = {
    "describe": Router.describe,
    "mappings": Router._mappings,
    "stats": lambda router, _: router._world.stats(),
    "flush": Router._flush,
    "nat": Router._nat,
    "link": Router._link,
    "cut": Router._cut,
    "mark": Router._mark,
    "save": Router._save,
    "end": Router._end,
}
"""Orders by name; each takes its JSON object: {"do": "flush", "name": "a", "renumber": true}."""


def main() -> int:
    """Read the order to build from standard input, a socket, and serve."""
    owner = socket.socket(fileno=0)
    first = owner.makefile("rb").readline(MAX_ORDER)
    order = json.loads(first)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is meant for who uses the laboratory
    try:
        listening = order.pop("socket")
        router = Router(**order)
        router.build()
        listener = None
        if listening:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(listening)
            listener.listen()
    except (OSError, SpecError) as error:
        owner.sendall(json.dumps({"ok": False, "error": str(error)}).encode() + b"\n")
        return 1
    with contextlib.suppress(OSError):  # a wire is never late because a program computes
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    owner.sendall(json.dumps({"ok": True, "result": router.describe({})}).encode() + b"\n")
    if listener is not None:
        owner.close()
    try:
        router.serve(owner if listener is None else None, listener)
    finally:
        if listener is not None:
            Path(listening).unlink(missing_ok=True)
        router.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
