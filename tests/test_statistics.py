"""Intervals, percentiles and the paired test against closed forms worked out here."""

from __future__ import annotations

import math

import pytest

from codi.evaluation.statistics import (
    accuracy_interval,
    latency_summary,
    mcnemar_exact,
    mean_std,
    paired_difference,
    percentile,
)


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (10, 10), (576, 1319), (1, 1), (90, 100)])
def test_interval_is_wilsons_formula(correct: int, n: int) -> None:
    z = 1.959963984540054
    p = correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert accuracy_interval(correct, n) == pytest.approx((centre - half, centre + half), abs=1e-9)


def test_interval_stays_inside_0_and_1_and_holds_the_accuracy() -> None:
    low, high = accuracy_interval(0, 20)
    assert low == 0.0
    assert high == pytest.approx(0.1611, abs=1e-4)
    low, high = accuracy_interval(20, 20)
    assert high == 1.0
    assert low == pytest.approx(0.8389, abs=1e-4)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_interval_refuses_impossible_counts(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match="accuracy needs"):
        accuracy_interval(correct, n)


def test_percentiles_interpolate() -> None:
    values = [float(value) for value in (4, 1, 3, 2)]
    assert percentile(values, 50) == 2.5
    assert percentile(values, 0) == 1.0
    assert percentile(values, 100) == 4.0
    assert percentile([7.0], 95) == 7.0
    hundred = [float(value) for value in range(101)]
    assert latency_summary(hundred) == {"median": 50.0, "p95": 95.0, "n": 101}
    with pytest.raises(ValueError, match="percentile"):
        percentile([], 50)


def test_mcnemar_counts_discordant_questions() -> None:
    first = [True] * 5 + [True] * 6 + [False]
    second = [True] * 5 + [False] * 6 + [True]
    result = mcnemar_exact(first, second)
    assert (result.only_first, result.only_second) == (6, 1)
    # Two-sided binomial(7, 1/2): 2 * (1 + 7) / 2**7.
    assert result.p_value == pytest.approx(16 / 128)
    assert mcnemar_exact(first, first).p_value == 1.0
    with pytest.raises(ValueError, match="one length"):
        mcnemar_exact([True], [])


def test_mean_and_sample_deviation() -> None:
    assert mean_std([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_std([5.0]) == (5.0, None)
    with pytest.raises(ValueError, match="at least one"):
        mean_std([])


def test_paired_difference_is_that_of_the_accuracies_with_the_normal_interval() -> None:
    first = [True] * 500 + [False] * 500
    second = [True] * 450 + [False] * 50 + [True] * 150 + [False] * 350
    difference, low, high = paired_difference(first, second)
    gains = [b - a for a, b in zip(first, second, strict=True)]
    half = 1.96 * math.sqrt(sum((g - 0.1) ** 2 for g in gains) / len(gains) / len(gains))
    assert difference == pytest.approx(0.1)
    assert (low, high) == pytest.approx((0.1 - half, 0.1 + half), abs=0.004)
    assert paired_difference(first, second) == (difference, low, high), "seeded"


def test_systems_that_never_differ_have_no_spread() -> None:
    assert paired_difference([True, False], [True, False]) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="one length"):
        paired_difference([True], [])
