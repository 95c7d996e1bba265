"""Requests of which every tenth fails somewhere: what becomes of the others, and what is left behind.

The engine is asked directly, in this process, since the faults are put into what it calls: each belongs to
one request, and to one place of its way.
"""

from __future__ import annotations

import gc
import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from codi.generation.answer import Answer
from codi.generation.decoding import Sampling
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.method import Start
from codi.modeling.context import Context
from codi.serving.engine import Engine, Event, Finished, Piece, Question

log = logging.getLogger("codi.serving")
SECONDS_TO_WAIT = 120
IN_FLIGHT = 64


class InjectedFault(Exception):
    """A fault that the bench put in."""


class FaultySampling(Sampling):
    """Fails where the next token is to be chosen."""

    @property
    def is_greedy(self) -> bool:
        """Never told."""
        raise InjectedFault("choosing a token")


class FaultyText(str):
    """A stop text that fails where it is looked for."""

    __slots__ = ()

    def __len__(self) -> int:
        raise InjectedFault("looking for a stop text")


PLACES = ("thinking", "memory", "numbers", "choosing", "stop text", "answer", "delivery", "hang up")
"""Where a request may fail: `memory` runs out for it, `numbers` are its logits, its client does `hang up`."""


def faults_under_load(reasoner: LatentReasoner, questions: Sequence[str], requests: int) -> dict[str, Any]:
    """Requests by a closed loop, every tenth with a fault; counts of what came of them, and what is left."""
    reasoner.model.eval()
    expected = [answer.text for answer in reasoner.answer(questions)]
    process, threads = psutil.Process(), threading.active_count()
    engine = Engine(reasoner)
    engine.warm_up()
    half: dict[str, float] = {}
    log.setLevel(logging.CRITICAL)  # it would tell every fault
    load = _Load(engine, questions)
    with _faults(reasoner, load.faulty):
        for number in range(requests):
            load.send(number)
            if number == requests // 2:
                half["half_way"] = _memory(process)
        ends = load.ends()
    log.setLevel(logging.NOTSET)
    memory = {**half, "at_the_end": _memory(process)}
    good = [number for number in range(requests) if load.place(number) is None]
    right = sum(ends.get(number) == expected[number % len(questions)] for number in good)
    alive = engine.failure is None and _answers(engine, questions[0]) == expected[0]
    engine.close()
    failed = Counter(load.place(number) for number, end in ends.items() if not isinstance(end, str))
    return {
        "requests": requests,
        "meant_to_fail": requests - len(good),
        "failed": {str(place): count for place, count in sorted(failed.items(), key=str)},
        "others_right": right,
        "others_wrong": len(good) - right,
        "without_an_end": requests - len(ends),
        "engine_alive": alive,
        "contexts_left": _contexts(),
        "threads_left": threading.active_count() - threads,
        "memory_mib": memory,
    }


class _Load:
    """Requests to an engine, so many at a time."""

    def __init__(self, engine: Engine, questions: Sequence[str]) -> None:
        self._engine, self._questions = engine, questions
        self.faulty: dict[str | tuple[int, ...], str] = {}
        """Places of faults, by the text of the question and by its tokens."""
        self._room = threading.Semaphore(IN_FLIGHT)
        self._ends: queue.Queue[tuple[int, str | Exception]] = queue.Queue()

    def place(self, number: int) -> str | None:
        """Where this request is to fail."""
        return PLACES[number // 10 % len(PLACES)] if number % 10 == 9 else None

    def send(self, number: int) -> None:
        """When there is room."""
        if not self._room.acquire(timeout=SECONDS_TO_WAIT):
            return  # nothing ends any more: counted as without an end
        place, text = self.place(number), self._questions[number % len(self._questions)]
        options: dict[str, Any] = {}
        if place in ("thinking", "memory", "numbers", "answer"):
            text += f" {place}"  # a question of its own
            self.faulty[text] = self.faulty[tuple(self._engine.reasoner.text.question(text))] = place
        elif place == "choosing":
            options["sampling"] = FaultySampling(1.0)
        elif place == "stop text":
            options["stop"] = (FaultyText("12"),)
        job = self._engine.submit(Question(text, **options), self._deliver_to(number, place))
        if place == "hang up":
            self._engine.cancel(job)
            self._end(number, InjectedFault("hung up"))

    def ends(self) -> dict[int, str | Exception]:
        """Of every request that came to one."""
        for _ in range(IN_FLIGHT):
            self._room.acquire(timeout=SECONDS_TO_WAIT)
        found = {}
        while not self._ends.empty():
            number, end = self._ends.get()
            found[number] = end
        return found

    def _deliver_to(self, number: int, place: str | None) -> Callable[[Event], None]:
        def deliver(event: Event) -> None:
            if place == "delivery":
                self._end(number, InjectedFault("delivering"))
                raise InjectedFault("delivering")
            if not isinstance(event, Piece):
                self._end(number, event.answer.text if isinstance(event, Finished) else event)

        return deliver

    def _end(self, number: int, end: str | Exception) -> None:
        self._ends.put((number, end))
        self._room.release()


@contextmanager
def _faults(reasoner: LatentReasoner, faulty: dict[str | tuple[int, ...], str]) -> Iterator[None]:
    """The reasoner fails for these questions, and for no others."""
    usual_start, usual_answer = reasoner.start, reasoner.answer_of

    def start(encoded: Sequence[list[int]], mode: str | None = None, latents: int | None = None) -> Start:
        places = [faulty.get(tuple(ids)) for ids in encoded]
        if "thinking" in places:
            raise InjectedFault("thinking")
        if "memory" in places:
            raise torch.OutOfMemoryError("out of memory, for the bench")
        begun = usual_start(encoded, mode, latents)
        for row, place in enumerate(places):
            if place == "numbers":
                begun.context.last_hidden[row] = torch.nan
        return begun

    def answer_of(question: str, *begun: Any) -> Answer:
        if faulty.get(question) == "answer":
            raise InjectedFault("reading the answer")
        return usual_answer(question, *begun)

    reasoner.start, reasoner.answer_of = start, answer_of  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del reasoner.start, reasoner.answer_of


def _answers(engine: Engine, question: str) -> str | None:
    """What the engine answers, if it does."""
    ends: queue.Queue[Event] = queue.Queue()
    engine.submit(Question(question, in_pieces=False), ends.put)
    try:
        end = ends.get(timeout=SECONDS_TO_WAIT)
    except queue.Empty:
        return None
    return end.answer.text if isinstance(end, Finished) else None


def _memory(process: psutil.Process) -> float:
    gc.collect()
    return float(process.memory_info().rss / 2**20)


def _contexts() -> int:
    """What the model has taken in and is still held."""
    gc.collect()
    return sum(type(thing) is Context for thing in gc.get_objects())
