"""Tunnel protocol 2 on one stream: offsets, acknowledgement, resume.

A `TunnelPump` outlives the stream it runs on.  When the path between the peers is lost it keeps the
local socket open and what the peer has not acknowledged; on the next path it gets a new stream and
goes on at the offset the peer names.  The application's connection never notices.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from pt.muxer import FRAME_HEADROOM, Carrier, Stream
from pt.node.buffers import POOL
from pt.node.pump import BURST, SMALL, SocketPump
from pt.tunnel.core.messages import ANSWER, Code, encode_answer
from pt.tunnel.core.replay import Replay

if TYPE_CHECKING:
    from pt.tunnel.session import BinderSession, TunnelSession

__all__ = ["BinderPump", "ExposerPump", "TunnelPump"]

KEEP_SLOT: Final = 24 * 1024
"""A shorter read is copied to bytes of its own size, so that its 64 KiB slot can be reused."""
ACK_EVERY: Final = 256 * 1024
"""Received bytes of one stream after which the acknowledgement does not wait for the timer."""


class TunnelPump(SocketPump):
    """What both ends share.  `received` counts the peer's bytes that are ours to deliver."""

    __slots__ = (
        "_waiting_ledger",
        "ack_dirty",
        "ack_told",
        "id",
        "port",
        "received",
        "replay",
        "sending",
        "session",
        "started",
    )

    def __init__(self, session: TunnelSession, sock: socket.socket, number: int, port: int) -> None:
        super().__init__(sock, session.loop, session.hangups)
        self.session = session
        self.id = number
        self.port = port
        self.replay = Replay(session.ledger, POOL.slots.give)
        self.received = 0
        self.ack_told = 0
        self.ack_dirty = False
        self.sending = False
        self.started = self._loop.time()
        self._waiting_ledger = False

    # --- local socket → stream -----------------------------------------------------------------

    def pump(self) -> None:  # noqa: C901, PLR0915  # one loop, kept in one place for its speed
        """See `SocketPump.pump`; bytes to be sent again go first."""
        stream, link = self.stream, self.link
        if stream is None or link is None or not self.sending:
            self._pause()
            return
        replay = self.replay
        for _ in range(BURST):
            if replay.fin and not replay.unsent:
                if not stream.local_closed:
                    replay.fin_sent()
                    stream.close()
                break
            window = stream.send_window
            if not window:
                self._wait_window()
                break
            if not link.room:
                self._wait_link()
                break
            room = min(window, link.frame)
            if replay.unsent:
                self._send_again(link, stream, replay.next_unsent(room))
                continue
            if self.closed:
                break
            if self.session.ledger.full and replay.keeps:
                self._wait_ledger()
                break
            slot = POOL.slots.take()
            count = self._read(slot[FRAME_HEADROOM : FRAME_HEADROOM + room])
            if count > 0:
                self.bytes_in += count
                data = slot[FRAME_HEADROOM : FRAME_HEADROOM + count]
                if count <= SMALL:
                    link.send_small(stream, data)
                else:
                    link.send_slot(stream, slot, count)
                if count < KEEP_SLOT:
                    replay.append_sent(bytes(data))
                    POOL.slots.give(slot)
                else:
                    replay.append_sent(data, slot)
                if count < room // 2:
                    if not self._reading:
                        self._wait_readable()
                    break
                continue
            POOL.slots.give(slot)
            if count == -1:
                self._wait_readable()
                break
            if count == 0:
                self.local_eof = True
                self._pause()
                self._hangups.add(self.fd, self._hung_up)
                replay.append_fin()
                continue
            return  # reset: nothing is left of us
        else:
            self._wait_turn()
        link.flush()
        if self.local_eof:
            self._maybe_finished()

    def _send_again(self, link: Carrier, stream: Stream, piece: memoryview) -> None:
        count = len(piece)
        if count <= SMALL:
            link.send_small(stream, piece)
        else:
            slot = POOL.slots.take()
            slot[FRAME_HEADROOM : FRAME_HEADROOM + count] = piece
            link.send_slot(stream, slot, count)
            POOL.slots.give(slot)
        self.replay.resent(count)

    def _wait_turn(self) -> None:
        """The burst is over: come back when there is more to read, or at once to send again or to
        send the end; a socket that has ended both ways is closed already and wakes nobody.
        """  # noqa: D205
        if self.replay.unsent or self.replay.fin:
            self._loop.call_soon(self.pump)
        else:
            self._wait_readable()

    def _wait_ledger(self) -> None:
        """The session keeps too much: an acknowledgement will call."""
        self._pause()
        if not self._waiting_ledger:
            self._waiting_ledger = True
            self.session.ledger_waiters.append(self)

    def ledger_ready(self) -> None:
        """Something was acknowledged."""
        self._waiting_ledger = False
        if not self.closed:
            self.pump()

    def link_ready(self) -> None:
        """The network took bytes; a closed socket may still have bytes to send again."""
        self._waiting_link = False
        self.pump()

    def window_opened(self) -> None:
        """The peer gave credit."""
        self.pump()

    def acked(self, received: int) -> None:
        """The peer has everything before `received`."""
        self.replay.ack(received)
        if self.replay.done:
            self._maybe_finished()

    # --- stream → local socket -----------------------------------------------------------------

    def data_received(self, data: memoryview) -> None:
        """Bytes of the stream: what the role expects first, then the connection's."""
        raise NotImplementedError

    def _take(self, data: memoryview) -> None:
        """Bytes of the connection arrived."""
        self.received += len(data)
        if not self.ack_dirty:
            self.ack_dirty = True
            self.session.ack_later(self)
        if self.received - self.ack_told >= ACK_EVERY:
            self.session.send_acks()
        if not self.closed:
            self._deliver(data)

    def eof_received(self) -> None:
        """The peer's end of stream; on a resumed stream it may come a second time."""
        if self.remote_eof:
            return
        self.received += 1
        if not self.ack_dirty:
            self.ack_dirty = True
            self.session.ack_later(self)
        self._remote_ended()

    # --- paths ---------------------------------------------------------------------------------

    def attach(self, link: Carrier, stream: Stream) -> None:
        """Run on this stream from now on."""
        self.link = link
        self.stream = stream
        stream.handler = self

    def stream_lost(self, code: int | None) -> None:
        """None: the path is gone, wait for another.  Else the peer reset the connection."""
        self.stream = None
        self.link = None
        self.sending = False
        self._waiting_link = self._waiting_ledger = False
        self._pause()
        if code is not None:
            self.end("reset by the peer", reset=True)

    # --- ends ----------------------------------------------------------------------------------

    def _local_reset(self) -> None:
        self.end("reset by the application", reset=True)

    def _maybe_finished(self) -> None:
        if self.local_eof and self.write_closed:
            self._close_socket(reset=False)
            if self.replay.done:
                self.end("", reset=False)

    def peer_forgot(self, reason: str) -> None:
        """The peer knows this connection no more: it has all it will ever take.  What it sent may
        still wait for our local socket, and gets there if the peer's end of stream did.
        """  # noqa: D205
        if not (self.local_eof and self.remote_eof):
            self.end(reason, reset=True)
            return
        stream, self.stream = self.stream, None
        self.link = None
        self.sending = False
        if stream is not None:
            stream.handler = None
            stream.close()
        self.replay.drop()
        self._maybe_finished()

    def end(self, reason: str, *, reset: bool) -> None:
        """Forget this connection: the local socket is closed or reset, the stream likewise."""
        stream, link = self.stream, self.link
        self.stream = None
        self.link = None
        if stream is not None:
            if stream.closed or not reset:
                stream.handler = None
            else:
                if link is not None:
                    link.flush()  # what was read before the reset: it may say what all this is
                stream.reset()
                if link is not None:
                    link.flush()
        self._close_socket(reset=reset)
        self.replay.drop()
        self.session.forget(self, reason)


class BinderPump(TunnelPump):
    """The binder's end: it opens streams and waits for answers."""

    __slots__ = ("_head", "_reply", "announced", "opened", "resuming")

    def __init__(self, session: BinderSession, sock: socket.socket, number: int, port: int) -> None:
        super().__init__(session, sock, number, port)
        self.session: BinderSession = session
        self.announced = False  # an OPEN was sent on some path
        self.opened = False  # it was answered
        self.resuming = False  # a RESUME waits for its answer
        self._head: bytearray | None = None
        self._reply = b""

    def expect(self, reply: bytes) -> None:
        """Expect the negotiation's `reply` and an ANSWER before the bytes."""
        self._reply = reply
        self._head = bytearray()

    def data_received(self, data: memoryview) -> None:
        """Deliver, once the answer is complete."""
        if self._head is None:
            self._take(data)
            return
        head = self._head
        before = len(head)
        head += data
        start = len(self._reply)
        if head[:start] != self._reply[: len(head)]:
            self.end("the peer does not speak this protocol", reset=True)
            return
        stop = start + ANSWER.size
        if len(head) >= stop:
            code, length, received = ANSWER.unpack_from(head, start)
            stop += length
            if len(head) >= stop:
                self._head = None
                self._credit(stop - before)
                reason = head[stop - length : stop].decode(errors="replace")
                self.session.answered(self, code, received, reason)
                rest = memoryview(head)[stop:]
                if len(rest) and self.stream is not None:
                    self._take(rest)
                return
        self._credit(len(data))

    def go(self, received: int) -> None:
        """The peer answered OK and has everything before `received`.

        Raises:
            RemoteProtocolError: the peer names an offset that cannot be.

        """
        self.opened = True
        if self.resuming:
            self.resuming = False
            self.replay.rewind(received)
            self.sending = True
            self.pump()
        else:
            self.replay.ack(received)


class ExposerPump(TunnelPump):
    """The exposer's end: it connects to the target and answers."""

    __slots__ = ("_reply",)

    def __init__(self, session: TunnelSession, sock: socket.socket, number: int, port: int) -> None:
        super().__init__(session, sock, number, port)
        self.connected = False
        self._reply = b""

    def owe(self, reply: bytes) -> None:
        """Owe the peer the negotiation's `reply` and an ANSWER; pay when the target is there."""
        self._reply = reply
        if self.connected:
            self._answer_ok()

    def target_connected(self) -> None:
        """The target accepted."""
        self.connected = True
        self.give_up_dial = None
        if self.stream is not None:
            self._answer_ok()
        if self._backlog is not None:
            self._wait_writable()
        elif self.remote_eof:
            self._shutdown_write()

    def _answer_ok(self) -> None:
        assert self.link is not None
        assert self.stream is not None
        self.link.send_small(self.stream, self._reply + encode_answer(Code.OK, self.received))
        self.sending = True
        if self.local_eof or self.replay.unsent or self.closed:
            self.pump()
        else:
            self._wait_readable()

    def refuse(self, code: Code, reason: str) -> None:
        """The target cannot be reached: say so, and forget the connection."""
        if self.stream is not None and self.link is not None:
            self.link.send_small(self.stream, self._reply + encode_answer(code, 0, reason))
            self.stream.close()
            self.link.flush()
            self.stream.handler = None
            self.stream = None
        self.end(reason, reset=False)

    def data_received(self, data: memoryview) -> None:
        """Deliver."""
        self._take(data)
