"""One pass of thinking, looked at: every thought, what was fed back, and the context that it was thought in.

    thinking = think_through(reasoner, ["Mia has 3 apples ..."])
    thinking.thoughts        [b, n, d]   final hidden states: what the LM head decodes
    thinking.latents         [b, n, d]   what was fed back: their projections
    thinking.contexts[i]                 the context that ends in thought i: fork it to see what would follow

Everything here asks the method itself to start (`Method.start`), so what is looked at is what is served.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from codi.data.collation import collate
from codi.errors import UsageError
from codi.generation.decoding import Sampling, Written, decode
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.method import Start
from codi.modeling.context import Context, Tokens
from codi.modeling.model import ThoughtModel, ThoughtWatcher

LONGEST_ANSWER = 32
"""Tokens an answer after the prompt may take; a disturbed model may never stop by itself."""


@dataclass
class Recording(ThoughtWatcher):
    """Keeps what passes by. `inner` may change it first: what is recorded is what the model really used.

    rounds: where thoughts are refined together, those that went into each round, [b, n, d].
    """

    inner: ThoughtWatcher = field(default_factory=ThoughtWatcher)
    contexts: list[Context] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    rounds: list[Tensor] = field(default_factory=list)

    def refine(self, number: int, rounds: int, contexts: Sequence[Context], latents: Tensor) -> Tensor:
        """Keep what goes into this round; of the last one, place by place, as of any thought."""
        self.rounds.append(torch.stack([context.last_hidden for context in contexts], 1))
        return super().refine(number, rounds, contexts, latents)

    def feed(self, number: int, context: Context, latent: Tensor) -> Tensor:
        """Keep the context that ends in this thought, and what is fed back."""
        latent = self.inner.feed(number, context, latent)
        self.contexts.append(context)
        self.latents.append(latent)
        return latent

    def fed(self, number: int, context: Context) -> Context:
        """As `inner` says."""
        return self.inner.fed(number, context)


@dataclass(frozen=True)
class Thinking:
    """What one batch of b questions thought in n latents.

    question: its tokens [b, t], padded left; thoughts, latents: [b, n, d]; contexts: one per thought, ending
    in it; start: where the answer begins; rounds: the thoughts [b, n, d] that went into each round, the last
    one's being `thoughts`; none where they were thought one after the other.
    """

    question: Tokens
    thoughts: Tensor
    latents: Tensor
    contexts: list[Context]
    start: Start
    rounds: tuple[Tensor, ...] = ()

    @property
    def number(self) -> int:
        """Latents thought, n."""
        return self.latents.shape[1]


@contextmanager
def watching(model: ThoughtModel, watcher: ThoughtWatcher) -> Iterator[None]:
    """The model thinks under the eyes of `watcher` meanwhile, in evaluation mode and without gradients."""
    before, was_training = model.watcher, model.training
    model.watcher = watcher
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.watcher = before
        model.train(was_training)


def refuse_without_thoughts(reasoner: LatentReasoner, latents: int | None = None) -> None:
    """Raise UsageError for a model that has no continuous thoughts to look at."""
    if not reasoner.method.thinks:
        raise UsageError(
            f"A {reasoner.method.name} model has no continuous thoughts to look at. What still works: its "
            "answers (`codi generate`), its accuracy (`codi eval`), two systems compared (`codi compare`), "
            "and what of `codi probe --benchmark ... --part shortcuts` applies to it."
        )
    if reasoner.method.stops:
        raise UsageError(
            "This model ends its thinking by itself, so its questions have different numbers of thoughts, "
            "and what is shown here compares thought with thought. Look at it with all of them: --stop never "
            '(in Python reasoner.stopping("never")).'
        )
    number = reasoner.method.thought_positions() - 2 if latents is None else latents
    if number < 0:
        raise UsageError(f"{number} latents were asked for; the number must be 0 or more.")
    if number == 0:
        raise UsageError(
            ("This model thinks 0 latents" if latents is None else "0 latents were asked for")
            + ", so there is nothing to look at. (`codi probe --benchmark ... --part shortcuts` compares 0 "
            "latents with more.)"
        )


def question_tokens(
    reasoner: LatentReasoner, questions: Sequence[str], mode: str = "latent", latents: int | None = None
) -> Tokens:
    """The questions' tokens, padded left. Raises UsageError for an empty or too long one."""
    encoded = [
        reasoner.question_ids(question, f"Question {number + 1}", mode, latents)
        for number, question in enumerate(questions)
    ]
    batch = collate([{"question": ids} for ids in encoded], reasoner.text.pad_id)
    return Tokens.of({name: tensor.to(reasoner.model.device) for name, tensor in batch.items()}, "question")


def think_through(
    reasoner: LatentReasoner,
    questions: Sequence[str],
    *,
    latents: int | None = None,
    watcher: ThoughtWatcher | None = None,
) -> Thinking:
    """Think over a batch of questions. `watcher` may change thoughts on the way.

    Raises UsageError for a model without thoughts, or a question that is empty or too long.
    """
    refuse_without_thoughts(reasoner, latents)
    question = question_tokens(reasoner, questions, latents=latents)
    recording = Recording(watcher or ThoughtWatcher())
    with watching(reasoner.model, recording):
        start = reasoner.method.start(reasoner.model, reasoner.text, question, "latent", latents)
    thoughts = torch.stack([context.last_hidden for context in recording.contexts], 1)
    return Thinking(
        question, thoughts, torch.stack(recording.latents, 1), recording.contexts, start,
        tuple(recording.rounds),
    )  # fmt: skip


def finish(reasoner: LatentReasoner, start: Start, max_new_tokens: int = LONGEST_ANSWER) -> list[str]:
    """The text of every answer, written greedily from where the thoughts ended."""
    was_training = reasoner.model.training
    reasoner.model.eval()
    rows: list[Written] = decode(reasoner.model, start, reasoner.text.eos_id, max_new_tokens, Sampling())
    reasoner.model.train(was_training)
    return [reasoner.text.decode(start.written + row.ids) for row in rows]


def in_batches(number: int, batch_size: int) -> Iterator[range]:
    """Ranges that cover 0..number-1."""
    for first in range(0, number, batch_size):
        yield range(first, min(first + batch_size, number))
