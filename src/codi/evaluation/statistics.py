"""The statistics beside every reported number: intervals, latency percentiles, paired comparison.

scipy is imported where it is used, so that commands which print no statistic start at once.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def accuracy_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of an accuracy.

    Wilson rather than the normal approximation, because benchmark accuracies near 0 (GSM-Hard) and near 1
    (MultiArith, n = 180) are common and the normal interval leaves [0, 1] there.

    Args:
        correct: right answers, 0..n.
        n: questions, at least 1.
        confidence: coverage as a fraction.

    Returns:
        Lower and upper bound as fractions 0..1.

    Raises:
        ValueError: `n` is below 1 or `correct` outside 0..n.
    """
    from scipy.stats import binomtest

    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"an accuracy needs 0 <= correct <= n and n >= 1, got correct={correct}, n={n}")
    interval = binomtest(correct, n).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class PairedComparison:
    """McNemar's exact test of two systems on the same questions.

    `only_first` and `only_second` count the questions that one system alone got right; `p_value` is
    two-sided.
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar_exact(first: Sequence[bool], second: Sequence[bool]) -> PairedComparison:
    """Whether two systems differ on the same questions, from their question-by-question outcomes.

    Under the null hypothesis each discordant question falls to either system with probability 1/2. Without
    discordant questions p is 1.

    Raises:
        ValueError: the two sequences are not of the same length.
    """
    from scipy.stats import binomtest

    if len(first) != len(second):
        raise ValueError(f"paired outcomes must be of one length, got {len(first)} and {len(second)}")
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    discordant = only_first + only_second
    p_value = float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    return PairedComparison(only_first, only_second, p_value)


def paired_difference(
    first: Sequence[bool], second: Sequence[bool], seed: int = 0, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Accuracy of `second` less that of `first`, with a paired bootstrap interval (percentile, 9,999 draws).

    Questions are drawn, with both systems' outcomes on them, so what the systems share cancels. Where the
    systems never differ the interval is the single point 0.

    Raises:
        ValueError: the two sequences are not of one length, or empty.
    """
    import numpy as np
    from scipy.stats import bootstrap

    if len(first) != len(second) or not first:
        raise ValueError(
            f"paired outcomes must be of one length, 1 or more, got {len(first)} and {len(second)}"
        )
    gains = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    difference = float(gains.mean())
    if (gains == gains[0]).all():
        return difference, difference, difference
    drawn = bootstrap(
        (gains,),
        np.mean,
        confidence_level=confidence,
        method="percentile",
        batch=100,
        rng=np.random.default_rng(seed),
    )
    return difference, float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def percentile(values: Sequence[float], percent: float) -> float:
    """The `percent`-th percentile (0..100) of `values`, interpolated linearly.

    Raises:
        ValueError: no values, or a percentage outside 0..100.
    """
    if not values or not 0 <= percent <= 100:
        raise ValueError(f"a percentile needs values and 0..100 percent, got {len(values)} and {percent}")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def latency_summary(milliseconds: Sequence[float]) -> dict[str, float]:
    """`{"median", "p95", "n"}` of latencies in milliseconds; `n` is how many were measured.

    Raises:
        ValueError: no latencies.
    """
    return {
        "median": percentile(milliseconds, 50),
        "p95": percentile(milliseconds, 95),
        "n": len(milliseconds),
    }


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1), e.g. of one accuracy over seeds.

    The deviation of a single value is unknown, hence None.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("a mean needs at least one value")
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
