"""The runs of the paper's tables as plans: which there are, their settings, on which others each stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from codi.errors import UsageError, nearest
from codi.reproduce.same_settings import comparable
from codi.reproduce.scales import SCALES, Scale
from codi.reproduce.table_names import tables_named
from codi.reproduce.tables import VARIANTS, Table, Variant
from codi.training.recipes import RunConfig, build_run_config, load_recipe


@dataclass(frozen=True)
class Plan:
    """One run to make: a variant with a seed at a scale, by its name.

    steps, questions: shorten it (tests); None is the whole.
    """

    variant: Variant
    seed: int
    scale: str
    results: Path
    runs: Path
    steps: int | None = None
    questions: int | None = None

    @property
    def name(self) -> str:
        """`codi/seed-1`."""
        return f"{self.variant.name}/seed-{self.seed}"

    @property
    def at(self) -> Scale:
        """The scale."""
        return SCALES[self.scale]

    @property
    def generated(self) -> bool:
        """Whether it is of generated problems, or else of the paper's size."""
        return self.at.recipe is not None

    @property
    def result_file(self) -> Path:
        """Where the result goes."""
        return self.results / self.scale / f"{self.name}.json"

    @property
    def checkpoint(self) -> Path:
        """Where the run trains."""
        return self.runs / self.scale / self.name

    @property
    def needs(self) -> tuple[Plan, ...]:
        """The runs whose checkpoints it starts from or learns from."""
        return tuple(
            replace(self, variant=VARIANTS[name]) for name in (self.start, self.variant.teacher) if name
        )

    @property
    def start(self) -> str | None:
        """The variant whose checkpoint it starts from, if any."""
        return self.variant.start if self.generated else None

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the sets it is measured on."""
        return self.at.sets

    def configuration(self) -> RunConfig:
        """The run's whole configuration. Raises RecipeError."""
        return _configuration(self)


@cache
def _configuration(one: Plan) -> RunConfig:
    variant, folder = one.variant, one.runs / one.scale
    overrides = [*variant.overrides, *(variant.small if one.generated else variant.paper)]
    overrides.append(f"training.seed={one.seed}")
    if one.start:
        overrides.append(f"start={folder / one.start / f'seed-{one.seed}'}")
    if variant.teacher:
        overrides.append(f"method.teacher={folder / variant.teacher / f'seed-{one.seed}'}")
    config = load_recipe(one.at.recipe or variant.recipe, overrides)
    training = {**config.training, "disable_tqdm": True}  # the bars of side_by_side.py speak for all
    if one.steps is not None:
        training |= {"max_steps": one.steps, "eval_steps": max(1, one.steps // 2)}
    elif one.generated:
        training["max_steps"] = round(training["max_steps"] * variant.steps_factor)
    values = config.as_dict() | {"training": training}
    if one.questions is not None:
        values["data"]["validation_limit"] = one.questions
    return build_run_config(values, one.name)


def plan(
    names: Sequence[str],
    scale: str,
    results: Path,
    runs: Path,
    *,
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
    questions: int | None = None,
) -> list[Plan]:
    """The runs that some tables need, each once, those that others stand on first.

    seeds: in place of each table's own. Raises UsageError on an unknown table or scale.
    """
    if scale not in SCALES:
        raise UsageError(f"There is no scale '{scale}'.{nearest(scale, SCALES)} Scales: {', '.join(SCALES)}.")
    found: dict[str, Plan] = {}

    def add(variant: Variant, seed: int) -> None:
        one = Plan(variant, seed, scale, results, runs, steps, questions)
        for other in one.needs:
            add(other.variant, seed)
        found.setdefault(one.name, one)

    for table in tables_named(names):
        for name in table.rows:
            for seed in seeds or seeds_of(table, name):
                add(VARIANTS[name], seed)
    return list(found.values())


def seeds_of(table: Table, variant: str) -> tuple[int, ...]:
    """The seeds of a row. The baseline of Table A6 has five, for its rule of two standard deviations."""
    return (1, 2, 3, 4, 5) if (table.name, variant) == ("a6", "prompt-1") else table.seeds


def stands_on(one: Plan) -> dict[str, Any]:
    """Of each run that this one needs, by name: its settings, and what it stands on itself."""
    return {
        need.name: {
            "configuration": comparable(need.configuration().as_dict()),
            "stands_on": stands_on(need),
        }
        for need in one.needs
    }


def tuning_warning(plans: Sequence[Plan]) -> str | None:
    """What to say where runs have seeds with which their scale's settings were chosen."""
    seeds = sorted({one.seed for one in plans if one.seed in one.at.tuning_seeds})
    if not seeds:
        return None
    scale, used = plans[0].at, ", ".join(map(str, seeds))
    return (
        f"The settings of the {scale.name} scale were chosen with seeds "
        f"{', '.join(map(str, scale.tuning_seeds))}, and {used} would be run: such results flatter what was "
        "tuned. Name other seeds with --seed."
    )
