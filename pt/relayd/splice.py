"""Raw circuits: two sockets whose bytes the kernel moves, end-to-end ciphertext to us.

Each direction is `os.splice` into a pooled pipe and on to the other socket.  A circuit holds a pipe
only while the reader is slower than the writer; an idle one holds nothing.  Where splice is missing
or pipes have run out, the direction copies through one shared buffer instead, turn by turn.

Bandwidth that is shaped is asked for before bytes are read, so that none wait here for their turn.

Exact ends: FIN becomes `shutdown` once everything before it is out, and ends that direction alone;
RST becomes RST, noticed even on a socket that is not being read.  Beyond its limit of bytes a
direction ends with FIN, like a circuit of go-libp2p's relay, and what the source still sends is not
read any more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pt.aio.tcp import abort, abort_on_exit, close_in_order, tune_network_socket
from pt.relayd.pipes import PIPE_LEN, Pipe, PipePool
from pt.relayd.poller import BROKEN, READ, WRITE, Poller, poller
from pt.relayd.traffic import DATA_UP

if TYPE_CHECKING:
    from pt.relay.messages import Limit
    from pt.relay.shaper import Share
    from pt.relayd.traffic import Traffic

__all__ = ["SpliceCircuit", "Splicer"]

BUDGET: Final = 4 * 1024 * 1024
"""Bytes one direction moves before other circuits have their turn."""
EAGER: Final = 64 * 1024
"""After so many bytes at once it is worth looking for more without asking the poller."""
COPY_LEN: Final = 64 * 1024
"""Bytes a turn where they are copied; what the reader does not take of them is kept."""
KEEP_ALIVE: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
"""When a host that vanished is noticed although nothing is sent to it, seconds and probes."""
LONG_WAY: Final = 3000
"""From this round-trip time (µs) on, BBR is asked for, as for every connection of a node."""
_RTT_AT: Final = 68  # in struct tcp_info of Linux
_FLAGS: Final = getattr(os, "SPLICE_F_MOVE", 0) | getattr(os, "SPLICE_F_NONBLOCK", 0)
_UNABLE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
_AWAY: Final = -1
"""The interest of a descriptor that the poller does not watch."""


class Leg:
    """One socket of a circuit, and the direction that begins at it."""

    __slots__ = (
        "circuit",
        "done",
        "eof",
        "fd",
        "held",
        "interest",
        "left",
        "moved",
        "other",
        "pipe",
        "rest",
        "sock",
        "waiting",
    )

    other: Leg

    def __init__(self, circuit: SpliceCircuit, sock: socket.socket, left: int) -> None:
        self.circuit = circuit
        self.sock = sock
        self.fd = sock.fileno()
        self.interest = _AWAY
        self.pipe: Pipe | None = None
        self.held = 0  # bytes in the pipe
        self.rest: memoryview | None = None  # bytes that were copied, and not taken
        self.moved = 0
        self.left = left  # bytes that may still be moved; -1: no limit
        self.eof = False  # nothing more is read here
        self.done = False  # and the other side was told
        self.waiting = False  # for its share of the bandwidth

    def ready(self, events: int) -> None:
        """The poller's call."""
        circuit = self.circuit
        if events & BROKEN:
            circuit.broken(self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            return
        if not events & (READ | WRITE):
            if not self.interest:  # both directions of it have ended: that cannot be masked
                circuit.look_away(self)
            return
        if events & WRITE:
            circuit.pump(self.other)
        if events & READ and not circuit.closed:
            circuit.pump(self)


class SpliceCircuit:
    """One raw circuit; make it with `Splicer.join`.

    `on_done(circuit, reason)` is called once, with an empty reason after an orderly end.
    """

    __slots__ = (
        "_on_done",
        "_parked",
        "_share",
        "_splicer",
        "_traffic",
        "closed",
        "left",
        "limit",
        "right",
        "started",
    )

    def __init__(
        self,
        splicer: Splicer,
        left: socket.socket,
        right: socket.socket,
        *,
        share: Share,
        limit: Limit | None,
        on_done: Callable[[SpliceCircuit, str], None],
    ) -> None:
        self._splicer = splicer
        self._traffic = splicer.traffic
        self._share = share
        self._on_done = on_done
        self._parked = False
        self.limit = limit
        self.closed = False
        self.started = splicer.traffic.loop.time()
        data = limit.data if limit is not None and limit.data else -1
        self.left = Leg(self, left, data)
        self.right = Leg(self, right, data)
        self.left.other, self.right.other = self.right, self.left

    @property
    def bytes(self) -> tuple[int, int]:
        """Bytes moved from left to right, and from right to left."""
        return self.left.moved, self.right.moved

    # --- moving bytes --------------------------------------------------------------------------

    def pump(self, leg: Leg) -> None:
        """Move bytes from `leg` to the other one until something has to be waited for."""
        if leg.held or leg.rest is not None:
            self._drain(leg)
        traffic = self._traffic
        free = traffic.shaper.unlimited
        budget = BUDGET
        while not (leg.held or leg.rest is not None or leg.eof or leg.waiting or self.closed):
            want = PIPE_LEN if leg.left < 0 else min(PIPE_LEN, leg.left)
            if not free:
                want = traffic.take(self._share, want)
                if not want:
                    self._wait(leg)
                    break
            count = self._move(leg, want)
            if not free and count < want:
                traffic.refund(self._share, want - max(count, 0))
            if count < 0:
                break
            budget -= count
            if budget <= 0 or count < EAGER:
                break
        if not self.closed and leg.eof and not leg.done and not leg.held and leg.rest is None:
            self._end(leg)
        if not self.closed:
            self._settle(leg)
            self._settle(leg.other)

    def _wait(self, leg: Leg) -> None:
        """Read no more until there is bandwidth."""
        leg.waiting = True
        if not self._parked:
            self._parked = True
            self._traffic.park(self._share, self._woken)

    def _woken(self) -> None:
        """There is bandwidth; the direction that got less so far goes first."""
        self._parked = False
        for leg in sorted((self.left, self.right), key=lambda one: one.moved):
            if leg.waiting:
                leg.waiting = False
                if not self.closed:
                    self.pump(leg)

    def _move(self, leg: Leg, want: int) -> int:
        """Read once, up to `want` bytes, and write; how many were read, -1 for nothing."""
        splicer = self._splicer
        pool = splicer.pool
        pipe = leg.pipe
        if pipe is None:
            pipe = pool.take()
            if pipe is None:
                return self._copy(leg, want)
        try:
            count = os.splice(leg.fd, pipe.write_fd, want, flags=_FLAGS)
        except (BlockingIOError, InterruptedError):
            leg.pipe = None
            pool.give(pipe)
            return -1
        except OSError as error:
            leg.pipe = None
            pool.give(pipe)
            if error.errno in _UNABLE:
                pool.limit = 0
                return self._copy(leg, want)
            self.broken(error.errno)
            return -1
        if not count:
            leg.pipe = None
            pool.give(pipe)
            leg.eof = True
            return -1
        leg.pipe = pipe
        leg.held = count
        if leg.left > 0:
            leg.left -= count
            leg.eof = not leg.left
        self._drain(leg)
        return count

    def _drain(self, leg: Leg) -> None:
        """Write what was read."""
        splicer = self._splicer
        if leg.rest is not None:
            self._drain_rest(leg, leg.rest)
            return
        pipe = leg.pipe
        assert pipe is not None
        try:
            count = os.splice(pipe.read_fd, leg.other.fd, leg.held, flags=_FLAGS)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.broken(error.errno)
            return
        leg.moved += count
        splicer.spliced += count
        leg.held -= count
        if not leg.held:
            leg.pipe = None
            splicer.pool.give(pipe)

    def _copy(self, leg: Leg, want: int) -> int:
        """As `_move`, through the shared buffer."""
        buffer = self._splicer.buffer
        try:
            count = leg.sock.recv_into(buffer, min(want, COPY_LEN))
        except (BlockingIOError, InterruptedError):
            return -1
        except OSError as error:
            self.broken(error.errno)
            return -1
        if not count:
            leg.eof = True
            return -1
        if leg.left > 0:
            leg.left -= count
            leg.eof = not leg.left
        self._drain_rest(leg, buffer[:count])
        if leg.rest is not None:
            leg.rest = memoryview(bytes(leg.rest))  # the buffer is everybody's
        return count

    def _drain_rest(self, leg: Leg, rest: memoryview) -> None:
        try:
            count = leg.other.sock.send(rest)
        except (BlockingIOError, InterruptedError):
            count = 0
        except OSError as error:
            self.broken(error.errno)
            return
        leg.moved += count
        self._splicer.copied += count
        leg.rest = rest[count:] if count < len(rest) else None

    # --- readiness -----------------------------------------------------------------------------

    def _settle(self, leg: Leg) -> None:
        """Watch for what this leg waits for now."""
        other = leg.other
        reading = not (leg.held or leg.rest is not None or leg.eof or leg.waiting)
        writing = other.held or other.rest is not None
        interest = (READ if reading else 0) | (WRITE if writing else 0)
        if interest == leg.interest:
            return
        watch = self._splicer.poller
        if leg.interest == _AWAY:
            if not interest:
                return
            watch.add(leg.fd, leg, interest)
        else:
            watch.change(leg.fd, interest)
        leg.interest = interest

    def look_away(self, leg: Leg) -> None:
        """Watch this leg no more until something is wanted of it."""
        if leg.interest != _AWAY:
            leg.interest = _AWAY
            self._splicer.poller.discard(leg.fd)

    # --- ends ----------------------------------------------------------------------------------

    def _end(self, leg: Leg) -> None:
        """All of this direction is out: pass its end on."""
        leg.done = True
        try:
            leg.other.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.broken(error.errno)
            return
        if leg.other.done:
            full = not (leg.left and leg.other.left)
            self._finish(DATA_UP if full else "", in_order=True)

    def broken(self, code: int | None) -> None:
        """One of the sockets failed with this errno: the other one shall, too."""
        self.close(os.strerror(code).lower() if code else "reset by one end")

    def close(self, reason: str) -> None:
        """End both connections with RST.  Idempotent."""
        self._finish(reason, in_order=False)

    def _finish(self, reason: str, *, in_order: bool) -> None:
        if self.closed:
            return
        self.closed = True
        for leg in (self.left, self.right):
            self.look_away(leg)
            if leg.pipe is not None:
                self._splicer.pool.drop(leg.pipe)
                leg.pipe = None
            leg.rest = None
            leg.held = 0
            if in_order:
                close_in_order(leg.sock)
            else:
                abort(leg.sock)
        self._traffic.shaper.remove(self._share)
        self._traffic.forget(self)
        self._splicer.circuits.discard(self)
        self._on_done(self, reason)


class Splicer:
    """All raw circuits of one process, and what they share."""

    def __init__(
        self, traffic: Traffic, *, pool: PipePool | None = None, watch: Poller | None = None
    ) -> None:
        self.traffic = traffic
        self.pool = pool if pool is not None else PipePool()
        self.poller = watch if watch is not None else poller(traffic.loop)
        self.buffer = memoryview(bytearray(COPY_LEN))
        self.circuits: set[SpliceCircuit] = set()
        self.spliced = 0
        """Bytes that the kernel moved."""
        self.copied = 0
        """Bytes that went through our memory."""

    def join(
        self,
        left: socket.socket,
        right: socket.socket,
        *,
        share: Share,
        limit: Limit | None = None,
        on_done: Callable[[SpliceCircuit, str], None],
    ) -> SpliceCircuit:
        """Make a circuit of two connected non-blocking sockets, which it owns from now on.

        Bytes move from the next turn of the loop on.
        """
        for sock in (left, right):
            _tune(sock)
        circuit = SpliceCircuit(self, left, right, share=share, limit=limit, on_done=on_done)
        self.circuits.add(circuit)
        try:
            for leg in (circuit.left, circuit.right):
                self.poller.add(leg.fd, leg, READ)
                leg.interest = READ
        except OSError as error:  # the kernel watches no more for this user
            code = error.errno
            self.traffic.soon(lambda: circuit.broken(code))
        if limit is not None and limit.duration:
            self.traffic.end_in(circuit, limit.duration)
        return circuit

    def close(self) -> None:
        """Reset every circuit and give everything back."""
        for circuit in list(self.circuits):
            circuit.close("the relay stops")
        self.poller.close()
        self.pool.close()


def _tune(sock: socket.socket) -> None:
    """Set what a leg wants; not every kind of socket takes all of it."""
    abort_on_exit(sock)
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):
        tune_network_socket(sock, "bbr" if _round_trip(sock) >= LONG_WAY else None)
        for name, value in KEEP_ALIVE:
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _round_trip(sock: socket.socket) -> int:
    """What the kernel measured while the connection was made, µs; 0 where it does not tell."""
    if not hasattr(socket, "TCP_INFO"):
        return 0
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT_AT + 4)
    return int.from_bytes(info[_RTT_AT:], sys.byteorder)
