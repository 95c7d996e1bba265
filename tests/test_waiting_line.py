"""Who is next, and what a refused client is told about when to come again."""

from __future__ import annotations

import heapq
import random
from typing import Any

import pytest

from codi.serving.job import Job, Question
from codi.serving.pace import Invitations, Pace
from codi.serving.waiting_line import NEWCOMERS_TOKENS, ROOM_TO_GROW, Bounds, WaitingLine

ROOMY = Bounds(rows=8, rationales=8, positions=10_000)


def job(name: str, tokens: int = 10, mode: str = "latent", **asked: Any) -> Job:
    return Job(Question(name, **asked), [1] * tokens, mode, lambda _: None, width=tokens + 8)


def line(*jobs: Job, max_overtaken: int = 3) -> WaitingLine:
    made = WaitingLine(max_overtaken)
    made.add(list(jobs))
    return made


def names(jobs: list[Job]) -> list[str]:
    return [one.question.text for one in jobs]


def test_those_who_think_alike_go_together_and_the_first_is_always_among_them() -> None:
    waiting = line(job("a"), job("b", latents=3), job("c"), job("d", mode="explicit"), job("e", latents=3))
    assert names(waiting.next_group(ROOMY, [], 0)) == ["a", "c"]
    assert names(waiting.next_group(ROOMY, [], 0)) == ["b", "e"]
    assert names(waiting.next_group(ROOMY, [], 0)) == ["d"]
    assert waiting.next_group(ROOMY, [], 0) == []


def test_rows_are_bounded() -> None:
    waiting = line(*(job(name) for name in "abcdef"))
    running = [job("x") for _ in range(6)]
    assert names(waiting.next_group(ROOMY, running, 20)) == ["a", "b"]
    assert waiting.next_group(ROOMY, [job("x") for _ in range(8)], 20) == []
    assert len(waiting) == 4


def test_rationales_leave_room_for_short_answers() -> None:
    waiting = line(*(job(name, mode="explicit") for name in "abc"), job("short"))
    bounds = Bounds(rows=4, rationales=2, positions=10_000)
    written = waiting.next_group(bounds, [], 0)
    assert names(written) == ["a", "b"]
    assert names(waiting.next_group(bounds, written, 18)) == ["short"]
    assert names(waiting.next_group(bounds, written[:1], 18)) == ["c"]  # one has ended


def test_a_long_question_is_passed_by_but_not_for_ever() -> None:
    """It finds no room beside the others; three may go before it, then all wait until it has gone."""
    bounds = Bounds(rows=8, rationales=8, positions=4 * (20 + ROOM_TO_GROW))
    waiting = line(job("long", tokens=180), *(job(name) for name in "abcdef"))
    running = [job("x")]
    assert names(waiting.next_group(bounds, running, 18)) == ["a", "b", "c"]
    assert waiting.next_group(bounds, running, 18) == []
    assert names(waiting.next_group(bounds, [], 0)) == ["long"]  # alone, however large
    assert names(waiting.next_group(bounds, running, 18)) == ["d", "e", "f"]


def test_newcomers_do_not_hold_the_others_up_for_long() -> None:
    """A turn takes in so many tokens, padding counted; a longer question goes alone."""
    short, long = NEWCOMERS_TOKENS // 4, NEWCOMERS_TOKENS * 2
    bounds = Bounds(rows=64, rationales=64, positions=10**9)
    waiting = line(*(job(name, tokens=short) for name in "abcde"), job("long", tokens=long), job("f"))
    assert names(waiting.next_group(bounds, [], 0)) == ["a", "b", "c", "d"]
    assert names(waiting.next_group(bounds, [], 0)) == ["e"]  # not padded to the long one
    assert names(waiting.next_group(bounds, [], 0)) == ["long"]
    assert names(waiting.next_group(bounds, [], 0)) == ["f"]


def test_who_is_put_back_is_first() -> None:
    waiting = line(job("a"))
    waiting.put_back(job("before"))
    assert names(waiting.next_group(ROOMY, [], 0)) == ["before", "a"]
    [left] = [job("left")]
    waiting.add([left])
    waiting.remove(left)
    waiting.remove(left)
    assert (len(waiting), waiting.clear()) == (0, [])


# --- pace ---


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_pace_is_that_of_whole_answers_under_load() -> None:
    pace = Pace()
    for _ in range(50):
        pace.worked(0.2, 1, under_load=False)
    assert pace.seconds_each == pytest.approx(0.2)
    for _ in range(400):  # batches of 8 that take 16 turns: the turns in between end nothing
        pace.worked(0.05, 8 if _ % 16 == 15 else 0, under_load=True)
    assert pace.seconds_each == pytest.approx(0.1, rel=0.1)
    for _ in range(50):
        pace.worked(0.2, 1, under_load=False)  # alone again: that says nothing about a full line
    assert pace.seconds_each == pytest.approx(0.1, rel=0.1)


class Simulated:
    """A server that answers one question after the other, and clients who come, are refused, and come again.

    returns: the part of the refused that ever come again; the others are never seen any more.
    """

    def __init__(self, seconds_each: float, room: int, returns: float = 1.0) -> None:
        self.each, self.room, self.returns = seconds_each, room, returns
        self.rng, self.clock, self.pace = random.Random(1), Clock(), Pace()
        self.invitations = Invitations(room, self.pace, self.clock)
        for _ in range(64):
            self.pace.worked(seconds_each, 1, under_load=True)
        self.begun, self.clients = self.clock.now, 0
        self.events: list[tuple[float, int, bool]] = []
        self.queue: list[int] = []
        self.told: dict[int, tuple[float, int]] = {}
        self.waits: list[tuple[int, float]] = []
        """What each was told when it was first refused, and the wait that followed."""
        self.answered = 0
        self.refused_at: list[tuple[float, int]] = []

    def come(self, when: float) -> None:
        """Somebody new, so many seconds after the beginning."""
        self.clients += 1
        heapq.heappush(self.events, (self.begun + when, self.clients, False))

    def run(self, seconds: float, *, and_anew: bool = False) -> None:
        """and_anew: whoever is answered asks again at once."""
        while self.events and self.events[0][0] < self.begun + seconds:
            self.clock.now, client, again = heapq.heappop(self.events)
            if client == 0:
                self._answer(and_anew)
            elif len(self.queue) + (0 if again else self.invitations.kept_free(len(self.queue))) < self.room:
                if again:
                    self.invitations.came(1)
                self.queue.append(client)
                if len(self.queue) > 1:
                    continue
            else:
                after = self.invitations.retry_after(len(self.queue), 1, again)
                self.refused_at.append((self.clock.now - self.begun, after))
                self.told.setdefault(client, (self.clock.now, after))
                if again or self.rng.random() < self.returns:
                    late = 0.02 * self.rng.random()
                    heapq.heappush(self.events, (self.clock.now + after + late, client, True))
                continue
            if self.queue:
                took = self.each * self.rng.uniform(0.8, 1.2)
                heapq.heappush(self.events, (self.clock.now + took, 0, False))

    def _answer(self, and_anew: bool) -> None:
        client, self.answered = self.queue.pop(0), self.answered + 1
        if client in self.told:
            since, after = self.told.pop(client)
            self.waits.append((after, self.clock.now - since))
        if and_anew:
            heapq.heappush(self.events, (self.clock.now + 0.02 * self.rng.random(), client, False))

    def right(self) -> float:
        """The part of the waits that was within a factor of 2 of what was told."""
        return sum(after / 2 <= waited <= 2 * after for after, waited in self.waits) / len(self.waits)


@pytest.mark.parametrize(("seconds_each", "room"), [(0.0025, 128), (0.05, 64)])
def test_the_refused_are_told_when_they_will_be_answered(seconds_each: float, room: int) -> None:
    """Ten times as many clients as may wait, each asking anew once answered: the server is never idle."""
    server, seconds = Simulated(seconds_each, room), 60 * room * seconds_each
    for _ in range(10 * room):
        server.come(server.rng.random())
    server.run(seconds, and_anew=True)
    assert server.answered > 0.95 * seconds / seconds_each
    assert len(server.waits) > 10 * room
    assert server.right() > 0.9


@pytest.mark.parametrize("returns", [0.0, 0.3, 1.0])
def test_who_never_comes_again_is_expected_no_longer(returns: float) -> None:
    """A great many at once, some of whom or none come again; then newcomers, more than are answered.

    Once the first invitations are over, what is told is the line as it is. A place is kept for nobody where
    nobody waits, and the line is never kept empty for people who do not come.
    """
    server = Simulated(0.05, 64, returns)
    for _ in range(1000):
        server.come(server.rng.random())
    for number in range(1600):
        server.come(60 + number / 40)  # 40 come a second, 20 are answered
    server.run(400)
    line = server.room * server.each
    if not returns:
        late = [after for when, after in server.refused_at if when > 60]
        assert late
        assert all(line / 2 <= after <= 2 * (line + 1) for after in late)
        assert server.answered > 64 + 0.95 * 40 / server.each
    else:
        assert server.right() > (0.9 if returns == 1.0 else 0.7)


def test_nothing_is_kept_where_nobody_waits() -> None:
    clock, pace = Clock(), Pace()
    for _ in range(64):
        pace.worked(0.5, 1, under_load=True)
    invitations = Invitations(8, pace, clock)
    for _ in range(60):
        invitations.retry_after(8, 1)
    clock.now += 3
    assert invitations.kept_free(8) > 0
    assert invitations.kept_free(0) == 0
    clock.now += 100  # nobody has come
    assert invitations.kept_free(8) == 0
    assert invitations.retry_after(8, 1) <= 8  # 4 seconds for those who wait
    for _ in range(300):  # and now they do come: they are believed again
        invitations.retry_after(8, 1)
        invitations.came(1)
    told = [invitations.retry_after(8, 1) for _ in range(60)]
    assert max(told) > 25


def test_who_asks_again_and_again_is_not_told_ever_more() -> None:
    clock = Clock()
    pace = Pace()
    invitations = Invitations(10, pace, clock)
    for _ in range(64):
        pace.worked(0.1, 1, under_load=True)
    told = [invitations.retry_after(10, 1) for _ in range(5000)]
    assert told[0] == 1
    assert max(told) <= 16  # ten that wait, and a hundred that may come again
    clock.now += 1000
    assert invitations.retry_after(10, 1) == told[0]
    assert Invitations(10, Pace(), clock).retry_after(0, 1) == 1
