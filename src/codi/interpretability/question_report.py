"""All there is to see of one question: thoughts, attention, lenses, and what silencing a thought does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from codi.evaluation.benchmarks import format_question
from codi.generation.answer import Answer
from codi.generation.decoded_thoughts import TOP_TOKENS, DecodedToken, decoded_tokens
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.attention import TOP_ATTENDED, AttentionMap, attended
from codi.interpretability.disturbed_answers import Replace
from codi.interpretability.layer_states import layer_states
from codi.interpretability.lenses import TunedLens, lens_tokens
from codi.interpretability.thinking import finish, refuse_without_thoughts, think_through

LENS_TOKENS = 3


@dataclass(frozen=True)
class ThoughtReport:
    """One thought.

    tokens: what it decodes to, likeliest first; attended: where the pass that made it looked (name, weight);
    lens, tuned: per layer, the embedding first, the likeliest (token, probability); tuned is None without a
    tuned lens; silenced: the answer when this thought is fed back as zeros; rounds: what went into each round
    at its place, the last one's being `tokens`. Where thoughts are refined together there are rounds and no
    `attended` and `lens`, which are of one pass a thought.
    """

    name: str
    tokens: list[DecodedToken]
    attended: list[tuple[str, float]]
    lens: list[list[tuple[str, float]]]
    tuned: list[list[tuple[str, float]]] | None
    silenced: str | None
    rounds: list[list[DecodedToken]] = field(default_factory=list)


@dataclass(frozen=True)
class QuestionReport:
    """One question.

    value: the answer read off `text`; explicit: the same model's written rationale and answer, None where the
    method writes none; keys, rows, attention: see `AttentionMap`; weights [rows][keys] are means over the
    chosen layers and heads, the first token's left out of `attended` but not of these; all three are empty
    where every pass makes all thoughts.
    latent_ms, explicit_ms: answering at batch 1, once, in milliseconds.
    """

    question: str
    text: str
    value: str | None
    thoughts: list[ThoughtReport]
    keys: list[str]
    rows: list[str]
    attention: list[list[float]]
    passes: int
    latent_ms: float
    explicit: str | None
    explicit_value: str | None
    explicit_passes: int | None
    explicit_ms: float | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def question_report(
    reasoner: LatentReasoner,
    question: str,
    *,
    latents: int | None = None,
    top_k: int = TOP_TOKENS,
    layer: int | None = None,
    head: int | None = None,
    lens: TunedLens | None = None,
) -> QuestionReport:
    """Look at one question. layer, head: whose attention, None for the mean over all.

    Raises UsageError for a model without thoughts, a bad question, or a layer or head that is not there.
    """
    refuse_without_thoughts(reasoner, latents)
    question = format_question(question)
    answer, latent_ms = timed_answer(reasoner, question, "latent", latents)
    attention, together = None, reasoner.method.refines
    if together:
        thinking = think_through(reasoner, [question], latents=latents)
    else:
        thinking, attention = attended(reasoner, question, latents=latents)
    decoded = decoded_tokens(reasoner.model, reasoner.text, thinking.thoughts, thinking.contexts, top_k)[0]
    read, tuned = None, None
    if not together or lens is not None:  # a lens that cannot be had is refused
        _, states = layer_states(reasoner, [question], latents=latents)
        read = lens_tokens(reasoner, states, LENS_TOKENS)[0]
        tuned = lens_tokens(reasoner, states, LENS_TOKENS, lens)[0] if lens is not None else None
    rounds = [decoded_tokens(reasoner.model, reasoner.text, each, None, top_k)[0] for each in thinking.rounds]
    silenced = []
    for number in range(thinking.number):
        watcher = Replace(torch.zeros_like(thinking.latents), frozenset({number}))
        start = think_through(reasoner, [question], latents=latents, watcher=watcher).start
        silenced.append(reasoner.text.value(finish(reasoner, start)[0]))
    written = None
    if "explicit" in reasoner.method.modes:
        written = timed_answer(reasoner, question, "explicit")
    return QuestionReport(
        question=question,
        text=answer.text,
        value=answer.value,
        thoughts=[
            ThoughtReport(
                name=reasoner.method.thought_name(i),
                tokens=decoded[i],
                attended=[] if attention is None else attention.top(i, TOP_ATTENDED, layer, head),
                lens=[] if read is None else read[i],
                tuned=None if tuned is None else tuned[i],
                silenced=silenced[i],
                rounds=[each[i] for each in rounds],
            )
            for i in range(thinking.number)
        ],
        keys=[] if attention is None else attention.keys,
        rows=[] if attention is None else attention.rows,
        attention=[] if attention is None else _padded(attention, layer, head),
        passes=answer.passes,
        latent_ms=latent_ms,
        explicit=written[0].text if written else None,
        explicit_value=written[0].value if written else None,
        explicit_passes=written[0].passes if written else None,
        explicit_ms=written[1] if written else None,
    )


def timed_answer(
    reasoner: LatentReasoner, question: str, mode: str, latents: int | None = None
) -> tuple[Answer, float]:
    """The answer, and the milliseconds it took, after one that is not timed."""
    reasoner.answer([question], mode=mode, latents=latents)
    start = time.perf_counter()
    answer = reasoner.answer([question], mode=mode, latents=latents)[0]
    return answer, 1e3 * (time.perf_counter() - start)


def _padded(attention: AttentionMap, layer: int | None, head: int | None) -> list[list[float]]:
    """[rows][keys]; a pass does not see later positions: 0 there."""
    width = len(attention.keys)
    rows: list[Sequence[float]] = [
        attention.mean(row, layer, head).tolist() for row in range(len(attention.rows))
    ]
    return [[*weights, *[0.0] * (width - len(weights))] for weights in rows]
