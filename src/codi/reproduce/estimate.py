"""What a run would take: time from finished runs where there are any, memory from the sizes of its parts."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from codi.reproduce.plans import Plan
from codi.reproduce.sweep import read_result

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


def estimate(one: Plan, plans: Sequence[Plan]) -> Estimate:
    """Time and memory of a run."""
    if one.scale == "small":
        seconds = _seconds_per_step(one, plans)
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


def _seconds_per_step(one: Plan, plans: Sequence[Plan]) -> float | None:
    """Median over finished runs of the same method, else of any."""
    own, others = list[float](), list[float]()
    for other in plans:
        result, _ = read_result(other)
        if result is not None and result["steps"]:
            taken = result["train_seconds"] / result["steps"]
            same = result["configuration"]["method"]["name"] == one.configuration().method["name"]
            (own if same else others).append(taken)
    return statistics.median(own or others) if own or others else None
