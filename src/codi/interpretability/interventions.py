"""Do the thoughts do anything? Take them away, or put others in their place, and count the right answers.

    same            each thought's own latent, put back: must change nothing
    zero            zeros
    mean            the mean latent of this place, over all problems
    noise           Gaussian, with the mean and spread of this place
    other           the latents of another problem, drawn at random
    permuted        the problem's own latents in another order
    pause           the input row of <bot>, a constant that says "go on"
    zero z1 .. zn   one thought alone silenced
    k latents       fewer or more than trained

A thought is replaced where it is fed back; what the model computes from there on is its own. The answers are
compared question by question with the undisturbed ones, so the intervals are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from codi.data.example import Example
from codi.errors import DataError, UsageError, nearest
from codi.evaluation.benchmarks import format_question
from codi.evaluation.scorers import Scorer, scorer_for
from codi.evaluation.statistics import accuracy_interval, mcnemar_exact, paired_difference
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.thinking import finish, in_batches, refuse_without_thoughts, think_through
from codi.modeling.context import Context
from codi.modeling.model import ThoughtWatcher

REPLACEMENTS = ("same", "zero", "mean", "noise", "other", "permuted", "pause")


class Replace(ThoughtWatcher):
    """Feeds given latents [b, n, d] for the model's own; `which`: their numbers from 0, None for all."""

    def __init__(self, latents: Tensor, which: frozenset[int] | None = None) -> None:
        self.latents, self.which = latents, which

    def feed(self, number: int, context: Context, latent: Tensor) -> Tensor:
        """The given latent, where this one is replaced."""
        if self.which is not None and number not in self.which:
            return latent
        return self.latents[:, number].to(latent.dtype)


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


@dataclass(frozen=True)
class InterventionTable:
    """All interventions on one set. accuracy: undisturbed, fraction 0..1, with its Wilson interval."""

    n: int
    accuracy: float
    ci95: tuple[float, float]
    rows: list[Intervention]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def intervention_table(
    reasoner: LatentReasoner,
    examples: Sequence[Example],
    *,
    scorer: str = "codi",
    names: Sequence[str] = REPLACEMENTS,
    each_alone: bool = True,
    numbers: Sequence[int] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> InterventionTable:
    """Accuracy under every intervention, with paired intervals.

    names: of `REPLACEMENTS`, for all thoughts together; each_alone: also silence every thought by itself;
    numbers: other numbers of latents to think (None: from 0 to twice the trained number, in a few steps).

    Raises UsageError for a model without thoughts or an unknown name, DataError for fewer than 2 problems.
    """
    refuse_without_thoughts(reasoner)
    for name in names:
        if name not in REPLACEMENTS:
            raise UsageError(
                f"Unknown intervention '{name}'.{nearest(name, REPLACEMENTS)} "
                f"Known: {', '.join(REPLACEMENTS)}."
            )
    if len(examples) < 2:
        raise DataError(f"Interventions compare problems, so they need 2 or more; there is {len(examples)}.")
    rule = scorer_for(scorer, examples).reading(reasoner.text)
    asker = _Asker(reasoner, examples, rule, batch_size)
    undisturbed, own = asker.ask_undisturbed()
    trained = own.shape[1]
    plan: list[tuple[str, Callable[[], list[_Outcome]]]] = [
        (name, lambda name=name: asker.ask_with(replacement(reasoner, own, name, seed)))  # type: ignore[misc]
        for name in names
    ]
    if each_alone:
        zeros = torch.zeros_like(own)
        plan += [
            (f"zero z{i + 1}", lambda i=i: asker.ask_with(zeros, frozenset({i})))  # type: ignore[misc]
            for i in range(trained)
        ]
    for number in default_numbers(trained) if numbers is None else numbers:
        plan.append((f"{number} latents", lambda number=number: asker.ask_thinking(number)))  # type: ignore[misc]
    rows = []
    for place, (name, ask) in enumerate(plan):
        rows.append(_compare(name, undisturbed, ask()))
        if on_progress is not None:
            on_progress(place + 1, len(plan))
    right = sum(outcome.right for outcome in undisturbed)
    n = len(undisturbed)
    return InterventionTable(n, right / n, accuracy_interval(right, n), rows)


def default_numbers(trained: int) -> list[int]:
    """Fewer and more latents than trained: none, half, one less, one more, twice as many."""
    return sorted({0, trained // 2, trained - 1, trained + 1, 2 * trained} - {trained})


def replacement(reasoner: LatentReasoner, own: Tensor, name: str, seed: int = 0) -> Tensor:
    """own: [N, n, d], every problem's latents. What is fed in their place, [N, n, d]."""
    generator = torch.Generator().manual_seed(seed)
    rows, number, _ = own.shape
    if name == "same":
        return own
    if name == "zero":
        return torch.zeros_like(own)
    if name == "mean":
        return own.mean(0, keepdim=True).expand_as(own)
    if name == "noise":
        noise = torch.randn(own.shape, generator=generator).to(own)
        return own.mean(0, keepdim=True) + own.std(0, keepdim=True) * noise
    if name == "other":  # a shift by a random number: every problem gets another's, and none twice
        shift = int(torch.randint(1, rows, (), generator=generator))
        return own.roll(shift, 0)
    if name == "permuted":  # one order for all, that leaves no thought in its place
        shift = int(torch.randint(1, number, (), generator=generator)) if number > 1 else 0
        return own.roll(shift, 1)
    row = reasoner.model.thought_tokens[0].detach()
    return row.expand_as(own)


@dataclass(frozen=True, slots=True)
class _Outcome:
    value: str | None
    right: bool


class _Asker:
    """Asks the same questions again and again, in the same batches."""

    def __init__(
        self, reasoner: LatentReasoner, examples: Sequence[Example], rule: Scorer, batch_size: int
    ) -> None:
        self.reasoner, self.examples, self.rule = reasoner, examples, rule
        self.questions = [format_question(example.question) for example in examples]
        self.batches = list(in_batches(len(examples), batch_size))

    def ask_undisturbed(self) -> tuple[list[_Outcome], Tensor]:
        """Outcomes, and all latents [N, n, d] as they were fed back."""
        outcomes: list[_Outcome] = []
        latents = []
        for batch in self.batches:
            thinking = think_through(self.reasoner, [self.questions[i] for i in batch])
            outcomes += self._score(batch, finish(self.reasoner, thinking.start))
            latents.append(thinking.latents)
        return outcomes, torch.cat(latents)

    def ask_with(self, latents: Tensor, which: frozenset[int] | None = None) -> list[_Outcome]:
        """Outcomes with these latents [N, n, d] fed in place of the model's own."""
        outcomes: list[_Outcome] = []
        for batch in self.batches:
            watcher = Replace(latents[batch.start : batch.stop], which)
            thinking = think_through(self.reasoner, [self.questions[i] for i in batch], watcher=watcher)
            outcomes += self._score(batch, finish(self.reasoner, thinking.start))
        return outcomes

    def ask_thinking(self, number: int) -> list[_Outcome]:
        """Outcomes with another number of latents."""
        outcomes: list[_Outcome] = []
        for batch in self.batches:
            answers = self.reasoner.answer(
                [self.questions[i] for i in batch], mode="latent", latents=number, batch_size=len(batch),
                max_new_tokens=32,
            )  # fmt: skip
            outcomes += self._score(batch, [answer.text for answer in answers])
        return outcomes

    def _score(self, batch: range, texts: Sequence[str]) -> list[_Outcome]:
        return [
            _Outcome(self.rule.parse(text), self.rule.correct(text, self.examples[i].answer))
            for i, text in zip(batch, texts, strict=True)
        ]


def _compare(name: str, undisturbed: list[_Outcome], disturbed: list[_Outcome]) -> Intervention:
    before, after = [o.right for o in undisturbed], [o.right for o in disturbed]
    difference, low, high = paired_difference(before, after)
    n = len(after)
    return Intervention(
        name=name,
        accuracy=sum(after) / n,
        ci95=accuracy_interval(sum(after), n),
        difference=difference,
        difference_ci95=(low, high),
        p_value=mcnemar_exact(before, after).p_value,
        changed=sum(a.value != b.value for a, b in zip(undisturbed, disturbed, strict=True)) / n,
    )
