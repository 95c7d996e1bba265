"""A run's validation curve: whether it had come to its plateau, and which checkpoint was kept."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

Curve = list[dict[str, float]]
"""Accuracy (fraction) after so many updates, with the losses of that update where they were logged."""
PLATEAU = 0.01
"""A run has converged when the last fifth of its updates gained less than this on validation."""
_NOT_TERMS = {"eval_accuracy", "epoch", "learning_rate", "grad_norm", "eval_runtime"}


def validation_curve(history: Iterable[dict[str, Any]]) -> Curve:
    """The points of a Trainer's history at which validation was asked.

    Only what can be drawn is kept: update, accuracy, and the losses by name.
    """
    points: dict[int, dict[str, float]] = {}
    terms: dict[int, dict[str, float]] = {}
    for entry in history:
        step = int(entry["step"])
        if "eval_accuracy" in entry:
            points[step] = {"step": step, "accuracy": float(entry["eval_accuracy"])}
        elif "loss" in entry:
            terms[step] = {name: float(value) for name, value in entry.items() if name not in _NOT_TERMS}
    return [terms.get(step, {}) | point for step, point in sorted(points.items())]


def last_gain(curve: Sequence[dict[str, float]]) -> float | None:
    """What the last fifth of the updates gained on validation (fraction), between measurements on a line.

    None where validation was asked less than twice.
    """
    if len(curve) < 2:
        return None
    end = curve[-1]
    at = 0.8 * end["step"]
    before = [point for point in curve if point["step"] <= at] or [curve[0]]
    after = next(point for point in curve if point["step"] > before[-1]["step"])
    width = after["step"] - before[-1]["step"]
    share = max(0.0, at - before[-1]["step"]) / width
    start = before[-1]["accuracy"] + share * (after["accuracy"] - before[-1]["accuracy"])
    return end["accuracy"] - start


def converged(result: dict[str, Any]) -> bool | None:
    """Whether a result's run had come to its plateau; None where its curve does not say."""
    gain = result.get("last_gain")
    return None if gain is None else gain < PLATEAU


def kept_update(result: dict[str, Any]) -> int | None:
    """The update whose weights a result's run kept: best on validation, of equals the first.

    A curriculum's are chosen among its last stage's. None where validation was not asked in it.
    """
    began = _last_stage_began(result)
    asked = [point for point in result.get("validation", []) if point["step"] > began]
    return int(max(asked, key=lambda point: point["accuracy"])["step"]) if asked else None


def _last_stage_began(result: dict[str, Any]) -> int:
    """The updates that were done when the curriculum's last stage began; 0 without one."""
    from codi.methods.method import Method, build_method
    from codi.training.curriculum import Clock, stage_began

    method, training = build_method(result["configuration"]["method"]), result["configuration"]["training"]
    if type(method).stage_at is Method.stage_at:
        return 0
    accumulated = int(training.get("gradient_accumulation_steps", 1))
    if int(training.get("max_steps", -1)) > 0:
        data = result["configuration"]["data"]
        rows = _training_rows(data["train"], data["train_split"])
        micro_batches = -(-rows // int(training["per_device_train_batch_size"]))
    else:
        micro_batches = round(result["steps"] / float(training["num_train_epochs"])) * accumulated
    return stage_began(method, Clock(max(1, micro_batches), accumulated), result["steps"])


@cache
def _training_rows(source: str, split: str) -> int:
    from codi.data.sources import load_examples

    return len(load_examples(source, split=split)[0])


def start_of(result: dict[str, Any]) -> tuple[str | None, int]:
    """The variant that a result's run started from, if any, and the updates which that one had taken."""
    start = result["configuration"].get("start")
    if not start:
        return None, 0
    settings = result["stands_on"]["runs"][start]["configuration"]
    return start.partition("/")[0], int(settings["training"]["max_steps"])


def mean_curve(curves: Iterable[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean of several curves (x, y), at the places that all of them have."""
    by_place = [dict(points) for points in curves if points]
    places = sorted(set.intersection(*map(set, by_place))) if by_place else []
    return [(x, statistics.fmean(points[x] for points in by_place)) for x in places]
