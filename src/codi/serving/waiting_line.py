"""Who is next: the questions that wait, and for whom there is room."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from codi.serving.job import Job

NEWCOMERS_TOKENS = 4096
"""Tokens, padding included, that those who join in one turn may have: the others wait for them."""
ROOM_TO_GROW = 32
"""Positions a row may grow before memory is looked at again."""


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

    def add(self, jobs: list[Job], behind: int | None = None) -> None:
        """At the end, or behind so many."""
        if behind is None:
            self._jobs.extend(jobs)
            return
        for place, job in enumerate(jobs, start=behind):
            self._jobs.insert(place, job)

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
        longest = 0
        for job in self._jobs:
            rows = len(running) + len(group) + 1
            if rows > bounds.rows:
                break
            if group and job.goes_with != group[0].goes_with:
                continue
            if job.mode == "explicit" and rationales >= bounds.rationales:
                continue
            widest = max(width, job.width)
            if rows > 1 and rows * (widest + ROOM_TO_GROW) > bounds.positions:
                if job.overtaken >= self.max_overtaken:
                    break
                passed.append(job)
                continue
            if group and (len(group) + 1) * max(longest, len(job.ids)) > NEWCOMERS_TOKENS:
                break
            group.append(job)
            width, longest = widest, max(longest, len(job.ids))
            rationales += job.mode == "explicit"
            for one in passed:
                one.overtaken += 1
        if group:
            joining = set(group)
            self._jobs = deque(job for job in self._jobs if job not in joining)
            for job in group:
                job.is_taken = True
        return group
