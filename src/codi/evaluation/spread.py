"""A reasoner spread over processes: every one answers some of the batches and learns all the answers.

    batches   b0  b1  b2  b3  b4       round 1: process 0 answers b0, process 1 b1; both get both
                                       round 2: b2, b3 ...

The batches are those that one process would make, so the answers are its answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from codi import processes
from codi.data.encoding import TextEncoder
from codi.data.example import Example
from codi.evaluation.runner import Reasoner
from codi.generation.answer import Answer
from codi.generation.decoding import Sampling
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.method import Method
from codi.modeling.backbone import fingerprint

_STEP = pow(1_000_003, -1, 2**63)
"""Added to a seed, it moves decoding's row seeds, (seed * 1000003 + row) mod 2^63, on by one row."""


def require_same(reasoner: LatentReasoner, sets: dict[str, list[Example]]) -> None:
    """Raise UsageError when the processes would answer other questions, or with other models."""
    model = [reasoner.method.as_dict(), fingerprint(reasoner.model.causal)]
    questions = {name: [(e.id, e.question, e.answer) for e in found] for name, found in sets.items()}
    processes.require_same(
        {"model": model, "questions": questions},
        "Start the same command everywhere, with files that all machines see.",
    )


def spread(reasoner: Reasoner) -> Reasoner:
    """The reasoner over all processes; one that is not a trained model of ours answers in each for itself."""
    return SpreadReasoner(reasoner) if isinstance(reasoner, LatentReasoner) else reasoner


class SpreadReasoner:
    """Answers as the reasoner does. All processes must ask it the same."""

    def __init__(self, reasoner: LatentReasoner) -> None:
        self.reasoner = reasoner

    @property
    def method(self) -> Method:
        """What the reasoner was trained with."""
        return self.reasoner.method

    @property
    def text(self) -> TextEncoder:
        """How it writes its answers."""
        return self.reasoner.text

    def answer_batches(
        self,
        questions: Sequence[str],
        *,
        mode: str | None = None,
        latents: int | None = None,
        batch_size: int = 64,
        max_new_tokens: int = 256,
        sampling: Sampling | None = None,
    ) -> Iterator[list[tuple[int, Answer]]]:
        """As `LatentReasoner.answer_batches`: the same batches in the same order, in every process.

        A single question is answered by each for itself, so that process 0 can time it.
        """
        sampling = sampling or Sampling()
        if len(questions) == 1:
            yield from self.reasoner.answer_batches(
                questions, mode=mode, latents=latents, max_new_tokens=max_new_tokens, sampling=sampling
            )
            return
        for number, question in enumerate(questions):  # said by all at once, under the right number
            self.reasoner.question_ids(question, f"Question {number + 1}", mode, latents)
        starts = range(0, len(questions), batch_size)
        for at in range(0, len(starts), processes.count()):
            mine: list[tuple[int, Answer]] = []
            if at + processes.number() < len(starts):
                first = starts[at + processes.number()]
                [answered] = self.reasoner.answer_batches(
                    questions[first : first + batch_size], mode=mode, latents=latents, batch_size=batch_size,
                    max_new_tokens=max_new_tokens,
                    sampling=replace(sampling, seed=(sampling.seed + first * _STEP) % 2**63),
                )  # fmt: skip
                mine = [(first + row, answer) for row, answer in answered]
            yield from filter(None, processes.everyones(mine))
