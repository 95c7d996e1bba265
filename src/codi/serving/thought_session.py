"""What the page asks of a model, one question at a time. Nothing here knows of the page.

    session = ThoughtSession(reasoner)
    asked = session.ask("Mia has 3 apples ...")         thoughts, attention, answer, written reasoning
    session.change(asked, {1: "silence", 3: "z1"})      thought anew, with other latents fed back

Thoughts are numbered from 0 and named from z1. One model serves every tab, so one call runs at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from codi.data.example import Example
from codi.data.generators import familiar_generator
from codi.data.sources import load_examples
from codi.errors import UsageError, nearest
from codi.generation.answer import Answer
from codi.generation.decoded_thoughts import DecodedToken, decoded_tokens, named_tokens
from codi.generation.decoding import Decoding, Row
from codi.generation.latent_reasoner import LatentReasoner
from codi.generation.question_words import QuestionToken, question_words
from codi.interpretability.attention import AttentionMap, attended
from codi.interpretability.thinking import LONGEST_ANSWER, finish, refuse_without_thoughts
from codi.modeling.context import Context
from codi.modeling.model import ThoughtWatcher
from codi.serving.page_turn import OwnTurn, Turn

KEEP, SILENCE, MEAN = "keep", "silence", "mean"
EXAMPLES = 20
"""Questions of a generator's test split that the page can fill in."""

LONGEST_RATIONALE = 256
"""Tokens the same model may write when it reasons in words."""
_TIMED_RUNS = 3
SECONDS_HELD = 0.1
"""An answer that is written holds the model for so long at a time, or for one token."""
_SECONDS_TO_TIME = 0.2
"""No further run is timed once this is spent: a slow answer is asked for once."""

Arrived = Callable[[int, list[DecodedToken]], None]
"""Called with a thought's number and what it decodes to, as soon as it was thought."""


@dataclass(frozen=True)
class Thoughts:
    """One pass of thinking over one question, and the answer that came of it.

    tokens: what each thought decodes to; latents: [n, d], what was fed back.
    """

    tokens: list[list[DecodedToken]]
    latents: Tensor
    attention: AttentionMap
    text: str
    value: str | None


@dataclass(frozen=True)
class Timed:
    """An answer as `codi generate` gives it, with nobody looking on, and how long it took."""

    answer: Answer
    milliseconds: float


@dataclass(frozen=True)
class Asked:
    """Everything about one question. explicit: the same model writing its rationale, where it can."""

    question: str
    words: list[QuestionToken]
    thoughts: Thoughts
    latent: Timed
    explicit: Timed | None
    gold: str | None

    @property
    def unknown_words(self) -> list[str]:
        """Words that the tokenizer does not know, each once."""
        return list(dict.fromkeys(word.text for word in self.words if not word.known))


class FedInstead(ThoughtWatcher):
    """Feeds other latents back than were thought.

    usual: [n, d], the latents of the undisturbed run; changes: thought number to what is fed in its place.
    """

    def __init__(self, usual: Tensor, changes: Mapping[int, str]) -> None:
        self.usual, self.changes = usual, changes

    def feed(self, number: int, context: Context, latent: Tensor) -> Tensor:
        """Zeros, the mean of the usual latents, another of them, or the latent as it is."""
        change = self.changes.get(number, KEEP)
        if change == KEEP:
            return latent
        if change == SILENCE:
            return torch.zeros_like(latent)
        fed = self.usual.mean(0) if change == MEAN else self.usual[int(change.removeprefix("z")) - 1]
        return fed.expand_as(latent)


class _Announced(ThoughtWatcher):
    """Says what each thought decodes to before the next one is thought."""

    def __init__(self, reasoner: LatentReasoner, arrived: Arrived) -> None:
        self.reasoner, self.arrived = reasoner, arrived

    def feed(self, number: int, context: Context, latent: Tensor) -> Tensor:
        """Decode the thought; the latent stays as it is."""
        (tokens,) = named_tokens(self.reasoner.model, self.reasoner.text, context.last_hidden[:1])
        self.arrived(number, [DecodedToken(name, share, name) for name, share in tokens])
        return latent


class ThoughtSession:
    """A loaded model and the questions asked of it. Raises UsageError for a model without thoughts, or one
    that refines them together.

    turn: held while the model runs, where others use it too; what takes long pauses, and they go on.
    """

    def __init__(self, reasoner: LatentReasoner, turn: Turn | None = None) -> None:
        refuse_without_thoughts(reasoner)
        if reasoner.method.refines:
            raise UsageError(
                f"A {reasoner.method.name} model makes all thoughts in every pass, and the page shows one "
                "pass for each. `codi probe --question` shows its thoughts round by round."
            )
        self.reasoner = reasoner
        self.latents = reasoner.method.thought_positions() - 2
        self._turn: Turn = turn or OwnTurn()
        reasoner.model.eval()

    @cached_property
    def examples(self) -> list[Example]:
        """Generated test problems whose every word this model knows; maybe none."""
        reads = self.reasoner.text.reads
        problems, _ = load_examples(f"{familiar_generator(reads)}?count={EXAMPLES}", split="test")
        return [problem for problem in problems if reads(problem.question)]

    def warm_up(self) -> None:
        """Answer once, so that the first times shown are not those of a model still setting itself up."""
        for mode in self.reasoner.method.modes:
            self.reasoner.answer(["1"], mode=mode, max_new_tokens=2)

    def ask(self, question: str, arrived: Arrived | None = None) -> Asked:
        """Think, answer, and write the reasoning out. Raises UsageError for an empty or too long question.

        arrived: told of every thought as it comes, from the thread this runs in.
        """
        with self._turn:
            words = self._words(question)
            watcher = _Announced(self.reasoner, arrived) if arrived is not None else ThoughtWatcher()
            thoughts = self._think(question, watcher)
            explicit = "explicit" in self.reasoner.method.modes
            return Asked(
                question=question,
                words=words,
                thoughts=thoughts,
                latent=self._timed(question, "latent", LONGEST_ANSWER),
                explicit=self._timed(question, "explicit", LONGEST_RATIONALE) if explicit else None,
                gold=next((e.answer for e in self.examples if e.question == question), None),
            )

    def change(self, asked: Asked, changes: Mapping[int, str]) -> Thoughts:
        """Think over the question again with other latents fed back.

        changes: thought number (from 0) to `keep`, `silence`, `mean`, or the name of another thought (`z1`),
        whose latent of the undisturbed run is fed. Raises UsageError for anything else.
        """
        known = self.choices()
        for number, change in changes.items():
            if not 0 <= number < self.latents:
                raise UsageError(f"There is no thought {number}: the model thinks 0 to {self.latents - 1}.")
            if change not in known:
                raise UsageError(
                    f"A thought cannot be changed by '{change}'.{nearest(change, known)} "
                    f"Choose one of {', '.join(known)}."
                )
        with self._turn:
            return self._think(asked.question, FedInstead(asked.thoughts.latents, changes))

    def choices(self) -> list[str]:
        """What `change` takes for a thought."""
        return [KEEP, SILENCE, MEAN, *(f"z{number + 1}" for number in range(self.latents))]

    def _think(self, question: str, watcher: ThoughtWatcher) -> Thoughts:
        thinking, attention = attended(self.reasoner, question, watcher=watcher)
        self._turn.pause()
        text = finish(self.reasoner, thinking.start)[0]
        self._turn.pause()
        return Thoughts(
            tokens=decoded_tokens(
                self.reasoner.model, self.reasoner.text, thinking.thoughts, thinking.contexts
            )[0],
            latents=thinking.latents[0],
            attention=attention,
            text=text,
            value=self.reasoner.text.value(text),
        )

    def _timed(self, question: str, mode: str, max_new_tokens: int) -> Timed:
        """The quickest of several runs: what else the machine does only ever adds time."""
        times: list[float] = []
        while len(times) < _TIMED_RUNS and sum(times) < _SECONDS_TO_TIME:
            self._turn.pause()
            answer, seconds = self._answered(question, mode, max_new_tokens)
            times.append(seconds)
        return Timed(answer, 1000 * min(times))

    @torch.no_grad()
    def _answered(self, question: str, mode: str, max_new_tokens: int) -> tuple[Answer, float]:
        """The answer that `LatentReasoner.answer` gives, and the seconds it took, pauses left out."""
        reasoner, held = self.reasoner, time.perf_counter()
        start = reasoner.start([reasoner.question_ids(question, "The question", mode)], mode)
        row, seconds = Row(max_new_tokens), 0.0
        fixed = reasoner.fixed_answering()
        decoding = Decoding(reasoner.model, reasoner.text.eos_id, start, [row], fixed)
        while True:
            decoding.step()
            if row.error is not None:
                raise row.error
            if row.done:
                break
            if time.perf_counter() - held > SECONDS_HELD:
                seconds += time.perf_counter() - held
                self._turn.pause()
                held = time.perf_counter()
        answer = reasoner.answer_of(question, start.written, start.spent()[0][0], row.written)
        return answer, seconds + time.perf_counter() - held

    def _words(self, question: str) -> list[QuestionToken]:
        """The question cut where the tokenizer cuts it; it must fit in every mode."""
        reasoner = self.reasoner
        if "explicit" in reasoner.method.modes:
            reasoner.question_ids(question, "The question", "explicit")
        ids = reasoner.question_ids(question, "The question", "latent")
        return question_words(reasoner.model, reasoner.text, question, ids)
