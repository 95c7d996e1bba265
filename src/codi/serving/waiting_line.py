"""Who is next, and how long it takes: the questions that wait, and the pace at which answers come."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from codi.serving.job import Job

NEWCOMERS_TOKENS = 4096
"""Tokens, padding included, that those who join in one turn may have: the others wait that long for theirs."""
ROOM_TO_GROW = 32
"""Positions a row may grow before memory is looked at again."""
SECONDS_AN_ANSWER = 0.05
"""The pace that is supposed before any was measured."""


@dataclass(frozen=True)
class Bounds:
    """rows: answers in the making; rationales: of these, such as write their rationale; positions: rows times
    the width of the widest, padding included."""

    rows: int
    rationales: int
    positions: int


class WaitingLine:
    """Questions in the order in which they came. Not guarded against threads: its owner is."""

    def __init__(self, max_overtaken: int) -> None:
        """max_overtaken: how many may go before a long question that finds no room, until nobody may."""
        self._jobs: deque[Job] = deque()
        self.max_overtaken = max_overtaken

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def add(self, jobs: list[Job]) -> None:
        """At the end."""
        self._jobs.extend(jobs)

    def put_back(self, job: Job) -> None:
        """At the front: it was there before."""
        self._jobs.appendleft(job)

    def remove(self, job: Job) -> None:
        """If it is there."""
        if job in self._jobs:
            self._jobs.remove(job)

    def clear(self) -> list[Job]:
        """All of them, who wait no longer."""
        jobs, self._jobs = list(self._jobs), deque()
        return jobs

    def next_group(self, bounds: Bounds, running: list[Job], width: int) -> list[Job]:
        """Those who join now: the first for whom there is room, and all behind who think alike and fit.

        running: answers in the making, `width` positions wide. Whoever finds no room for its positions is
        passed by, but not for ever; where nothing runs, the first in the line joins, however large.
        """
        group: list[Job] = []
        passed: list[Job] = []
        rationales = sum(job.mode == "explicit" for job in running)
        for job in self._jobs:
            rows = len(running) + len(group) + 1
            if rows > bounds.rows:
                break
            if group and job.goes_with != group[0].goes_with:
                continue
            if job.mode == "explicit" and rationales >= bounds.rationales:
                continue
            widest = max([width, *(one.width for one in group), job.width])
            if rows > 1 and rows * (widest + ROOM_TO_GROW) > bounds.positions:
                if job.overtaken >= self.max_overtaken:
                    break
                passed.append(job)
                continue
            longest = max(len(one.ids) for one in [*group, job])
            if group and (len(group) + 1) * longest > NEWCOMERS_TOKENS:
                break
            group.append(job)
            rationales += job.mode == "explicit"
            for one in passed:
                one.overtaken += 1
        if group:
            joining = set(group)
            self._jobs = deque(job for job in self._jobs if job not in joining)
            for job in group:
                job.is_taken = True
        return group


class Pace:
    """How many seconds of the engine's time an answer takes, over the last answers, from whole ones.

    What counts is the pace under load: an answer alone takes a batch's time. Until there was load, the pace
    is that of all answers.
    """

    def __init__(self, max_promised: int, clock: Callable[[], float] = time.monotonic) -> None:
        """max_promised: how many of the refused are taken to come again."""
        self._all, self._crowded = _Ends(), _Ends()
        self._promised, self._max_promised = 0.0, max_promised
        self._clock, self._since = clock, clock()

    def worked(self, seconds: float, answers: int, somebody_waits: bool) -> None:
        """The engine worked so long, and so many answers ended."""
        for ends in (self._all, self._crowded) if somebody_waits else (self._all,):
            ends.add(seconds, answers)

    @property
    def seconds_each(self) -> float:
        """Seconds an answer takes."""
        ends = self._crowded if self._crowded.number >= _Ends.ENOUGH else self._all
        return ends.seconds_each if ends.number else SECONDS_AN_ANSWER

    def retry_after(self, waiting: int, refused: int) -> int:
        """Whole seconds, 1 at least, after which so many refused questions can be answered.

        Before them come those who wait, and those who were refused earlier and told to come again; of these,
        who asks without waiting is counted each time, so they are taken to be `max_promised` at most.
        """
        now, each = self._clock(), self.seconds_each
        self._promised = max(0.0, self._promised - (now - self._since) / max(each, 1e-6))
        self._since = now
        seconds = (waiting + self._promised + refused) * each
        self._promised = min(self._promised + refused, self._max_promised)
        return max(1, math.ceil(seconds))


class _Ends:
    """When the last answers ended, on a clock that runs while the engine works."""

    ENOUGH = 16

    def __init__(self) -> None:
        self._clock = 0.0
        self._ends: deque[float] = deque([0.0], maxlen=129)

    def add(self, seconds: float, answers: int) -> None:
        self._clock += seconds
        self._ends.extend([self._clock] * answers)

    @property
    def number(self) -> int:
        return len(self._ends) - 1

    @property
    def seconds_each(self) -> float:
        return (self._ends[-1] - self._ends[0]) / self.number
