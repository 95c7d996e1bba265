"""One model, many people asking: one running batch, which questions join and leave at every token.

    submit ──► waiting ──► think together ──┐
                 │                          ▼
                 └─ full: EngineBusy    the running batch: a token for every row ──► told, done, dropped

A worker thread owns the model. In each turn those who wait and think alike (mode, number of latents) think
together and join the rows that are being written, which then get as many passes as that took; sampling,
limits and stops are each request's own. Since a row's answer does not depend on the rows beside it, it is the
answer that `LatentReasoner.answer` gives.

What fails is tried again with half the rows, down to the one that fails: it fails alone, and what it held is
freed. Where memory runs out the newest begin anew later. A worker that ends all the same fails every job.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import torch

from codi.errors import UsageError
from codi.generation.latent_reasoner import LatentReasoner
from codi.modeling.graphs import give_back
from codi.serving.endings import finished, read_only
from codi.serving.failures import each_alone, out_of_memory, without_frames
from codi.serving.job import (
    EngineBusy,
    EngineDown,
    Event,
    Finished,
    Job,
    Piece,
    Question,
    ScoredToken,
    Timing,
)
from codi.serving.pace import Invitations, Pace
from codi.serving.prompt_scoring import PromptScoring, share_prompt_scores
from codi.serving.running_batch import Answering, RunningBatch
from codi.serving.token_texts import TokenTexts
from codi.serving.waiting_line import Bounds, WaitingLine

__all__ = [
    "Engine", "EngineBusy", "EngineDown", "Event", "Finished", "Job", "Piece", "Question", "ScoredToken",
    "Timing",
]  # fmt: skip

log = logging.getLogger("codi.serving")
SECONDS_TO_WARM_UP = 600
SECONDS_TO_CLOSE = 120
MOST_PASSES = 256
"""Tokens that every answer gets before newcomers have their turn again."""
SECONDS_FOR_A_TURN = 2
"""A worker that answers nobody any more is waited for no longer."""
CAME_TO_AN_END = "The server's worker has ended ({}), so it answers no more; it must be started again."


class Engine:
    """Answers questions from many threads with one model. Close it when done."""

    def __init__(
        self,
        reasoner: LatentReasoner,
        *,
        max_batch: int = 64,
        max_waiting: int = 256,
        max_positions: int = 65_536,
    ) -> None:
        """max_batch: answers in the making at a time; max_waiting: questions that may wait besides.

        max_positions: what memory may be held: answers in the making times the positions (tokens and
        thoughts) of the longest. Raises UsageError for a number below 1.
        """
        if min(max_batch, max_waiting, max_positions) < 1:
            raise UsageError(
                f"max_batch is {max_batch}, max_waiting is {max_waiting}, max_positions is {max_positions}; "
                "all must be 1 or more."
            )
        self.reasoner = reasoner
        self.max_batch, self.max_waiting, self.max_positions = max_batch, max_waiting, max_positions
        self.on_batch: Callable[[int], None] | None = None
        """Told how many think together, each time."""
        self.one_at_a_time = threading.Lock()
        """Held while the model runs: whoever else uses it must hold it too."""
        self.failure: str | None = None
        """Why the worker has ended; None while it is well."""
        self._changed = threading.Condition()
        self._waiting = WaitingLine(max_overtaken=max_batch)
        self._taken: list[Job] = []  # out of the line, and not ended
        self._texts = TokenTexts(reasoner.text)
        self._scoring = PromptScoring(reasoner, self._texts, self._failed)
        self._batch = RunningBatch(reasoner, self._texts, self._failed)
        self._seconds_a_pass = 1.0  # of the last pass in which a token was written
        self._positions = max_positions  # fewer for a while after memory ran out
        self._pace = Pace()
        self._invitations = Invitations(max_waiting, self._pace)
        self._ended = 0  # jobs that ended in this turn
        self._turned = time.monotonic()  # when the last turn was over
        self._closing = False
        reasoner.model.eval()
        self._thread = threading.Thread(target=self._work, name="codi-engine", daemon=True)
        self._thread.start()

    # --- from any thread ------------------------------------------------------------------------------------

    def submit(self, question: Question, deliver: Callable[[Event], None]) -> Job:
        """Queue a question. Raises UsageError where it cannot be answered, EngineBusy without room,
        EngineDown where none is answered any more."""
        return self.submit_all([question], [deliver])[0]

    def submit_all(
        self,
        questions: list[Question],
        deliver: list[Callable[[Event], None]],
        *,
        again: bool = False,
        goes_on: bool = False,
    ) -> list[Job]:
        """Queue several questions, or none of them. Tokenising a long one takes time; any thread may do it.

        again: they were refused before and come when they were told to; places are kept for them;
        goes_on: they are part of what was taken before, so they find room, behind those who join next.
        """
        if len(questions) > self.max_waiting:
            raise UsageError(
                f"{len(questions)} answers were asked for at once, but at most {self.max_waiting} questions "
                "may wait, so they would never fit. Ask for fewer, or raise --max-waiting."
            )
        with self._changed:
            self._require_room(0 if goes_on else len(questions), again)
        jobs = [self._job(question, to) for question, to in zip(questions, deliver, strict=True)]
        share_prompt_scores(self.reasoner, jobs)
        with self._changed:
            self._require_room(0 if goes_on else len(questions), again)
            if again:
                self._invitations.came(len(jobs))
            self._waiting.add(jobs, behind=self.max_batch if goes_on else None)
            self._changed.notify()
        return jobs

    def require_room(self, number: int, *, again: bool = False) -> None:
        """Raise what `submit_all` would raise for want of room, before anything is done for the questions."""
        with self._changed:
            self._require_room(number, again)

    def warm_up(self, timeout: float = SECONDS_TO_WARM_UP) -> None:
        """Answer once: the first answer of a process is a slow one.

        Raises what the answer failed with, and EngineDown when there is none after so many seconds.
        """
        done, ends = threading.Event(), list[Event]()

        def deliver(event: Event) -> None:
            if not isinstance(event, Piece):
                ends.append(event)
                done.set()

        job = self.submit(Question("1 + 1 = ?", max_new_tokens=1, in_pieces=False), deliver)
        if not done.wait(timeout):
            self.cancel(job)
            raise EngineDown(f"The model has given no first answer after {timeout:g} seconds.")
        if isinstance(ends[0], Exception):
            raise ends[0]
        with self._changed:
            self._pace = Pace()  # the slow one is no measure
            self._invitations = Invitations(self.max_waiting, self._pace)

    def cancel(self, job: Job) -> None:
        """Let a job go: nobody waits for it. Its place is free at once, or at the next token."""
        job.cancelled = True
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                job.ended = True

    def load(self) -> tuple[int, int]:
        """Questions waiting, and answers in the making."""
        with self._changed:
            return len(self._waiting), sum(job.is_wanted for job in self._taken)

    def close(self, timeout: float = SECONDS_TO_CLOSE) -> None:
        """Take no more questions, finish those that were taken, and stop.

        What is not finished after so many seconds is given up: it ends with EngineDown.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if threading.current_thread() is self._thread:
            return  # it ends after this turn's work
        self._thread.join(timeout if self.failure is None else SECONDS_FOR_A_TURN)
        if self._thread.is_alive():
            self.give_up(f"The server was stopped and did not finish within {timeout:g} seconds.")

    def give_up(self, reason: str) -> None:
        """Nobody is answered any more, and everybody is told why."""
        with self._changed:
            self.failure = self.failure or reason
            left = [*self._waiting.clear(), *self._taken]
            self._taken = []
        for job in left:
            self._end(job, EngineDown(reason))

    def _require_room(self, number: int, again: bool) -> None:
        self._require_worker()
        if not number:
            return
        waiting, kept = len(self._waiting), 0 if again else self._invitations.kept_free(len(self._waiting))
        if waiting + kept + number > self.max_waiting:
            before = f", and {kept} places are kept for some who were refused before" if kept else ""
            raise EngineBusy(
                f"{waiting} questions are waiting and {number} more were asked; at most "
                f"{self.max_waiting} may wait{before}. Ask again later.",
                self._invitations.retry_after(waiting + len(self._taken), number, again),
            )

    def _require_worker(self) -> None:
        if self.failure is None and not self._closing and not self._thread.is_alive():
            self.failure = CAME_TO_AN_END.format("nothing is known of why")
        if self.failure is not None:
            raise EngineDown(self.failure)
        if self._closing:
            raise EngineDown("The server is shutting down and takes no more questions.")

    def _job(self, question: Question, deliver: Callable[[Event], None]) -> Job:
        reasoner = self.reasoner
        mode = reasoner.checked_mode(question.mode, question.latents)
        if question.max_new_tokens < 0 or (question.logprobs or 0) < 0:
            raise UsageError("max_new_tokens and logprobs must be 0 or more.")
        if question.ids is None:
            ids = reasoner.question_ids(question.text, "The question", mode, question.latents)
        else:
            ids = reasoner.framed_ids(question.ids, "The question", mode, question.latents)
        width = len(ids)
        if mode != "explicit" and question.max_new_tokens:
            width += reasoner.method.thought_positions(question.latents) + len(reasoner.text.prompt_ids)
        limit = min(question.max_new_tokens, self.max_positions - width)
        if question.max_new_tokens and limit < 1:
            raise UsageError(
                f"The question needs {width + 1} positions with its thoughts, but this server holds at most "
                f"{self.max_positions} (--max-positions). Shorten it."
            )
        return Job(question, ids, mode, deliver, width, limit)

    # --- the worker -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:
            log.critical("the engine's worker has ended", exc_info=error)
            self.give_up(CAME_TO_AN_END.format(f"{type(error).__name__}: {error}"))
            # What the old one held is freed.
            self._batch = RunningBatch(self.reasoner, self._texts, self._failed)

    def _turn(self) -> bool:
        """Whoever waits thinks and joins; then those who are written get as many passes as the thinking took.

        Returns whether there is more to do.
        """
        with self._changed:
            while not self._waiting and not self._taken:
                if self._closing:
                    return False
                self._changed.wait()
                self._turned = time.monotonic()  # with nothing to do, no answer took that long
            if self.failure is not None:
                return False
            newcomers = self._next_group()
            self._taken += newcomers
        begun, self._ended = time.monotonic(), 0
        with self.one_at_a_time, torch.no_grad():
            self._let_go()
            held = time.monotonic()
            others, complete = self._scoring.step(newcomers)
            for job in reversed(complete):
                self._put_back(job)
            passes = self._admit(others)
            if complete or self._scoring.jobs or not all(job.limit for job in others):
                # That was no thinking: those who are written get as long as it took.
                passes = max(passes, int((time.monotonic() - held) / self._seconds_a_pass))
            written = 0
            for _ in range(min(passes, MOST_PASSES)):
                written += 1
                began = time.monotonic()
                self._make_room()
                self._write()
                self._let_go()
                if not self._batch.answering:
                    break
                self._seconds_a_pass = max(time.monotonic() - began, 1e-5)
        with self._changed:
            self._taken = [job for job in self._taken if job.is_wanted]
            more = written * (1 + self.max_positions // 4096)
            self._positions = min(self.max_positions, self._positions + more)
            now, under_load = time.monotonic(), self._invitations.under_load
            self._pace.worked(now - (self._turned if under_load else begun), self._ended, under_load)
            self._turned = now
        return True

    def _next_group(self) -> list[Job]:
        running = [one.job for one in self._batch.answering]
        if running and not self._batch.takes_more:
            return []
        running += self._scoring.jobs
        # Where a model can also answer shortly, a quarter of the places is kept from those that write long.
        apart = self.max_batch // 4 if len(self.reasoner.method.modes) > 1 else 0
        bounds = Bounds(self.max_batch, self.max_batch - apart, self._positions)
        return self._waiting.next_group(bounds, running, self._batch.width)

    def _let_go(self) -> None:
        """Of those who have ended, or whom nobody waits for."""
        self._batch.keep([one for one in self._batch.answering if one.job.is_wanted], at_once=False)

    def _admit(self, jobs: list[Job]) -> int:
        """Think about them, tell what is written first, and let them be written with the others.

        Returns the passes that took, 1 at least.
        """
        jobs, now = [job for job in jobs if job.is_wanted], time.monotonic()
        for job in jobs:
            job.thinking = now if job.thinking is None else job.thinking
        if jobs and not jobs[0].limit:
            for job in jobs:
                each_alone([job], self._read_only, self._failed)
            return 1
        begun = self._batch.begin(jobs)
        if begun and self.on_batch is not None:
            try:
                self.on_batch(len(begun))
            except Exception:
                log.exception("on_batch has failed; the answers go on")
        passes = max((one.row.passes for one in begun), default=1)
        self._tell(begun)
        self._batch.join([one for one in begun if one.job.is_wanted])
        return max(1, passes)

    def _make_room(self) -> None:
        """Rows grow: where there would be too many positions, the newest begin anew later."""
        kept = list(self._batch.answering)
        while len(kept) > 1 and len(kept) * (max(one.row.width for one in kept) + 1) > self.max_positions:
            self._put_back(kept.pop().job)
        self._batch.keep(kept)

    def _write(self) -> None:
        """A token for everybody, told."""
        try:
            self._batch.write()
        except Exception as error:
            if not out_of_memory(error):
                raise
            without_frames(error)
            self._shed(error)
        self._tell(self._batch.answering)

    def _shed(self, error: Exception) -> None:
        """Memory has run out: the newer half begins anew later, and for a while fewer positions are held."""
        answering = self._batch.answering
        self._positions = max(1, len(answering) * self._batch.width // 2)
        kept = answering[: len(answering) // 2]
        for one in reversed(answering[len(kept) :]):
            self._failed(one.job, error)
        if self.reasoner.fixed is not None:
            self.reasoner.fixed.let_go()
        self._batch.keep(kept)
        give_back(self.reasoner.model.device)

    def _failed(self, job: Job, error: Exception) -> None:
        """It failed alone. Where memory ran out it may try once more."""
        if not out_of_memory(error):
            log.error("an answer failed", exc_info=error)
            self._end(job, error)
        elif not job.tried_again:
            job.tried_again = True
            self._put_back(job)
        else:
            with self._changed:
                after = self._invitations.retry_after(len(self._waiting) + len(self._taken), 1)
            self._end(
                job, EngineBusy("The server has run out of memory for this answer. Ask again later.", after)
            )

    def _put_back(self, job: Job) -> None:
        """To the front of the line. What it was told already is not told again."""
        with self._changed:
            if job.is_wanted:
                self._waiting.put_back(job)  # first: should that fail, it is still known here
                job.is_taken = False
                self._taken.remove(job)

    # --- what is told ---------------------------------------------------------------------------------------

    def _tell(self, answering: list[Answering]) -> None:
        """Send what is new in each."""
        for one in list(answering):
            if one.job.is_wanted:
                each_alone([one], self._tell_one, lambda one, error: self._failed(one.job, error))

    def _tell_one(self, one_alone: list[Answering]) -> None:
        [one] = one_alone
        job, row, transcript = one.job, one.row, one.transcript
        job.first_token = time.monotonic() if job.first_token is None else job.first_token
        if row.error is not None:
            raise row.error
        asked = job.question
        if not (row.done or asked.in_pieces or asked.stop or asked.logprobs is not None):
            return  # nobody asks what it says so far
        transcript.read(row)
        done = row.done or transcript.stopped
        text, tokens = transcript.ready(done)
        new_tokens = tuple((transcript.tokens or [])[job.told_tokens : tokens])
        if job.question.in_pieces and (len(text) > job.told or (done and new_tokens)):
            self._send(job, Piece(text[job.told :], new_tokens))
            job.told, job.told_tokens = max(len(text), job.told), max(tokens, job.told_tokens)
        if done:
            self._end(job, finished(self.reasoner, self._texts, one))

    def _read_only(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._end(job, read_only(self.reasoner, job))

    def _end(self, job: Job, event: Finished | Exception) -> None:
        """Its last event, once."""
        with self._changed:
            if job.ended:
                return
            job.ended = True
            self._ended += 1
        try:
            self._send(job, event)
        except BaseException:
            job.ended = False  # it was told nothing yet
            raise

    def _send(self, job: Job, event: Event) -> None:
        if job.cancelled:
            return
        try:
            job.deliver(event)
        except BaseException:
            job.ended = True
            log.exception("what was told could not be delivered; the job is dropped")
