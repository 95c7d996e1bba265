"""Validation curves: what is kept of a history, when a run has converged, what is drawn."""

from __future__ import annotations

from typing import Any

import pytest

from codi.reproduce.curves import converged, last_gain, mean_curve, start_of, validation_curve


def points(*accuracies: float, every: int = 200) -> list[dict[str, float]]:
    return [{"step": every * (i + 1), "accuracy": accuracy} for i, accuracy in enumerate(accuracies)]


def test_of_a_history_the_points_of_validation_are_kept() -> None:
    history: list[dict[str, Any]] = [
        {"step": 10, "loss": 3.0, "distillation": 0.5, "grad_norm": 1.0, "learning_rate": 1e-3, "epoch": 0.1},
        {"step": 20, "loss": 2.0, "distillation": 0.4, "grad_norm": 1.0, "learning_rate": 1e-3, "epoch": 0.2},
        {"step": 20, "eval_accuracy": 0.25, "epoch": 0.2},
        {"step": 25, "eval_accuracy": 0.5, "epoch": 0.3},
        {"step": 25, "train_runtime": 3.0, "train_loss": 2.5},
    ]
    assert validation_curve(history) == [
        {"step": 20, "accuracy": 0.25, "loss": 2.0, "distillation": 0.4},
        {"step": 25, "accuracy": 0.5},
    ]


@pytest.mark.parametrize(
    ("curve", "gain"),
    [
        (points(0.1, 0.5, 0.9, 0.95, 0.955), 0.005),  # four fifths are the fourth point
        (points(0.1, 0.5, 0.6, 0.7, 0.8), 0.1),
        (points(0.2, 0.4), 0.08),  # on the line between them, at 320 of 400
        (points(*[0.5] * 6, 0.57), 0.07),  # at 1,120 of 1,400: on the flat before
        (points(0.5, 0.4), -0.04),
    ],
)
def test_the_last_fifth(curve: list[dict[str, float]], gain: float) -> None:
    assert last_gain(curve) == pytest.approx(gain)
    assert converged({"last_gain": last_gain(curve)}) == (gain < 0.01)


def test_a_curve_of_one_point_says_nothing() -> None:
    assert last_gain(points(0.5)) is None
    assert last_gain([]) is None
    assert converged({"last_gain": None}) is None
    assert converged({}) is None


def test_the_mean_is_of_places_that_all_seeds_have() -> None:
    curves = [[(1.0, 10.0), (2.0, 20.0)], [(1.0, 30.0)], []]
    assert mean_curve(curves) == [(1.0, 20.0)]
    assert mean_curve([]) == []


def test_a_curve_begins_after_its_start() -> None:
    cold: dict[str, Any] = {"configuration": {"start": None}, "stands_on": {"runs": {}}}
    assert start_of(cold) == (None, 0)
    settings = {"training": {"max_steps": 400}}
    warm: dict[str, Any] = {
        "configuration": {"start": "cot-sft-start/seed-3"},
        "stands_on": {"runs": {"cot-sft-start/seed-3": {"configuration": settings}}},
    }
    assert start_of(warm) == ("cot-sft-start", 400)
