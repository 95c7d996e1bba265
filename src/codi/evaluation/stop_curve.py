"""Accuracy against thoughts: a rule that ends the thinking, at many thresholds, beside fixed numbers.

learned    one point a threshold: mean thoughts, accuracy       what the rule saves
fixed      one point a number: so many for every question       what it must be better than
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codi.errors import UsageError
from codi.evaluation.runner import EvaluationResult, Questions, evaluate
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.codi_adaptive import CodiAdaptive

FIXED = "fixed"
THRESHOLDS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)


@dataclass(frozen=True)
class StopPoint:
    """One evaluation of the curve. at: the rule's threshold, or the fixed number of thoughts."""

    rule: str
    at: float
    result: EvaluationResult

    @property
    def thoughts(self) -> float:
        """Mean continuous thoughts of a question, <bot> and <eot> left out."""
        return self.result.thought_tokens - 2

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values; accuracy as a fraction."""
        return {"rule": self.rule, "at": self.at, "thoughts": self.thoughts, **self.result.as_dict()}


def stop_curve(
    reasoner: LatentReasoner,
    questions: Questions,
    rules: Sequence[str],
    thresholds: Sequence[float] = THRESHOLDS,
    **options: Any,
) -> list[StopPoint]:
    """Evaluate each rule at each threshold, and every fixed number of thoughts from 0 to the trained one.

    options: of `evaluate`; nothing is timed unless `latency_questions` says so. Raises UsageError for a rule
    that the model cannot end its thinking by or that names a threshold itself, a threshold outside 0 to 1, or
    a mode without thoughts, before anything is answered.
    """
    if not rules or not thresholds:
        raise UsageError("A curve needs a rule (learned, confident) and a threshold.")
    if options.get("mode") not in (None, "latent"):
        raise UsageError(f"A curve is of thoughts, and mode '{options['mode']}' has none. Leave it out.")
    for rule in rules:
        name, colon, number = rule.partition(":")
        if name == "never":
            raise UsageError(
                f"The rule '{rule}' ends no thinking, so no threshold moves it: all thoughts are the curve's "
                "last fixed number. Ask for learned or confident."
            )
        if colon:
            raise UsageError(
                f"The rule '{rule}' says one threshold itself, and a curve draws many. Write --rule {name} "
                f"--threshold {number or 0.5}."
            )
    options = {"latency_questions": 0, **options}
    ending = [
        (rule, threshold, reasoner.stopping(rule, threshold)) for rule in rules for threshold in thresholds
    ]
    always = reasoner.stopping("never")
    assert isinstance(always.method, CodiAdaptive)
    points = [
        StopPoint(FIXED, float(number), evaluate(always, questions, **{**options, "latents": number}))
        for number in range(always.method.latents + 1)
    ]
    for rule, threshold, one in ending:
        points.append(StopPoint(rule, threshold, evaluate(one, questions, **options)))
    return [replace(point, result=replace(point.result, predictions=())) for point in points]


def draw(points: Sequence[StopPoint], file: Path) -> None:
    """Accuracy (%) against mean thoughts, one line a rule. Raises UsageError where it cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axis = figure.subplots()
    for rule in dict.fromkeys(point.rule for point in points):
        line = sorted((one.thoughts, 100 * one.result.accuracy) for one in points if one.rule == rule)
        style = "--" if rule == FIXED else "-"
        axis.plot(*zip(*line, strict=True), style, marker="o", markersize=4, label=rule)
    axis.set_xlabel("mean continuous thoughts")
    axis.set_ylabel("accuracy (%)")
    axis.set_ylim(0, 104)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=150)
    except (OSError, ValueError) as error:
        raise UsageError(f"The figure could not be written to '{file}': {error}.") from error
