"""The fresh sockets of an attempt: which step each is of, and how many it may have."""

from __future__ import annotations

from pt.punch.candidates import Address
from pt.punch.commands import MAIN, PRESAMPLED, CloseSocket
from pt.punch.strategies import Step, Strategy

__all__ = ["FreshSockets"]


class FreshSockets:
    """Numbers from 1; that of a sample that went with our offer is open before the attempt."""

    def __init__(self, sample: Address | None) -> None:
        self._sample = sample
        self._next = PRESAMPLED if sample is None else PRESAMPLED + 1
        self._steps: dict[int, Step] = {}

    def open(self, step: Step) -> int | None:
        """A number for one more socket of `step`; None: it has all that it may have."""
        if sum(1 for each in self._steps.values() if each is step) >= step.sockets:
            return None
        sock = self._next
        self._next += 1
        self._steps[sock] = step
        return sock

    def take_sample(self, step: Step) -> tuple[int, Address] | None:
        """Give `step` the socket of our offer's sample, and the sample; only once."""
        if self._sample is None:
            return None
        sample, self._sample = self._sample, None
        self._steps[PRESAMPLED] = step
        return PRESAMPLED, sample

    def strategy(self, sock: int) -> Strategy | None:
        """What a socket was opened for; None: it is not one of these."""
        step = self._steps.get(sock)
        return None if step is None else step.strategy

    def close(self, but: int = MAIN) -> list[CloseSocket]:
        """Close all but one."""
        closed = [CloseSocket(sock) for sock in self._steps if sock != but]
        if self._sample is not None:
            self._sample = None
            closed.append(CloseSocket(PRESAMPLED))
        self._steps = {sock: step for sock, step in self._steps.items() if sock == but}
        return closed
