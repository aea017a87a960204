"""A long-distance link between two hosts: rate, delay, jitter, loss and a bounded queue.

    with Lan(hosts=2) as lan, Link(*lan.hosts, Shape(rate=200e6, delay=0.025, loss=0.001)) as link:
        lan.hosts[0].run(["ping", "-c", "1", link.b_ip])
        link.cut()                          # packets vanish; link.restore() ends it
        link.shape(Shape(rate=1e6))         # from the next packet on, both directions

Each host gets a TUN device `wan0` (tun(4)); one process in user space, the router, holds both ends
and moves IP packets between them as `Pipe`, a pure model of one direction, says. It needs no kernel
module beside `tun`. Python carries about 40,000 packets a second and core, so 200 Mbit/s with an
MTU of 1500 takes less than one core; emulate faster links with a larger MTU.

Run by hand: `python -m pt.lab.link --rate 200e6 --delay 0.025 /run/netns/a /run/netns/b`, then
one JSON command a line: {"shape": {…}}, {"cut": true}, {"stats": true}; end of input ends the link.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import random
import select
import subprocess
import sys
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from pt.lab.model.pipe import Pipe, Shape
from pt.lab.system import open_tun, setns

if TYPE_CHECKING:
    from pt.lab.netns import Host

__all__ = ["DEVICE", "Link", "LinkError", "Pipe", "Shape"]

DEVICE: Final = "wan0"
"""Name of the link's device on both hosts."""
FIELDS: Final = ("rate", "delay", "jitter", "loss", "queue", "burst")
"""What of a `Shape` works here; `pt.lab.Lab` has links that reorder, copy and refuse, too."""
BATCH: Final = 64
"""Packets taken from one device before the other gets its turn (about a millisecond of work)."""
MAX_WAIT: Final = 1.0
_DEVICE_QUEUE: Final = 4096
"""Packets the kernel keeps for the router; the modelled queue is `Shape.queue`, not this one."""


class LinkError(RuntimeError):
    """The link could not be built; the message has the cause."""


class _Lane:
    """One direction with its packets: read from one device, write to the other."""

    def __init__(self, source: int, target: int, pipe: Pipe) -> None:
        self.source = source
        self.pipe = pipe
        self._target = target
        self._waiting: deque[tuple[float, bytes]] = deque()

    def take(self, now: float) -> None:
        read, source, offer, append = os.read, self.source, self.pipe.offer, self._waiting.append
        with contextlib.suppress(BlockingIOError):
            for _ in range(BATCH):
                packet = read(source, 65536)
                due = offer(len(packet), now)
                if due is not None:
                    append((due, packet))

    def deliver(self, now: float) -> float:
        """Write what is due; return when the next packet is."""
        waiting, target, write = self._waiting, self._target, os.write
        while waiting and waiting[0][0] <= now:
            with contextlib.suppress(OSError):  # the device is down: the packet is lost
                write(target, waiting[0][1])
            waiting.popleft()
        return waiting[0][0] if waiting else now + MAX_WAIT


def _command(line: bytes, lanes: tuple[_Lane, _Lane]) -> dict[str, object]:
    order = json.loads(line)
    for lane in lanes:
        if "shape" in order:
            lane.pipe.shape = Shape(**order["shape"])
        if "cut" in order:
            lane.pipe.cut = bool(order["cut"])
    return {"a_to_b": lanes[0].pipe.stats(), "b_to_a": lanes[1].pipe.stats()}


def _route(lanes: tuple[_Lane, _Lane]) -> None:
    control = sys.stdin.fileno()
    os.set_blocking(control, False)
    fds = [control, *(lane.source for lane in lanes)]
    half = b""
    clock = time.monotonic
    gc.disable()  # nothing here makes cycles
    while True:
        now = clock()
        due = min(lane.deliver(now) for lane in lanes)
        # select(2) waits in microseconds; epoll and poll would round a packet up to milliseconds.
        ready, _, _ = select.select(fds, (), (), max(0.0, due - clock()))
        now = clock()
        for lane in lanes:
            if lane.source in ready:
                lane.take(now)
        if control in ready:
            data = os.read(control, 65536)
            if not data:
                return
            *lines, half = (half + data).split(b"\n")
            for line in lines:
                print(json.dumps(_command(line, lanes)), flush=True)


def _check(shape: Shape) -> None:
    if shape.reorder or shape.duplicate or shape.mtu:
        raise ValueError("this link neither reorders nor copies nor refuses: use pt.lab.Lab")


def _open_tun(path: str) -> int:
    """Create the device in the namespace at `path`; it lives as long as the descriptor."""
    try:
        with open(path, "rb") as namespace:
            setns(namespace.fileno())
        return open_tun(DEVICE)
    except OSError as error:
        raise LinkError(f"no TUN device in {path} ({error}): are you root?") from error


def _configure(path: str, address: str, mtu: int) -> None:
    lines = (
        f"link set {DEVICE} mtu {mtu} txqueuelen {_DEVICE_QUEUE} addrgenmode none",
        f"addr add {address} dev {DEVICE}",
        f"link set {DEVICE} up",
    )
    done = subprocess.run(
        ["nsenter", f"--net={path}", "--", "ip", "-batch", "-"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LinkError(f"cannot configure {DEVICE} in {path}: {done.stderr.strip()}")


def _main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="pt.lab.link", description="A slow link, by hand.")
    parser.add_argument("a", help="namespace, such as /run/netns/a or /proc/PID/ns/net")
    parser.add_argument("b")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mtu", type=int, default=1500)
    parser.add_argument("--addresses", nargs=2, default=("11.9.0.1/30", "11.9.0.2/30"))
    for name in FIELDS:
        kind = int if name == "queue" else float
        parser.add_argument(f"--{name}", type=kind, default=getattr(Shape(), name))
    args = parser.parse_args(argv)
    shape = Shape(**{name: getattr(args, name) for name in FIELDS})
    ends = [_open_tun(path) for path in (args.a, args.b)]
    for path, address in zip((args.a, args.b), args.addresses, strict=True):
        _configure(path, address, args.mtu)
    with contextlib.suppress(OSError):  # a wire is never late because a program computes
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    # One generator a direction: losses of one do not depend on the traffic of the other.
    pipes = [Pipe(shape, random.Random(args.seed * 2 + side)) for side in range(2)]  # noqa: S311
    lanes = (_Lane(ends[0], ends[1], pipes[0]), _Lane(ends[1], ends[0], pipes[1]))
    print(json.dumps({"ready": True}), flush=True)
    _route(lanes)
    return 0


class Link:
    """A router process between two hosts; use it in a `with` block."""

    def __init__(
        self,
        a: Host,
        b: Host,
        shape: Shape,
        *,
        seed: int = 1,
        mtu: int = 1500,
        subnet: str = "11.9.0",
    ) -> None:
        """`subnet`: the first three octets of the link's addresses, .1 for `a` and .2 for `b`."""
        self.a_ip: Final = f"{subnet}.1"
        self.b_ip: Final = f"{subnet}.2"
        argv = [sys.executable, "-m", "pt.lab.link", "--seed", str(seed), "--mtu", str(mtu)]
        argv += ["--addresses", f"{self.a_ip}/30", f"{self.b_ip}/30"]
        _check(shape)
        for name in FIELDS:
            argv += [f"--{name}", str(getattr(shape, name))]
        self._argv = [*argv, a.netns, b.netns]
        self._router: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._router = subprocess.Popen(
            self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            self._answer()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the devices away; may be called twice."""
        router, self._router = self._router, None
        if router is not None:
            router.kill()
            router.communicate()

    def shape(self, shape: Shape) -> None:
        """Change both directions; packets on their way keep their arrival time."""
        _check(shape)
        self._ask({"shape": {name: getattr(shape, name) for name in FIELDS}})

    def cut(self) -> None:
        """Let every packet vanish from now on, both ways."""
        self._ask({"cut": True})

    def restore(self) -> None:
        """Undo `cut`."""
        self._ask({"cut": False})

    def stats(self) -> dict[str, dict[str, int]]:
        """Return `Pipe.stats` of "a_to_b" and "b_to_a"."""
        return self._ask({"stats": True})

    def _ask(self, order: dict[str, object]) -> dict[str, dict[str, int]]:
        if self._router is None or self._router.stdin is None:
            raise LinkError("the link is not open")
        self._router.stdin.write(json.dumps(order) + "\n")
        self._router.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, dict[str, int]]:
        out = self._router.stdout if self._router else None
        line = out.readline() if out else ""
        if not line:
            raise LinkError("the router of the link ended; its error is above")
        answer: dict[str, dict[str, int]] = json.loads(line)
        return answer


if __name__ == "__main__":
    sys.exit(_main())
