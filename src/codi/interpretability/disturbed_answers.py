"""The same questions asked again and again, each time with something else in the way.

asker = Asker(reasoner, examples, rule)
asker.undisturbed()                                 outcomes as the model answers by itself
asker.ask("zero", lambda rows: ...start...)         outcomes where every batch begins as told
compare("zero", before, after)                      accuracies, paired interval, answers that changed
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codi.data.example import Example
from codi.evaluation.benchmarks import format_question
from codi.evaluation.scorers import Scorer
from codi.evaluation.statistics import accuracy_interval, mcnemar_exact, paired_difference
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.thinking import (
    LONGEST_ANSWER,
    finish,
    in_batches,
    question_tokens,
    think_through,
    watching,
)
from codi.methods.method import Start
from codi.modeling.context import Context, Tokens
from codi.modeling.model import ThoughtWatcher

LONGEST_RATIONALE = 256
"""Tokens a model may write that writes its rationale."""

Begin = Callable[[range], Start]
"""From the numbers of a batch's questions to where the writing of their answers begins."""


class Replace(ThoughtWatcher):
    """Feeds given latents [b, n, d] for the model's own; `which`: their numbers from 0, None for all."""

    def __init__(self, latents: Tensor, which: frozenset[int] | None = None) -> None:
        self.latents, self.which = latents, which

    def feed(self, number: int, context: Context, latent: Tensor) -> Tensor:
        """The given latent, where this one is replaced."""
        if self.which is not None and number not in self.which:
            return latent
        return self.latents[:, number].to(latent.dtype)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer: what was read out of it (None: nothing), and whether it is right."""

    value: str | None
    right: bool


@dataclass(frozen=True)
class Intervention:
    """What one intervention did to n answers.

    accuracy: fraction 0..1 with its Wilson interval; difference: to the undisturbed accuracy, with its
    paired bootstrap interval; p_value: McNemar's exact test; changed: share of answers that became others.
    """

    name: str
    accuracy: float
    ci95: tuple[float, float]
    difference: float
    difference_ci95: tuple[float, float]
    p_value: float
    changed: float


class Asker:
    """Asks one set of questions; outcomes are kept by name, so that several tables share them."""

    def __init__(
        self,
        reasoner: LatentReasoner,
        examples: Sequence[Example],
        rule: Scorer,
        *,
        latents: int | None = None,
        batch_size: int = 64,
    ) -> None:
        self.reasoner, self.examples, self.rule, self.latents = reasoner, examples, rule, latents
        self.questions = [format_question(example.question) for example in examples]
        self.batches = list(in_batches(len(examples), batch_size))
        self._outcomes: dict[str, list[Outcome]] = {}
        self._own: Tensor | None = None

    @property
    def trained(self) -> int:
        """Latents thought when nothing is in the way; 0 for a model without."""
        if not self.reasoner.method.thinks:
            return 0
        return self.reasoner.method.thought_positions(self.latents) - 2

    def undisturbed(self) -> list[Outcome]:
        """Outcomes of the model's own answers."""
        if not self.trained:
            return self.ask("", lambda rows: self.start(rows, self.latents))
        if self._own is None:
            latents: list[Tensor] = []

            def think(rows: range) -> Start:
                thinking = think_through(self.reasoner, self._asked(rows), latents=self.latents)
                latents.append(thinking.latents)
                return thinking.start

            self.ask("", think)
            self._own = torch.cat(latents)
        return self._outcomes[""]

    @property
    def own(self) -> Tensor:
        """Every question's own latents, [N, n, d], as they are fed back."""
        self.undisturbed()
        assert self._own is not None
        return self._own

    def ask(self, name: str, begin: Begin) -> list[Outcome]:
        """Outcomes of all questions, each batch answered from where `begin` says."""
        if name not in self._outcomes:
            found: list[Outcome] = []
            for rows in self.batches:
                with watching(self.reasoner.model, ThoughtWatcher()):
                    start = begin(rows)
                longest = LONGEST_ANSWER if start.written else LONGEST_RATIONALE
                found += self._scored(rows, finish(self.reasoner, start, longest))
            self._outcomes[name] = found
        return self._outcomes[name]

    def ask_with(self, name: str, latents: Tensor, which: frozenset[int] | None = None) -> list[Outcome]:
        """Outcomes with these latents [N, n, d] fed in place of the model's own."""
        return self.ask(
            name, lambda rows: self.watched(rows, Replace(latents[rows.start : rows.stop], which))
        )

    def ask_thinking(self, number: int) -> list[Outcome]:
        """Outcomes with another number of latents."""
        return self.ask(f"{number} latents", lambda rows: self.start(rows, number))

    def watched(self, rows: range, watcher: ThoughtWatcher) -> Start:
        """Where the answers begin when the model thinks under the eyes of `watcher`."""
        return think_through(self.reasoner, self._asked(rows), latents=self.latents, watcher=watcher).start

    def start(self, rows: range, latents: int | None = None) -> Start:
        """Where the answers begin by the method's own way, maybe with another number of latents."""
        tokens = self.tokens(rows, latents)
        method, model = self.reasoner.method, self.reasoner.model
        return method.start(model, self.reasoner.text, tokens, method.mode(None), latents)

    def tokens(self, rows: range, latents: int | None = None) -> Tokens:
        """The questions of a batch, padded left."""
        return question_tokens(self.reasoner, self._asked(rows), self.reasoner.method.mode(None), latents)

    def same(self, one: Outcome, other: Outcome) -> bool:
        """Whether two answers are the same by the scorer's rule; two that say nothing are."""
        if one.value is None or other.value is None:
            return one.value is other.value
        return self.rule.equal(one.value, other.value)

    def compare(
        self, name: str, disturbed: Sequence[Outcome], rows: Sequence[int] | None = None
    ) -> Intervention:
        """The disturbed outcomes beside the undisturbed ones, question by question; rows: these only."""
        chosen = range(len(self.examples)) if rows is None else rows
        before = [self.undisturbed()[row] for row in chosen]
        after = [disturbed[row] for row in chosen]
        right_before, right_after = [o.right for o in before], [o.right for o in after]
        difference, low, high = paired_difference(right_before, right_after)
        n = len(after)
        return Intervention(
            name=name,
            accuracy=sum(right_after) / n,
            ci95=accuracy_interval(sum(right_after), n),
            difference=difference,
            difference_ci95=(low, high),
            p_value=mcnemar_exact(right_before, right_after).p_value,
            changed=sum(not self.same(a, b) for a, b in zip(before, after, strict=True)) / n,
        )

    def _asked(self, rows: range) -> list[str]:
        return [self.questions[row] for row in rows]

    def _scored(self, rows: range, texts: Sequence[str]) -> list[Outcome]:
        return [
            Outcome(self.rule.parse(text), self.rule.correct(text, self.examples[row].answer))
            for row, text in zip(rows, texts, strict=True)
        ]
