"""The scales at which the paper's tables are run. Data, no logic: a scale's name is part of every path.

A scale that is replaced leaves its results under its own name; those of two scales are never read together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Scale:
    """One scale. Results stand in results/NAME/, runs in runs/reproduce/NAME/.

    about: what it is, for lists. sets: what every run is measured on: first those that stand for the paper's,
    in their order, then others.
    problems: the generator of its problems, with options; None is of the paper's size, on the hub's data.
    splits: of a generated set, where it is called otherwise there. questions: generated for each set.
    tuning_seeds: seeds with which its settings were chosen; a table made with them is warned about.
    """

    name: str
    about: str
    sets: tuple[str, ...]
    problems: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    questions: int = 1000
    tuning_seeds: tuple[int, ...] = ()


PAPER_SETS = ("gsm8k", "svamp", "gsm-hard", "multiarith")

SCALES: dict[str, Scale] = {
    scale.name: scale
    for scale in (
        Scale(
            "small",
            "generated problems and a small pretrained base, CPU",
            ("in_domain", "reworded", "larger_numbers", "shorter_chains", "longer_chains"),
            problems="two-branches?shorter=20",
            splits={"in_domain": "test"},
            tuning_seeds=tuple(range(101, 111)),
        ),
        Scale("paper", "GPT-2 and LLaMA-1B on the hub's data", PAPER_SETS),
    )
}
