"""How fast answers come, and when those for whom there is no room are told to come again."""

from __future__ import annotations

import math
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable

SECONDS_AN_ANSWER = 0.05
"""The pace that is supposed before any was measured."""
SECONDS_OF_LOAD = 2
"""After a question was refused the engine counts as under load for so long."""
REMEMBERED = 10
"""Refused questions that are taken to come again, for each that may wait."""
SECONDS_TO_LAPSE = 3
"""So long after its time an invitation is kept for somebody who is late."""
REMEMBERED_ENDS = 256
"""Invitations, taken up or lapsed, by which it is judged how many come at all."""
SUPPOSED = 8
"""Invitations that are supposed to have been taken up before any was."""
AGAIN = 1.5
"""So many times as many are told to come for whom there was no room when they came as told."""
INVITED = 0.8
"""Of what is answered in a time, the part for which the refused are told to come: pace and arrivals vary."""


class Pace:
    """How many seconds an answer takes: over the last answers, from whole ones.

    What counts is the pace under load, all that holds the engine up included. Until there was load, it is the
    time for which the engine worked: an answer alone takes nearly a batch's time, so that is a careful guess.
    """

    def __init__(self) -> None:
        self._all, self._loaded = _Ends(), _Ends()

    def worked(self, seconds: float, answers: int, under_load: bool) -> None:
        """So many answers ended. seconds: worked for them; under_load: those since the last ones ended."""
        (self._loaded if under_load else self._all).add(seconds, answers)

    @property
    def seconds_each(self) -> float:
        """Seconds an answer takes, above 0."""
        ends = self._loaded if self._loaded.number >= _Ends.ENOUGH else self._all
        return max(ends.seconds_each if ends.number else SECONDS_AN_ANSWER, 1e-6)


class _Ends:
    """When the last answers ended, on a clock that runs while it is told to."""

    ENOUGH = 16

    def __init__(self) -> None:
        self._clock = 0.0
        self._ends: deque[float] = deque([0.0], maxlen=257)

    def add(self, seconds: float, answers: int) -> None:
        self._clock += seconds
        self._ends.extend([self._clock] * answers)

    @property
    def number(self) -> int:
        return len(self._ends) - 1

    @property
    def seconds_each(self) -> float:
        return (self._ends[-1] - self._ends[0]) / self.number


class Invitations:
    """When those who were refused were told to come again: spread so that they find room when they come.

    Told all the same time, they would come all at once and most be refused again, and again. Not all come:
    an invitation that nobody takes up lapses, and how many were taken up of late says how many to expect.
    """

    def __init__(self, room: int, pace: Pace, clock: Callable[[], float] = time.monotonic) -> None:
        """room: how many may wait."""
        self._room, self._pace, self._clock = room, pace, clock
        self._times: list[float] = []  # of invitations neither taken up nor lapsed, in order
        self._last = -math.inf  # when somebody was refused
        self._taken_up: deque[bool] = deque([True] * SUPPOSED, maxlen=REMEMBERED_ENDS)

    def came(self, number: int) -> None:
        """So many came again, and found room."""
        self._lapse(self._clock())
        taken_up = self._times[:number]  # theirs, or as good as theirs
        del self._times[:number]
        self._taken_up.extend([True] * len(taken_up))

    def retry_after(self, waiting: int, refused: int, again: bool = False) -> int:
        """Whole seconds, 1 at least, after which so many refused questions find room.

        Not before those are answered who wait or are about to come, and at a time for which no more are
        expected than there is room for. Who comes `again` as told needs but a place to become free. Who asks
        without waiting is counted each time: no more are remembered than `REMEMBERED` for each that may wait.
        """
        now, each = self._clock(), self._pace.seconds_each
        self._last = now
        if again:
            self.came(refused)
            after = self._with_room(now, max(1, math.ceil(refused * each)), refused, AGAIN * INVITED)
        else:
            self._lapse(now)
            about_to_come = bisect_left(self._times, now + 1) * self._share
            soonest = max(1, math.ceil((waiting + about_to_come) * each))
            after = self._with_room(now, soonest, refused, INVITED)
        if len(self._times) < REMEMBERED * self._room:
            for _ in range(refused):
                insort(self._times, now + after)
        return after

    @property
    def under_load(self) -> bool:
        """Whether somebody was refused a moment ago."""
        return self._clock() - self._last < SECONDS_OF_LOAD

    def kept_free(self, waiting: int) -> int:
        """Places kept for those who will come while those who wait now are answered: none where nobody waits.

        They come while others ask for the first time; without places of their own they would be refused
        again and again. A quarter of the line is open to anybody.
        """
        now = self._clock()
        self._lapse(now)
        if not waiting or not self._times:
            return 0
        expected = bisect_left(self._times, now + waiting * self._pace.seconds_each) * self._share
        return max(0, min(int(expected), self._room) - self._room // 4)

    @property
    def _share(self) -> float:
        """Of those who were told to come, the part that does."""
        return sum(self._taken_up) / len(self._taken_up)

    def _lapse(self, now: float) -> None:
        lapsed = bisect_left(self._times, now - SECONDS_TO_LAPSE)
        del self._times[:lapsed]
        self._taken_up.extend([False] * lapsed)

    def _with_room(self, now: float, soonest: int, refused: int, part: float) -> int:
        """The first whole second from `soonest` on for which few enough are expected.

        part: of what is answered in a time, for which people are told to come.
        """
        each = self._pace.seconds_each
        span = max(each, min(1.0, self._room * each))
        most = max(1, round(part * span / each))
        latest = soonest + math.ceil(REMEMBERED * self._room * each / INVITED)
        for after in range(soonest, latest, max(1, int(span))):
            when = now + after
            at = bisect_left(self._times, when)
            told = max(at - bisect_left(self._times, when - span), bisect_left(self._times, when + span) - at)
            if told * self._share + min(refused, most) <= most:
                return after
        return latest
