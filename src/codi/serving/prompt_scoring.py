"""A question's own tokens, scored as plain text: once for all choices of a request, and some at a time."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from codi.generation.decoding import token_scores
from codi.generation.latent_reasoner import LatentReasoner
from codi.modeling.context import Tokens
from codi.serving.failures import each_alone
from codi.serving.job import Job, PromptScores
from codi.serving.token_texts import BEFORE, TokenTexts

POSITIONS_SCORED = 128
"""Of a question at a time: each takes as many numbers as the vocabulary has tokens, and others wait."""


class PromptScoring:
    """Jobs whose questions are being scored, in the order in which they came."""

    def __init__(
        self, reasoner: LatentReasoner, texts: TokenTexts, failed: Callable[[Job, Exception], None]
    ) -> None:
        self._reasoner, self._texts, self._failed = reasoner, texts, failed
        self.jobs: list[Job] = []

    def step(self, newcomers: list[Job]) -> tuple[list[Job], list[Job]]:
        """Score some positions of the first.

        Returns the newcomers that need not be scored, or have been, and those whose question is complete now.
        """
        to_score = [job for job in newcomers if job.prompt is not None and not job.prompt.is_complete]
        self.jobs = [job for job in [*self.jobs, *to_score] if job.is_wanted]
        for job in self.jobs:
            job.thinking = time.monotonic() if job.thinking is None else job.thinking
        each_alone(self.jobs[:1], lambda some: score_some(self._reasoner, self._texts, some[0]), self._failed)
        complete = [job for job in self.jobs if job.prompt is not None and job.prompt.is_complete]
        self.jobs = [job for job in self.jobs if job.is_wanted and job not in complete]
        return [job for job in newcomers if job not in to_score], complete


def share_prompt_scores(reasoner: LatentReasoner, jobs: list[Job]) -> None:
    """Jobs of one request that ask for the same scores get them together."""
    shared: dict[tuple[int, ...], PromptScores] = {}
    for job in jobs:
        if job.question.prompt_logprobs:
            made = shared.setdefault((*job.ids, job.question.logprobs or 0), _asked_of(reasoner, job))
            job.prompt = made


def score_some(reasoner: LatentReasoner, texts: TokenTexts, job: Job) -> None:
    """Score so many positions more of its question. Where that raises, nothing has changed."""
    prompt, ids = job.prompt, job.ids
    if prompt is None or prompt.is_complete:
        return
    if prompt.final is None:
        prompt.final = reasoner.model.read(Tokens.repeated(ids, 1, reasoner.model.device)).final[0]
    at = len(prompt.scored)
    following = ids[max(at, 1) : at + POSITIONS_SCORED]
    first = max(at, 1) - 1
    logits = reasoner.model.logits(prompt.final[first : first + len(following)])
    top = [job.question.logprobs or 0] * len(following)
    targets = torch.tensor(following, device=logits.device)
    scores = [*([None] if at == 0 else []), *(token_scores(logits, targets, top) if following else [])]
    prompt.scored += [
        texts.scored(ids[max(0, place - BEFORE) : place], ids[place], score)
        for place, score in enumerate(scores, start=at)
    ]
    if len(prompt.scored) == len(ids):
        prompt.final, prompt.is_complete = None, True


def _asked_of(reasoner: LatentReasoner, job: Job) -> PromptScores:
    """Those that were given, where the question was given as tokens."""
    if job.question.ids is None:
        return PromptScores(0, len(job.ids))
    opening, _ = reasoner.text.around_question()
    first = 0 if list(job.question.ids[: len(opening)]) == opening else len(opening)
    return PromptScores(first, first + len(job.question.ids))
