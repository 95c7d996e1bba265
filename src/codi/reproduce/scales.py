"""The scales at which the paper's tables are run. Data, no logic: a scale's name is part of every path.

A scale that is replaced leaves its results under its own name; those of two scales are never read together.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """One scale. Results stand in results/NAME/, runs in runs/reproduce/NAME/.

    about: what it is, for lists. sets: what every run is measured on, in the order of the paper's sets.
    recipe: the one from which every variant starts; None takes each variant's own, of the paper's size.
    tuning_seeds: seeds with which its settings were chosen; a table made with them is warned about.
    """

    name: str
    about: str
    sets: tuple[str, ...]
    recipe: str | None = None
    tuning_seeds: tuple[int, ...] = ()


PAPER_SETS = ("gsm8k", "svamp", "gsm-hard", "multiarith")

SCALES: dict[str, Scale] = {
    scale.name: scale
    for scale in (
        Scale(
            "small",
            "generated problems, CPU",
            ("in_domain", "reworded", "larger_numbers", "longer_chains"),
            recipe="word-problems-small",
        ),
        Scale("paper", "GPT-2 and LLaMA-1B on the hub's data", PAPER_SETS),
    )
}
