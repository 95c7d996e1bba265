"""The runs of the paper's tables as plans: which there are, their settings, on which others each stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from codi.data.generators import GENERATORS
from codi.errors import UsageError, nearest
from codi.modeling.pretrained import base_digest
from codi.reproduce.same_settings import comparable
from codi.reproduce.scales import SCALES, Scale
from codi.reproduce.table_names import tables_named
from codi.reproduce.tables import VARIANTS, Table, Variant
from codi.training.recipes import RunConfig, load_recipe


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
        return self.at.problems is not None

    @property
    def recipe(self) -> str:
        """The recipe that it is of."""
        return self.variant.small_recipe if self.generated else self.variant.recipe

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
        names = dict.fromkeys(name for name in (self.start, self.teacher) if name)
        return tuple(replace(self, variant=VARIANTS[name]) for name in names)

    @property
    def start(self) -> str | None:
        """The variant whose checkpoint it starts from, if any."""
        if self.variant.from_teacher:
            return self.teacher
        if not self.generated:
            return None
        return self.variant.start or _named_by(self.recipe)[0]

    @property
    def teacher(self) -> str | None:
        """The variant that is its static teacher, if any."""
        return _named_by(self.recipe)[1] if self.generated else self.variant.teacher

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the sets it is measured on."""
        return self.at.sets

    def source(self, name: str) -> tuple[str, str]:
        """Where a generated set's questions come from: source and split."""
        count = self.questions or self.at.questions
        return f"{self.problems}&count={count}", self.at.splits.get(name, name)

    @property
    def problems(self) -> str | None:
        """The generator, with its version and options; None of the hub's data."""
        if self.at.problems is None:
            return None
        name, _, options = self.at.problems.partition("?")
        return "&".join([f"{name}?version={GENERATORS[name].version}", *([options] if options else [])])

    def configuration(self) -> RunConfig:
        """The run's whole configuration. Raises RecipeError."""
        return _configuration(self)

    def updates(self) -> int:
        """How many updates it takes at small scale, those of its start included."""
        start = replace(self, variant=VARIANTS[self.start]).updates() if self.start else 0
        return start + int(self.configuration().training["max_steps"])


@cache
def _named_by(recipe: str) -> tuple[str | None, str | None]:
    """The variants that a recipe of the small scale starts from, and has for its teacher."""
    config = load_recipe(recipe)
    named = (config.start, config.method.get("teacher"))
    return _of_recipe(named[0]), _of_recipe(named[1])


def _of_recipe(checkpoint: str | None) -> str | None:
    """The variant that trains the recipe which a checkpoint's folder is named after: `runs/small-start`."""
    if not checkpoint:
        return None
    recipe = Path(checkpoint).name
    for variant in VARIANTS.values():
        if variant.small_recipe == recipe and not variant.overrides + variant.small:
            return variant.name
    raise UsageError(f"A recipe of the small scale names '{checkpoint}', which no variant trains.")


@cache
def _configuration(one: Plan) -> RunConfig:
    """The variant's configuration with the plan's seed: to read and check one takes most of a list's time."""
    shared = _of_any_seed(replace(one, seed=0))
    folder, method = one.runs / one.scale, dict(shared.method)
    if one.teacher:
        method["teacher"] = str(folder / one.teacher / f"seed-{one.seed}")
    start = str(folder / one.start / f"seed-{one.seed}") if one.start else shared.start
    training = shared.training | {"seed": one.seed}
    return replace(shared, start=start, method=method, training=training)


@cache
def _of_any_seed(one: Plan) -> RunConfig:
    variant = one.variant
    overrides = [*variant.overrides, *(variant.small if one.generated else variant.paper)]
    if one.teacher:
        overrides.append(f"method.teacher={one.teacher}")
    config = load_recipe(one.recipe, overrides)
    training = {**config.training, "disable_tqdm": True}  # the bars of side_by_side.py speak for all
    data, method = config.data, config.method
    if one.generated:
        training["max_steps"] = round(training["max_steps"] * variant.updates_factor)
    if one.steps is not None:
        method = _shortened(method, one.steps / int(training.get("max_steps") or one.steps))
        training |= {"max_steps": one.steps, "eval_steps": max(1, one.steps // 2)}
    if one.questions is not None:
        data = replace(data, validation_limit=one.questions)
    return replace(config, data=data, method=method, training=training)


def _shortened(method: dict[str, Any], share: float) -> dict[str, Any]:
    """A curriculum whose stages are shortened as the run is."""
    epochs = {key: method[key] * share for key in ("explicit_epochs", "epochs_per_stage") if key in method}
    rates = {key: method[key] / share for key in ("remove_per_epoch",) if key in method}
    return method | epochs | rates


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
        by_row = {name: seeds or seeds_of(table, name, scale) for name in table.rows}
        for seed in dict.fromkeys(seed for its in by_row.values() for seed in its):
            for name, its in by_row.items():  # seed by seed: a sweep that was cut off has whole ones
                if seed in its:
                    add(VARIANTS[name], seed)
    return list(found.values())


def seeds_of(table: Table, variant: str, scale: str) -> Sequence[int]:
    """The seeds of a row. The baseline of Table A6 has five, for its rule of two standard deviations."""
    if (table.name, variant) == ("a6", "prompt-1"):
        return (1, 2, 3, 4, 5)
    return table.seeds if SCALES[scale].problems else table.paper_seeds


def stands_on(one: Plan) -> dict[str, Any]:
    """What else decides a run than its settings, JSON-ready.

    base: of a base that was pretrained here, the SHA-256 of its weights; problems: the generator and its
    version; runs: of each that it needs, by name, its settings, and what it stands on itself.
    """
    return {
        "base": base_digest(one.configuration().model.base),
        "problems": one.problems,
        "runs": {
            need.name: {
                "configuration": comparable(need.configuration().as_dict()),
                "stands_on": stands_on(need),
            }
            for need in one.needs
        },
    }


def tuning_warning(plans: Sequence[Plan]) -> str | None:
    """What to say where runs have seeds with which their scale's settings were chosen."""
    seeds = sorted({one.seed for one in plans if one.seed in one.at.tuning_seeds})
    if not seeds:
        return None
    scale, used = plans[0].at, ", ".join(map(str, seeds))
    return (
        f"The settings of the {scale.name} scale were chosen with seeds "
        f"{scale.tuning_seeds[0]} to {scale.tuning_seeds[-1]}, and {used} would be run: such results flatter "
        "what was tuned. Name other seeds with --seed."
    )
