"""Whether two systems differ, over the seeds that both were trained with.

Two trained models on the same questions are compared by McNemar's test (`statistics.mcnemar_exact`): it says
that these two differ. That one *system* is better than another is a claim about trainings still to be made,
and of those the seeds are the sample; asking more questions of the same two models brings no more of them.

    gain[s, q] = right(second)[s, q] - right(first)[s, q]         seed s of S, question q of Q; -1, 0 or 1

Both levels vary: seeds, and the questions that all of them are asked. What the mean gain owes to each, and to
the rest, which is in both:

    seeds      sum_s (gain[s] - gain)^2 / S (S - 1)
    questions  sum_q (gain[q] - gain)^2 / Q (Q - 1)
    rest       sum_sq (gain[s, q] - gain[s] - gain[q] + gain)^2 / S Q (S - 1) (Q - 1)
    error^2  = max(seeds, rest) + max(0, questions - rest)

`rest` is the least that seeds vary by: two whose gains happen to be equal are no certainty. The interval and
p are Student's t with S - 1 degrees of freedom; where seeds vary more than that and questions add nothing,
this is the paired t test over the seeds' accuracies. A hierarchical bootstrap (seeds drawn, then questions)
estimates the same error, but from few seeds too small a one: its interval holds the truth less often than it
says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class SeedComparison:
    """The second system against the first. Differences are fractions, of the second less the first.

    ci95, p: None of one seed, which says nothing about others. p: two-sided, of no difference.
    above, below: seeds in which the second system's accuracy is higher, lower. sign_p: of the exact sign test
    over these, two-sided; least_sign_p: the smallest that it can be with so many seeds.
    """

    seeds: int
    questions: int
    difference: float
    ci95: tuple[float, float] | None
    p: float | None
    above: int
    below: int
    sign_p: float
    least_sign_p: float

    @property
    def verdict(self) -> str:
        """`above`, `below`, or `undecided` where the interval holds 0 or there is one seed."""
        if self.ci95 is None or self.ci95[0] <= 0 <= self.ci95[1]:
            return "undecided"
        return "above" if self.difference > 0 else "below"


def compare_over_seeds(
    first: Sequence[Sequence[bool]], second: Sequence[Sequence[bool]], confidence: float = 0.95
) -> SeedComparison:
    """Two systems on the same questions. first, second: for each seed, right or wrong by question, (S, Q).

    The seeds, and the questions, stand in the same order for both. Raises ValueError where they are not as
    many, or there are none.
    """
    import numpy as np
    from scipy.stats import t

    if len(first) != len(second) or not first:
        raise ValueError(f"paired seeds must be as many, 1 or more, got {len(first)} and {len(second)}")
    counts = sorted({len(outcomes) for outcomes in (*first, *second)})
    if len(counts) > 1 or counts == [0]:
        raise ValueError(f"every seed must be asked the same questions, 1 or more, got {counts}")
    gains = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    seeds, questions = gains.shape
    difference = float(gains.mean())
    of_seeds = gains.mean(axis=1)
    above, below = int((of_seeds > 0).sum()), int((of_seeds < 0).sum())
    ci95 = p = None
    if seeds > 1:
        error = _standard_error(gains)
        reach = float(t.ppf((1 + confidence) / 2, seeds - 1)) * error
        ci95 = max(-1.0, difference - reach), min(1.0, difference + reach)
        p = float(2 * t.sf(abs(difference) / error, seeds - 1)) if error else float(difference == 0)
    return SeedComparison(
        seeds, questions, difference, ci95, p, above, below, sign_test(above, below), sign_test(seeds, 0)
    )


def _standard_error(gains: np.ndarray) -> float:
    """Of the mean gain over seeds and questions. gains: (S, Q), two seeds or more."""
    seeds, questions = gains.shape
    mean, of_seeds, of_questions = gains.mean(), gains.mean(axis=1), gains.mean(axis=0)
    by_seeds = float(((of_seeds - mean) ** 2).sum()) / (seeds * (seeds - 1))
    if questions == 1:
        return math.sqrt(by_seeds)
    rest = ((gains - of_seeds[:, None] - of_questions[None, :] + mean) ** 2).sum()
    by_both = float(rest) / (seeds * questions * (seeds - 1) * (questions - 1))
    by_questions = float(((of_questions - mean) ** 2).sum()) / (questions * (questions - 1))
    return math.sqrt(max(by_seeds, by_both) + max(0.0, by_questions - by_both))


def sign_test(above: int, below: int) -> float:
    """Exact two-sided p of so many seeds above and below; seeds without a difference are left out."""
    from scipy.stats import binomtest

    return float(binomtest(above, above + below, 0.5).pvalue) if above + below else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's p for each of several tests: below 0.05 it stays an error in one of 20 families at most."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
