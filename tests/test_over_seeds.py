"""A difference over seeds: against the paired t test, and how often its interval holds the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_rel

from codi.evaluation.over_seeds import compare_over_seeds, holm, sign_test


def outcomes(*shares: float, questions: int = 100) -> list[list[bool]]:
    """For each seed: the first questions right, of these a share."""
    return [[place < round(share * questions) for place in range(questions)] for share in shares]


def trained(rng: np.random.Generator, means: np.ndarray, ease: np.ndarray) -> list[list[bool]]:
    """Seeds of some accuracies on questions of some ease."""
    chances = np.clip(means[:, None] + ease[None, :], 0, 1)
    return [list(map(bool, row)) for row in rng.random(chances.shape) < chances]


def test_where_questions_add_nothing_it_is_the_paired_t_test() -> None:
    first = [[False] * 50 for _ in range(4)]
    second = [[place < wins for place in range(50)] for wins in (0, 50, 50, 50)]  # whole seeds, all or none
    found = compare_over_seeds(first, second)
    expected = ttest_rel([0.0, 1.0, 1.0, 1.0], [0.0] * 4)
    low, high = expected.confidence_interval()
    assert found.difference == pytest.approx(0.75)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.ci95 == pytest.approx((low, min(high, 1.0)))


def test_questions_that_all_seeds_lose_widen_it() -> None:
    """The same gains in every seed: no training differs, but other questions would have."""
    first = [[False] * 40 for _ in range(3)]
    second = [[place < 10 for place in range(40)] for _ in range(3)]
    found = compare_over_seeds(first, second)
    error = (0.25 * 0.75 / 39) ** 0.5  # of a share of 40 questions
    assert found.ci95 is not None
    assert found.ci95[1] - found.difference == pytest.approx(4.3026527 * error)  # Student's t, 2 degrees


def test_seeds_that_gain_the_same_by_chance_are_no_certainty() -> None:
    """Other questions are lost in each, but as many: the accuracies differ by the same."""
    first = [[True] * 100 for _ in range(2)]
    second = [[place not in lost for place in range(100)] for lost in (range(2), range(50, 52))]
    found = compare_over_seeds(first, second)
    assert found.difference == pytest.approx(-0.02)
    assert found.verdict == "undecided"
    assert found.p is not None
    assert found.p > 0.05


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_holds_the_truth_as_often_as_it_says(seeds: int) -> None:
    """Trainings scatter by 6 points; the truth is 5. Questions of all seeds together would be too sure."""
    rng, held, together, trials = np.random.default_rng(seeds), 0, 0, 300
    for _ in range(trials):
        ease = rng.normal(0, 0.1, 500)
        first = trained(rng, rng.normal(0.5, 0.06, seeds), ease)
        second = trained(rng, rng.normal(0.55, 0.06, seeds), ease)
        found = compare_over_seeds(first, second)
        assert found.ci95 is not None
        held += found.ci95[0] <= 0.05 <= found.ci95[1]
        gains = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
        together += abs(gains.mean() - 0.05) <= 1.96 * gains.std() / gains.size**0.5
    assert 0.93 <= held / trials <= 0.99
    assert together / trials < 0.75


def test_one_seed_decides_nothing_and_agreeing_seeds_do() -> None:
    one = compare_over_seeds(outcomes(0.1), outcomes(0.9))
    assert (one.ci95, one.p, one.verdict) == (None, None, "undecided")
    assert one.difference == pytest.approx(0.8)
    apart = compare_over_seeds(outcomes(0.1, 0.2, 0.1), outcomes(0.9, 0.8, 0.85))
    assert apart.verdict == "above"
    assert compare_over_seeds(outcomes(0.9, 0.8, 0.85), outcomes(0.1, 0.2, 0.1)).verdict == "below"
    mixed = compare_over_seeds(outcomes(0.5, 0.5, 0.5), outcomes(0.9, 0.4, 0.5))
    assert (mixed.verdict, mixed.above, mixed.below) == ("undecided", 1, 1)
    same = compare_over_seeds(outcomes(0.5, 0.6), outcomes(0.5, 0.6))
    assert (same.difference, same.ci95, same.p, same.verdict) == (0.0, (0.0, 0.0), 1.0, "undecided")


def test_the_sign_over_seeds_and_how_small_it_can_get() -> None:
    assert sign_test(5, 0) == pytest.approx(2 / 2**5)
    assert sign_test(4, 1) == pytest.approx(2 * (1 + 5) / 2**5)
    assert sign_test(0, 0) == 1.0
    found = compare_over_seeds(outcomes(0.1, 0.2, 0.5), outcomes(0.2, 0.3, 0.4))
    assert (found.sign_p, found.least_sign_p) == (1.0, pytest.approx(0.25))


def test_holm() -> None:
    # 0.01 * 4, 0.02 * 3, then never below one before: 0.03 * 2 and 0.05 * 1.
    assert holm([0.03, 0.01, 0.05, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_what_is_not_paired_is_refused() -> None:
    with pytest.raises(ValueError, match="paired seeds must be as many"):
        compare_over_seeds(outcomes(0.5), outcomes(0.5, 0.5))
    with pytest.raises(ValueError, match="same questions"):
        compare_over_seeds([[True], [True, False]], [[True], [True, False]])
    with pytest.raises(ValueError, match="same questions"):
        compare_over_seeds([[]], [[]])
