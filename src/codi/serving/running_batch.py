"""The answers in the making: jobs think together, join, are written a token at a time, and leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from codi.generation.decoding import Decoding, Row
from codi.generation.latent_reasoner import LatentReasoner
from codi.serving.failures import each_alone, is_final, out_of_memory, without_frames
from codi.serving.job import Job
from codi.serving.token_texts import TokenTexts
from codi.serving.transcript import Transcript


@dataclass(eq=False)
class Answering:
    """A job that is being answered.

    latent_tokens: thought for it, <bot> and <eot> counted; thoughts: [n, d], where its question asks for
    what they decode to; apart: where it is written until it joins the others.
    """

    job: Job
    row: Row
    transcript: Transcript
    latent_tokens: int
    thoughts: Tensor | None
    apart: Decoding


class RunningBatch:
    """Jobs that are written together. Whatever fails is tried with fewer; what fails alone is reported.

    Every method leaves those whole that did not fail.
    """

    def __init__(
        self, reasoner: LatentReasoner, texts: TokenTexts, failed: Callable[[Job, Exception], None]
    ) -> None:
        self._reasoner, self._texts = reasoner, texts
        self._failed: Callable[[Answering, Exception], None] = lambda one, error: failed(one.job, error)
        self._job_failed = failed
        self.answering: list[Answering] = []
        """In the order in which they joined."""
        self._decoding = self._empty()

    @property
    def width(self) -> int:
        """Positions held for every row, padding included."""
        return max((one.row.width for one in self.answering), default=0)

    @property
    def takes_more(self) -> bool:
        """Whether jobs can join; a recurrent base's rows must be written to their end first."""
        return self._decoding.can_join

    def begin(self, jobs: list[Job]) -> list[Answering]:
        """Think about jobs that think alike, and write their first token; they have not joined yet."""
        begun: list[Answering] = []
        each_alone(jobs, lambda some: begun.extend(self._begun(some)), self._job_failed)
        return begun

    def join(self, begun: Sequence[Answering]) -> None:
        """Let them be written with the others."""
        for apart in dict.fromkeys(one.apart for one in begun):
            self._take_in(apart, [one for one in begun if one.apart is apart])

    def write(self) -> None:
        """A token more for everybody. Raises the error where memory ran out for all of them together."""
        try:
            self._decoding.step()
            return
        except Exception as error:
            if is_final(error) or out_of_memory(error):
                raise
            without_frames(error)
        parts: list[Decoding] = []

        def step(some: list[Answering]) -> None:
            part = self._of(some, self._decoding)
            part.step()
            parts.append(part)

        each_alone(self.answering, step, self._failed)
        self._gather(parts)

    def keep(self, kept: list[Answering], *, at_once: bool = True) -> None:
        """Let all others go, and what was held for them.

        at_once: False lets what was held stay while it costs less than to copy the others elsewhere.
        """
        if len(kept) < len(self.answering):
            if not at_once and self._decoding.can_stay(len(kept)):
                going_on = {one.row for one in kept}
                for one in self.answering:
                    one.row.done |= one.row not in going_on
                self.answering = kept
                return
            parts: list[Decoding] = []
            each_alone(kept, lambda some: parts.append(self._of(some, self._decoding)), self._failed)
            self._gather(parts)

    def _begun(self, jobs: list[Job]) -> list[Answering]:
        reasoner = self._reasoner
        start = reasoner.start([job.ids for job in jobs], *jobs[0].thinks_as)
        rows = [
            Row(job.limit, asked.sampling, asked.number, asked.logprobs, asked.ignore_eos)
            for job in jobs
            for asked in [job.question]
        ]
        fixed = reasoner.fixed_answering()
        decoding = Decoding(reasoner.model, reasoner.text.eos_id, start, rows, fixed)
        spent, thoughts, own = start.spent(), start.context.thoughts, start.context.thought
        decoding.step()
        return [
            Answering(
                job,
                row,
                Transcript(self._texts, job.question, start.written),
                spent[place][0],
                thoughts[place, : None if own is None else int(own[place])].clone()
                if thoughts is not None and job.question.decoded_thoughts
                else None,
                decoding,
            )
            for place, (job, row) in enumerate(zip(jobs, rows, strict=True))
        ]

    def _take_in(self, part: Decoding, those: list[Answering]) -> None:
        """Join rows of a part; where that fails, fewer of them."""

        def join(some: list[Answering]) -> None:
            self._decoding.join([self._of(some, part)])
            self.answering += some

        each_alone(those, join, self._failed)
        for one in those:
            one.apart = self._decoding

    def _gather(self, parts: list[Decoding]) -> None:
        """These parts are what there is now: put them together."""
        by_row = {one.row: one for one in self.answering}
        self._decoding = parts[0] if parts else self._empty()
        self.answering = [by_row[row] for row in self._decoding.rows]
        for part in parts[1:]:
            self._take_in(part, [by_row[row] for row in part.rows])
        for one in self.answering:
            one.apart = self._decoding

    def _of(self, some: list[Answering], decoding: Decoding) -> Decoding:
        """The decoding of these alone; itself where they are all."""
        if len(some) == len(decoding.rows):
            return decoding
        return decoding.take([one.row for one in some])

    def _empty(self) -> Decoding:
        reasoner = self._reasoner
        return Decoding(reasoner.model, reasoner.text.eos_id, fixed=reasoner.fixed_answering())
