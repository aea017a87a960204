"""FINs that stand alone, for a core that forgets them.

qh3's core drops an empty STREAM frame with FIN that is lost while earlier bytes of its stream are
under way, and does not note that it was acknowledged then.  So such a FIN goes in packets of our
own, again and again, until the core has ended the stream; the core itself gets it when nothing is
under way, or after a few tries on a connection that never rests.
"""

from __future__ import annotations

from typing import Final

from pt.quic.packets import put_varint

__all__ = ["Fins"]

STREAM_FIN: Final = b"\x0f"
"""STREAM with offset, length and FIN."""
PATIENCE: Final = 8
"""Tries after which the core gets a FIN although something is under way."""
TRIES: Final = 12


class _Fin:
    __slots__ = ("again", "delay", "given", "offset", "tries")

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.tries = 0
        self.again: float | None = None
        self.delay = 0.0
        self.given = False


class Fins:
    """All streams' of one connection."""

    def __init__(self) -> None:
        self._fins: dict[int, _Fin] = {}
        self._due: dict[int, None] = {}

    def add(self, stream: int, offset: int) -> None:
        """A stream ends at `offset`, with no frame to put that into."""
        self._fins[stream] = _Fin(offset)

    def close(self, stream: int) -> None:
        """The stream is over, or was reset."""
        self._fins.pop(stream, None)
        self._due.pop(stream, None)

    def held(self) -> list[int]:
        """Streams whose FIN the core does not have."""
        return [stream for stream, fin in self._fins.items() if not fin.given]

    def patient(self, stream: int) -> bool:
        """Whether the core shall not have it yet, if something is under way."""
        return self._fins[stream].tries < PATIENCE

    def given(self, stream: int) -> None:
        """The core has it, too."""
        self._fins[stream].given = True

    def tell(self, stream: int, now: float, interval: float) -> None:
        """All bytes have been sent: send FIN, and repeat it from `interval` on."""
        fin = self._fins[stream]
        if fin.again is None:
            fin.delay = interval
            self._try(stream, fin, now)

    def next_timeout(self) -> float | None:
        """When something is to be repeated."""
        return min((f.again for f in self._fins.values() if f.again is not None), default=None)

    def expire(self, now: float) -> None:
        """Repeat what may have been lost."""
        for stream, fin in list(self._fins.items()):
            if fin.again is None or fin.again > now:
                continue
            if fin.tries < TRIES:
                fin.delay *= 2 if fin.given else 1
                self._try(stream, fin, now)
            else:
                self.close(stream)

    @property
    def due(self) -> bool:
        """Whether `frames` has something to tell."""
        return bool(self._due)

    def frames(self, room: int) -> bytes:
        """Frames to send now, at most `room` bytes; what does not fit stays."""
        out = b""
        for stream in list(self._due):
            frame = STREAM_FIN + put_varint(stream) + put_varint(self._fins[stream].offset) + b"\0"
            if len(out) + len(frame) > room:
                break
            out += frame
            del self._due[stream]
        return out

    def _try(self, stream: int, fin: _Fin, now: float) -> None:
        fin.tries += 1
        fin.again = now + fin.delay
        self._due[stream] = None
