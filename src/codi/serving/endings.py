"""What comes back for a question once its answer has ended."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from codi.generation.answer import Answer
from codi.generation.decoded_thoughts import named_tokens
from codi.generation.latent_reasoner import LatentReasoner
from codi.serving.job import Finished, Job, ScoredToken
from codi.serving.running_batch import Answering
from codi.serving.token_texts import TokenTexts


def finished(reasoner: LatentReasoner, texts: TokenTexts, one: Answering) -> Finished:
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
        prompt_tokens=None if job.prompt is None else job.prompt.told,
        timing=job.timing,
        end=_end(texts, one),
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
        prompt_tokens=None if job.prompt is None else job.prompt.told,
        timing=job.timing,
    )


def _end(texts: TokenTexts, one: Answering) -> ScoredToken | None:
    """The end of text, where it was written and scored."""
    if one.row.end_score is None or one.transcript.stopped:
        return None
    before = one.transcript.opening + one.row.ids
    return texts.scored(before, texts.encoder.eos_id, one.row.end_score)


def _asked(reasoner: LatentReasoner, job: Job) -> str:
    return job.question.text or reasoner.text.decode(job.ids)


def _unknown(reasoner: LatentReasoner, job: Job) -> int:
    unknown = reasoner.text.unknown_id
    return 0 if unknown is None else job.ids.count(unknown)


def _decoded(reasoner: LatentReasoner, thoughts: Tensor | None) -> list[list[tuple[str, float]]]:
    """thoughts: [n, d]. Per thought its likeliest tokens, with probabilities."""
    if thoughts is None:
        return []
    return named_tokens(reasoner.model, reasoner.text, thoughts)
