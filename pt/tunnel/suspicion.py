"""Whether a path that fell silent while bytes move should be left: a judgement without I/O.

A quiet path is asked, and the standby along with it.  It is to be left when its answer is overdue
and the standby has answered meanwhile: a process that is held up, the peer's or this one, is silent
on both.  Who left a path that was alive after all takes longer the next time.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Final

__all__ = ["GIVE_UP", "Alarms", "Step", "Suspicion"]

QUICK_ASK: Final = 0.04
"""Seconds of silence after which a path that should bring bytes is asked."""
ASK_AFTER: Final = 0.15
"""The same where nothing in particular is expected."""
ASK_AGAIN: Final = 0.03
"""Seconds, or a round trip, after which it is asked again."""
OVERDUE: Final = 0.08
"""Seconds without an answer, and 1.5 round trips and four jitters, that make a suspect."""
GIVE_UP: Final = 0.65
"""Seconds without an answer, and three round trips, after which the path is taken for dead."""
MAX_RTT: Final = 1.0
DEFAULT_RTT: Final = 0.1
LATE: Final = 0.05
"""A look that comes so late (s) says that this process was held up: silence counts anew."""
RECENT: Final = 60.0
"""Seconds for which an alarm is remembered."""
MAX_ALARMS: Final = 8
MAX_PLACES: Final = 8
MAX_CAUTION: Final = 8.0
HOLD: Final = 0.25
MAX_HOLD: Final = 30.0


class Step(enum.Enum):
    """What to do about a path."""

    WAIT = enum.auto()
    ASK = enum.auto()
    """Whether it is there, and the standby, too."""
    LEAVE = enum.auto()
    """Go on over the standby, and see whether this one comes back."""
    LOSE = enum.auto()


class Alarms:
    """Paths that were left lately: what makes the next time slower."""

    def __init__(self) -> None:
        self._left: deque[float] = deque(maxlen=MAX_ALARMS)
        self._false: deque[float] = deque(maxlen=MAX_ALARMS)

    def left(self, now: float) -> None:
        """A path was left."""
        self._left.append(now)

    def false(self, now: float) -> None:
        """It was alive."""
        self._false.append(now)

    def caution(self, now: float) -> float:
        """By how much answers may be more overdue: doubled by each false alarm."""
        return min(float(1 << _recent(self._false, now)), MAX_CAUTION)

    def hold(self, now: float) -> float:
        """Seconds that a path which came back waits for the session: doubled each time."""
        return min(HOLD * (1 << _recent(self._left, now)), MAX_HOLD)


def _recent(times: deque[float], now: float) -> int:
    return sum(now - each < RECENT for each in times)


class Suspicion:
    """What is thought of the path in use; `begin` with each one."""

    def __init__(self, alarms: Alarms) -> None:
        self._alarms = alarms
        self._forgiven = 0.0
        self._first: float | None = None  # since when an answer is waited for
        self._asked = 0.0
        self.answered = 0.0
        """When the path answered last."""
        self._left = False
        self._last: float | None = None
        self._jitter = 0.0
        self._place: object = None
        self._least: dict[object, float] = {}

    def begin(self, now: float, place: object) -> None:
        """Another path is in use, to `place`: paths to one place have one least round trip."""
        self._place = place
        self._last = None
        self._jitter = 0.0
        self.rest(now)

    def rest(self, now: float) -> None:
        """Nothing that happened before counts."""
        self._first = None
        self._left = False
        self._forgiven = now

    @property
    def waiting(self) -> bool:
        """Whether the path owes an answer."""
        return self._first is not None

    def _measure(self, rtt: float | None) -> tuple[float, float]:
        """The round trip of the path when it is empty (queues do not make it silent), and what
        answers may take longer.
        """  # noqa: D205
        if rtt is None:
            return DEFAULT_RTT, 0.0
        rtt = min(rtt, MAX_RTT)
        if self._last is not None and rtt != self._last:
            self._jitter += (abs(rtt - self._last) - self._jitter) / 8
        self._last = rtt
        least = min(rtt, self._least.pop(self._place, rtt))
        self._least[self._place] = least
        if len(self._least) > MAX_PLACES:
            del self._least[next(iter(self._least))]
        return least, self._jitter

    def look(
        self,
        now: float,
        *,
        late: float,
        heard: float,
        spare: float | None,
        rtt: float | None,
        quick: bool,
    ) -> Step:
        """`late`: by how much this look is. `heard`: when the path, and `spare`: when a standby,
        brought something last. `quick`: whether bytes are expected.
        """  # noqa: D205
        least, jitter = self._measure(rtt)
        if late > LATE:
            self._forgiven = now
        heard = max(heard, self._forgiven)
        if self._first is not None and heard >= self._first:
            self._first = None
            self._left = False
            self.answered = now
        if self._first is None:
            if now - heard < (QUICK_ASK if quick else ASK_AFTER):
                return Step.WAIT
            self._first = self._asked = now
            return Step.ASK
        unanswered = now - self._first
        if unanswered > GIVE_UP + 3 * max(least, self._last or 0.0):
            return Step.LOSE
        overdue = max(OVERDUE, 1.5 * least + 4 * jitter) * self._alarms.caution(now)
        answers = spare is not None and spare >= self._first
        if unanswered >= overdue and answers and not self._left:
            self._left = True
            return Step.LEAVE
        if now - self._asked >= max(ASK_AGAIN, least):
            self._asked = now
            return Step.ASK
        return Step.WAIT
