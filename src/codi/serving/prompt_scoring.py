"""A question's own tokens, scored as plain text: once for all choices of a request, and some at a time."""

from __future__ import annotations

import torch

from codi.generation.decoding import token_scores
from codi.generation.latent_reasoner import LatentReasoner
from codi.modeling.context import Tokens
from codi.serving.job import Job, PromptScores
from codi.serving.token_texts import BEFORE, TokenTexts

POSITIONS_SCORED = 128
"""Of a question at a time: each takes as many numbers as the vocabulary has tokens, and others wait."""


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
