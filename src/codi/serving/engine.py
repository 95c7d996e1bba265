"""One model, many people asking: what waits is batched, and batches in flight take turns token by token.

    submit ──► waiting ──► a batch thinks ──► batches in flight: one token each, in turn ──► done
                 │                                   │
                 └─ full: EngineBusy                 └─ a short answer leaves, however long its neighbour is

A worker thread owns the model. A batch is made of what waits at that moment and thinks alike (mode and number
of latents); sampling, limits and stops are each request's own. Since a row's answer does not depend on its
batch, it is the answer that `LatentReasoner.answer` gives.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from codi.errors import CodiError, UsageError
from codi.generation.answer import Answer
from codi.generation.decoded_thoughts import named_tokens
from codi.generation.decoding import Decoding, Sampling
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.method import Start


class EngineBusy(CodiError):
    """The queue is full, or the engine is closing. retry_after: seconds until there may be room."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Question:
    """What is asked of the engine.

    number: of the choice, for its seed; stop: texts before which the answer ends; in_pieces: whether its text
    is delivered as it is written; decoded_thoughts: whether each thought's likeliest tokens come with it.
    """

    text: str
    mode: str | None = None
    latents: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    number: int = 0
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    in_pieces: bool = True
    decoded_thoughts: bool = False


@dataclass(frozen=True)
class Finished:
    """An answer, and what it took. answer.text ends before a stop text, if one came.

    question_tokens: read; latent_tokens: thought without being written, <bot> and <eot> counted;
    written_tokens: all that were written; unknown_tokens: of the question, which the tokenizer does not know;
    decoded: per thought its likeliest tokens.
    """

    answer: Answer
    question_tokens: int
    latent_tokens: int
    written_tokens: int
    unknown_tokens: int
    decoded: list[list[tuple[str, float]]] | None


Event = str | Finished | Exception
"""A piece of text, the end, or what went wrong."""


@dataclass(eq=False)
class Job:
    """A question on its way. deliver: called from the engine's thread with each event."""

    question: Question
    ids: list[int]
    mode: str
    deliver: Callable[[Event], None]
    cancelled: bool = False
    sent: int = 0  # characters delivered
    begun: float = field(default_factory=time.monotonic)

    @property
    def thinks_as(self) -> tuple[str, int | None]:
        """Jobs that have this in common can be batched."""
        return self.mode, self.question.latents


@dataclass
class _Flight:
    """A batch that is being written."""

    jobs: list[Job]
    start: Start
    decoding: Decoding


class Engine:
    """Answers questions from many threads with one model. Close it when done."""

    def __init__(self, reasoner: LatentReasoner, *, max_batch: int = 64, max_waiting: int = 256) -> None:
        """max_batch: answers in the making at a time; max_waiting: questions that may wait besides.

        Raises UsageError for a number below 1.
        """
        if max_batch < 1 or max_waiting < 1:
            raise UsageError(
                f"max_batch is {max_batch}, max_waiting is {max_waiting}; both must be 1 or more."
            )
        self.reasoner, self.max_batch, self.max_waiting = reasoner, max_batch, max_waiting
        self.on_batch: Callable[[int], None] | None = None
        """Told the size of every batch."""
        self.one_at_a_time = threading.Lock()
        """Held while the model runs: whoever else uses it must hold it too."""
        self._waiting: deque[Job] = deque()
        self._flights: list[_Flight] = []
        self._changed = threading.Condition()
        self._closing = False
        self._pace = 0.05  # seconds an answer takes of the engine's time, a running mean
        reasoner.model.eval()
        self._thread = threading.Thread(target=self._work, name="codi-engine", daemon=True)
        self._thread.start()

    # --- from any thread ------------------------------------------------------------------------------------

    def submit(self, question: Question, deliver: Callable[[Event], None]) -> Job:
        """Queue a question. Raises UsageError where it cannot be answered, EngineBusy without room."""
        return self.submit_all([question], [deliver])[0]

    def submit_all(self, questions: list[Question], deliver: list[Callable[[Event], None]]) -> list[Job]:
        """Queue several questions, or none of them."""
        jobs = [self._job(question, to) for question, to in zip(questions, deliver, strict=True)]
        with self._changed:
            if self._closing:
                raise EngineBusy("The server is shutting down and takes no more questions.", 1)
            waiting = sum(not job.cancelled for job in self._waiting)
            if waiting + len(jobs) > self.max_waiting:
                raise EngineBusy(
                    f"{waiting} questions are waiting and {len(jobs)} more were asked; at most "
                    f"{self.max_waiting} may wait. Ask again later.",
                    max(1, round(waiting * self._pace)),
                )
            self._waiting.extend(jobs)
            self._changed.notify()
        return jobs

    def warm_up(self) -> None:
        """Answer once: the first answer of a process is a slow one."""
        done = threading.Event()
        self.submit(Question("1 + 1 = ?", max_new_tokens=1), lambda event: _set_at_end(done, event))
        done.wait()

    def cancel(self, job: Job) -> None:
        """Let a job go: nobody waits for it. Its place is free at once, or at the next token."""
        job.cancelled = True
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)

    def load(self) -> tuple[int, int]:
        """Questions waiting, and answers in the making."""
        with self._changed:
            return len(self._waiting), sum(len(flight.decoding.active) for flight in self._flights)

    def close(self) -> None:
        """Take no more questions, finish those that were taken, and stop."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _job(self, question: Question, deliver: Callable[[Event], None]) -> Job:
        method = self.reasoner.method
        mode = method.mode(question.mode)
        if question.latents is not None and not (method.thinks and mode == "latent"):
            raise UsageError(
                f"{question.latents} latents were asked for, but a {method.name} model in mode '{mode}' "
                "has none."
            )
        ids = self.reasoner.question_ids(question.text, "The question", mode, question.latents)
        return Job(question, ids, mode, deliver)

    # --- the worker -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._flights:
                    if self._closing:
                        return
                    self._changed.wait()
                batch = self._take()
            begun, answers = time.monotonic(), len(batch)
            with self.one_at_a_time:
                if batch:
                    self._begin(batch)
                for flight in list(self._flights):
                    self._advance(flight)
            self._flights = [flight for flight in self._flights if flight.decoding.active]
            if answers:
                self._pace += 0.1 * ((time.monotonic() - begun) / answers - self._pace)

    def _take(self) -> list[Job]:
        """Jobs for one batch: the first that waits, and those behind it that think alike."""
        room = self.max_batch - sum(len(flight.decoding.active) for flight in self._flights)
        batch: list[Job] = []
        rest: deque[Job] = deque()
        for job in self._waiting:
            if len(batch) < room and (not batch or job.thinks_as == batch[0].thinks_as):
                batch.append(job)
            else:
                rest.append(job)
        self._waiting = rest
        return batch

    @torch.no_grad()
    def _begin(self, jobs: list[Job]) -> None:
        """Think, for a whole batch."""
        reasoner = self.reasoner
        try:
            start = reasoner.start([job.ids for job in jobs], *jobs[0].thinks_as)
            asked = [job.question for job in jobs]
            decoding = Decoding(
                reasoner.model,
                start,
                reasoner.text.eos_id,
                [one.max_new_tokens for one in asked],
                [one.sampling for one in asked],
                [one.number for one in asked],
            )
        except Exception as error:  # noqa: BLE001 (one batch must not take the engine down)
            for job in jobs:
                job.deliver(error)
            return
        self._flights.append(_Flight(jobs, start, decoding))
        if self.on_batch is not None:
            self.on_batch(len(jobs))

    def _advance(self, flight: _Flight) -> None:
        """One token for every row of a batch, delivered."""
        decoding = flight.decoding
        decoding.drop({row for row in decoding.active if flight.jobs[row].cancelled})
        if not decoding.active:
            return
        writing = list(decoding.active)
        try:
            decoding.step()
            stopped = {row for row in writing if self._deliver(flight, row, row not in decoding.active)}
            decoding.drop(stopped)
        except Exception as error:  # noqa: BLE001 (as above)
            for row in writing:
                flight.jobs[row].deliver(error)
            decoding.drop(writing)

    def _deliver(self, flight: _Flight, row: int, done: bool) -> bool:
        """Send what is new in a row. Returns whether a stop text ended it."""
        job = flight.jobs[row]
        if not (done or job.question.in_pieces or job.question.stop):
            return False  # nobody asks what it says so far
        text = self.reasoner.text.decode(flight.start.written + flight.decoding.ids[row])
        ends = [at for stop in job.question.stop if (at := text.find(stop)) >= 0]
        stopped = bool(ends)
        if stopped:
            text = text[: min(ends)]
        if not done and not stopped:
            # The end may be the beginning of a stop text, or half a character.
            held = max((len(stop) - 1 for stop in job.question.stop), default=0)
            text = text[: max(0, len(text) - held)].rstrip("�")
        if len(text) > job.sent and job.question.in_pieces:
            job.deliver(text[job.sent :])
            job.sent = len(text)
        if done or stopped:
            job.deliver(self._finish(flight, row, text, stopped))
        return stopped

    def _finish(self, flight: _Flight, row: int, text: str, stopped: bool) -> Finished:
        job, written = flight.jobs[row], flight.decoding.written(row)
        answer = self.reasoner.answer_of(job.question.text, flight.start, written)
        if stopped:
            answer = replace(answer, text=text, value=self.reasoner.text.value(text), finished=True)
        decoded = None
        if job.question.decoded_thoughts:
            thoughts = flight.start.context.thoughts
            reader = self.reasoner
            decoded = [] if thoughts is None else named_tokens(reader.model, reader.text, thoughts[row])
        unknown_id = self.reasoner.text.unknown_id
        unknown = 0 if unknown_id is None else job.ids.count(unknown_id)
        return Finished(answer, len(job.ids), flight.start.thoughts, len(written.ids), unknown, decoded)


def _set_at_end(done: threading.Event, event: Event) -> None:
    if not isinstance(event, str):
        done.set()
