"""Thoughts taken away, or others put in their place: how many answers are still right?

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
compared question by question with the undisturbed ones, so the intervals are paired. What the thoughts are
good for is asked in `shortcuts`, by these and more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from codi.data.example import Example
from codi.errors import DataError, UsageError, nearest
from codi.evaluation.scorers import scorer_for
from codi.evaluation.statistics import accuracy_interval
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.disturbed_answers import Asker, Intervention, Outcome
from codi.interpretability.thinking import refuse_without_thoughts

REPLACEMENTS = ("same", "zero", "mean", "noise", "other", "permuted", "pause")
SAME_NORM_NOISE = "noise of the same norm"
"""Each latent replaced by a random direction as long as it is."""


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
    latents: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    asker: Asker | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> InterventionTable:
    """Accuracy under every intervention, with paired intervals.

    names: of `REPLACEMENTS`, for all thoughts together; each_alone: also silence every thought by itself;
    numbers: other numbers of latents to think (None: from 0 to twice the trained number, in a few steps);
    latents: thought undisturbed, None for as many as trained; asker: one that asks these examples, whose
    outcomes are shared.

    Raises UsageError for a model without thoughts or an unknown name, DataError for fewer than 2 problems.
    """
    refuse_without_thoughts(reasoner, latents)
    for name in names:
        if name not in REPLACEMENTS:
            raise UsageError(
                f"Unknown intervention '{name}'.{nearest(name, REPLACEMENTS)} "
                f"Known: {', '.join(REPLACEMENTS)}."
            )
    asker = asker or asker_of(reasoner, examples, scorer, latents, batch_size)
    undisturbed, own = asker.undisturbed(), asker.own
    trained = own.shape[1]
    plan: list[tuple[str, Callable[[], list[Outcome]]]] = [
        (name, lambda name=name: ask_replaced(asker, name, seed))  # type: ignore[misc]
        for name in names
    ]
    if each_alone:
        zeros = torch.zeros_like(own)
        plan += [
            (f"zero z{i + 1}", lambda i=i: asker.ask_with(f"zero z{i + 1}", zeros, frozenset({i})))  # type: ignore[misc]
            for i in range(trained)
        ]
    for number in default_numbers(trained) if numbers is None else numbers:
        plan.append((f"{number} latents", lambda number=number: asker.ask_thinking(number)))  # type: ignore[misc]
    rows = []
    for place, (name, ask) in enumerate(plan):
        rows.append(asker.compare(name, ask()))
        if on_progress is not None:
            on_progress(place + 1, len(plan))
    right = sum(outcome.right for outcome in undisturbed)
    n = len(undisturbed)
    return InterventionTable(n, right / n, accuracy_interval(right, n), rows)


def asker_of(
    reasoner: LatentReasoner,
    examples: Sequence[Example],
    scorer: str = "codi",
    latents: int | None = None,
    batch_size: int = 64,
) -> Asker:
    """Who asks these examples. Raises DataError for fewer than 2, or a gold answer that cannot be scored."""
    if len(examples) < 2:
        raise DataError(f"Interventions compare problems, so they need 2 or more; there is {len(examples)}.")
    rule = scorer_for(scorer, examples).reading(reasoner.text)
    return Asker(reasoner, examples, rule, latents=latents, batch_size=batch_size)


def ask_replaced(asker: Asker, name: str, seed: int = 0) -> list[Outcome]:
    """Outcomes with all thoughts replaced as `name` says."""
    return asker.ask_with(name, replacement(asker.reasoner, asker.own, name, seed))


def default_numbers(trained: int) -> list[int]:
    """Fewer and more latents than trained: none, half, one less, one more, twice as many."""
    return sorted({0, trained // 2, max(0, trained - 1), trained + 1, 2 * trained} - {trained})


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
    if name == SAME_NORM_NOISE:
        noise = torch.randn(own.shape, generator=generator).to(own)
        scale = own.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
        matched: Tensor = noise * scale
        return matched
    if name == "other":
        return own.roll(donor_shift(rows, seed), 0)
    if name == "permuted":  # one order for all, that leaves no thought in its place
        shift = int(torch.randint(1, number, (), generator=generator)) if number > 1 else 0
        return own.roll(shift, 1)
    row = reasoner.model.thought_tokens[0].detach()
    return row.expand_as(own)


def donor_shift(rows: int, seed: int = 0) -> int:
    """By how many rows `other` shifts: every problem gets another's latents, and nobody's are given twice."""
    return int(torch.randint(1, rows, (), generator=torch.Generator().manual_seed(seed)))
