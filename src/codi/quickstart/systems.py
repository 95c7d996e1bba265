"""Which systems the quickstart compares, how each is trained, on which sets they are measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from codi.errors import UsageError
from codi.evaluation.benchmarks import TWO_BRANCHES

START = "codi-start"
METHODS = ("codi", "cot-sft", "no-cot-sft")
TITLES = {"codi": "CODI", "cot-sft": "CoT-SFT", "no-cot-sft": "No-CoT-SFT"}
BENCHMARKS: Mapping[str, str] = {
    "in_domain": "two-branches",
    "reworded": "two-branches-reworded",
    "larger_numbers": "two-branches-larger-numbers",
    "shorter_chains": "two-branches-shorter-chains",
    "longer_chains": "two-branches-longer-chains",
}
"""What a set is called in the results, and the benchmark that it is."""
SETS = tuple(BENCHMARKS)
SET_TITLES = {name: name.replace("_", " ") for name in SETS} | {"in_domain": "in domain"}
PROBLEMS = TWO_BRANCHES
UPDATES, START_UPDATES, EXAMPLES = 2000, 400, 2_500
"""Of every system in all, CODI's start included; those of the start; training problems."""
VALIDATION, BATCH = 300, 32
"""Validation problems, and the recipe's batch size: a shortened run makes only what it uses."""


@dataclass(frozen=True)
class Stage:
    """One training: a folder below the quickstart's, a recipe, its updates and the folder it starts from."""

    folder: str
    recipe: str
    updates: int
    start: str | None = None


def stages(method: str, updates: int | None) -> tuple[Stage, ...]:
    """How one system is trained, `updates` in all: CODI's teacher is good before it is distilled from.

    Raises UsageError below two updates, of which CODI's start takes one.
    """
    updates = UPDATES if updates is None else updates
    if updates < 2:
        raise UsageError(f"--steps must be at least 2 (one of CODI's start, one of its own), got {updates}.")
    if method != "codi":
        return (Stage(method, f"quickstart-{method}", updates),)
    first = max(1, updates * START_UPDATES // UPDATES)
    return (
        Stage(START, "quickstart-start", first),
        Stage("codi", "quickstart", updates - first, start=START),
    )
