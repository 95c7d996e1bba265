"""What comes back for a question once its answer has ended."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from codi.generation.answer import Answer
from codi.generation.decoded_thoughts import named_tokens
from codi.generation.decoding import TokenScore, token_scores
from codi.generation.latent_reasoner import LatentReasoner
from codi.modeling.context import Tokens
from codi.serving.job import Finished, Job, ScoredToken
from codi.serving.running_batch import Answering
from codi.serving.transcript import scored_token

POSITIONS_SCORED = 128
"""Of a question at a time: each takes as many numbers as the vocabulary has tokens."""


def finished(reasoner: LatentReasoner, one: Answering) -> Finished:
    """The answer as its transcript stands."""
    job, row, transcript = one.job, one.row, one.transcript
    answer = reasoner.answer_of(_asked(reasoner, job), transcript.opening, one.latent_tokens, row.written)
    if transcript.stopped:
        value = reasoner.text.value(transcript.text)
        answer = replace(answer, text=transcript.text, value=value, finished=True)
    return Finished(
        answer,
        question_tokens=len(job.ids),
        latent_tokens=one.latent_tokens,
        written_tokens=len(row.ids),
        unknown_tokens=_unknown(reasoner, job),
        decoded=_decoded(reasoner, one.thoughts) if job.question.decoded_thoughts else None,
        tokens=None if transcript.tokens is None else tuple(transcript.tokens),
        prompt_tokens=_prompt_tokens(reasoner, job),
        timing=job.timing,
        end=_end(reasoner, one),
    )


def read_only(reasoner: LatentReasoner, job: Job) -> Finished:
    """For a question that asks for no answer, but for its own log-probabilities."""
    return Finished(
        Answer(_asked(reasoner, job), "", None, thoughts=0, passes=1, answer_tokens=0, finished=False),
        question_tokens=len(job.ids),
        latent_tokens=0,
        written_tokens=0,
        unknown_tokens=_unknown(reasoner, job),
        decoded=None,
        tokens=None if job.question.logprobs is None else (),
        prompt_tokens=_prompt_tokens(reasoner, job),
        timing=job.timing,
    )


def _end(reasoner: LatentReasoner, one: Answering) -> ScoredToken | None:
    """The end of text, where it was written and scored."""
    if one.row.end_score is None or one.transcript.stopped:
        return None
    text, before = reasoner.text, one.transcript.opening + one.row.ids
    return scored_token(text, before, text.eos_id, one.row.end_score)


def _asked(reasoner: LatentReasoner, job: Job) -> str:
    return job.question.text or reasoner.text.decode(job.ids)


def _unknown(reasoner: LatentReasoner, job: Job) -> int:
    unknown = reasoner.text.unknown_id
    return 0 if unknown is None else job.ids.count(unknown)


def _prompt_tokens(reasoner: LatentReasoner, job: Job) -> tuple[ScoredToken, ...] | None:
    """The question's tokens, as plain text: those that were given, where they were given as tokens."""
    if not job.question.prompt_logprobs:
        return None
    ids, first, end = job.ids, 0, len(job.ids)
    if job.question.ids is not None:
        opening, _ = reasoner.text.around_question()
        first = 0 if list(job.question.ids[: len(opening)]) == opening else len(opening)
        end = first + len(job.question.ids)
    final = reasoner.model.read(Tokens.repeated(ids, 1, reasoner.model.device)).final[0]
    top = job.question.logprobs or 0
    scores: list[TokenScore | None] = [None]
    for at in range(0, len(ids) - 1, POSITIONS_SCORED):
        following = torch.tensor(ids[at + 1 : at + 1 + POSITIONS_SCORED], device=final.device)
        logits = reasoner.model.logits(final[at : at + len(following)])
        scores += token_scores(logits, following, [top] * len(following))
    return tuple(
        scored_token(reasoner.text, ids[:place], ids[place], scores[place]) for place in range(first, end)
    )


def _decoded(reasoner: LatentReasoner, thoughts: Tensor | None) -> list[list[tuple[str, float]]]:
    """thoughts: [n, d]. Per thought its likeliest tokens, with probabilities."""
    if thoughts is None:
        return []
    return named_tokens(reasoner.model, reasoner.text, thoughts)
