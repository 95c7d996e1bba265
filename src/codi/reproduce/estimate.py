"""What a run would take: time from finished runs where there are any, memory from the sizes of its parts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from codi.reproduce.plans import Plan

PAPER_HOURS = {"gpt2-gsm8k-aug": (36.0, 40.0), "llama1b-gsm8k-aug": (48.0, 10.0)}
"""Hours and epochs of CODI's runs on one A100 80 GB (paper, Appendix A)."""
WEIGHTS = {"gpt2": 124e6, "llama1b": 1236e6}
"""Weights of the two bases."""
LORA_WEIGHTS = {"gpt2": 20e6, "llama1b": 98e6}
"""Trained weights with LoRA r 128 and the projection, rounded up."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """minutes: None where nothing is known."""

    minutes: float | None
    time: str
    memory: str


def seconds_per_step(results: Iterable[dict[str, Any]]) -> dict[str, list[float]]:
    """What a step took in each finished run, by method."""
    taken: dict[str, list[float]] = {}
    for result in results:
        if result["steps"]:
            seconds = result["train_seconds"] / result["steps"]
            taken.setdefault(result["configuration"]["method"]["name"], []).append(seconds)
    return taken


def estimate(one: Plan, taken: Mapping[str, list[float]]) -> Estimate:
    """Time and memory of a run. taken: what steps took; where none is of its method, all count."""
    if one.generated:
        method = one.configuration().method["name"]
        known = taken.get(method) or [seconds for others in taken.values() for seconds in others]
        seconds = statistics.median(known) if known else None
        steps = int(one.configuration().training["max_steps"])
        minutes = None if seconds is None else steps * seconds / 60
        shown = "unknown until one like it is finished" if minutes is None else f"{minutes:.1f} min"
        return Estimate(minutes, shown, "below 1 GiB")
    size = "llama1b" if one.variant.recipe.startswith("llama1b") else "gpt2"
    hours, epochs = PAPER_HOURS["llama1b-gsm8k-aug" if size == "llama1b" else "gpt2-gsm8k-aug"]
    config = one.configuration()
    trained = LORA_WEIGHTS[size] if config.model.lora else WEIGHTS[size]
    gib = (WEIGHTS[size] * 4 + trained * 12) / 2**30  # weights, then gradient and AdamW's two moments
    memory = f"{gib:.1f} GiB and activations"
    if config.method["name"] != "codi":
        return Estimate(None, "unknown: the paper gives none", memory)
    planned = hours * float(config.training["num_train_epochs"]) / epochs
    return Estimate(60 * planned, f"{planned:.0f} h on an A100 (paper)", memory)
