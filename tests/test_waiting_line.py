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


@pytest.mark.parametrize(("seconds_each", "room"), [(0.0025, 128), (0.05, 64)])
def test_the_refused_are_told_when_they_will_be_answered(seconds_each: float, room: int) -> None:
    """A simulated server, and ten times as many clients as may wait, each asking anew once it is answered.

    What each was told when it was first refused is within a factor of 2 of the wait that followed, and the
    server is never idle.
    """
    rng, clock = random.Random(1), Clock()
    pace = Pace()
    invitations = Invitations(room, pace, clock)
    for _ in range(64):
        pace.worked(seconds_each, 1, under_load=True)
    begun, seconds = clock.now, 60 * room * seconds_each
    events: list[tuple[float, int, bool]] = [
        (begun + rng.random(), client, False) for client in range(10 * room)
    ]
    heapq.heapify(events)
    told: dict[int, tuple[float, int]] = {}
    waits: list[tuple[int, float]] = []
    queue: list[int] = []
    answered, worker = 0, -1
    while events[0][0] < begun + seconds:
        clock.now, client, again = heapq.heappop(events)
        if client == worker:
            client, answered = queue.pop(0), answered + 1
            if client in told:
                since, after = told.pop(client)
                waits.append((after, clock.now - since))
            heapq.heappush(events, (clock.now + 0.02 * rng.random(), client, False))
        elif len(queue) + (0 if again else invitations.kept_free()) < room:
            queue.append(client)
            if len(queue) > 1:
                continue
        else:
            after = invitations.retry_after(len(queue), 1, again)
            told.setdefault(client, (clock.now, after))
            heapq.heappush(events, (clock.now + after + 0.02 * rng.random(), client, True))
            continue
        if queue:
            heapq.heappush(events, (clock.now + seconds_each * rng.uniform(0.8, 1.2), worker, False))
    assert answered > 0.95 * seconds / seconds_each
    assert len(waits) > 10 * room
    assert sum(after / 2 <= waited <= 2 * after for after, waited in waits) > 0.9 * len(waits)


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
